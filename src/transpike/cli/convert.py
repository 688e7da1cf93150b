"""``transpike convert``."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transpike.cli.main import app
from transpike.cli.options import (
    CalibrationImages,
    Corrections,
    DataName,
    Factory,
    InputShape,
    Leaf,
    Leave,
    MethodName,
    Model,
    NeuronName,
    Options,
    Output,
    Pooling,
    Potential,
    ProbeSteps,
    Root,
    Seed,
    Threshold,
    Weights,
    named,
)
from transpike.cli.output import note, noting_warnings, say
from transpike.conversion.config import TABLES
from transpike.graph.operators import MaxPooling

if TYPE_CHECKING:
    from transpike.network.spiking import SpikingNetwork
    from transpike.rules import Conversion

_DIGITS = 5
"""For thresholds while lags are searched."""


@app.command()
def convert(
    model: Model,
    output: Output,
    method: MethodName = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with a method or with parts.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-T", help="T that the parts are made for; most methods need it.")
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Of --method digits: lags, base and T for an answer after so many pipeline steps."),
    ] = None,
    threshold: Threshold = None,
    per: Annotated[str | None, named("--per", ("layer", "channel"), "Of --threshold: one per (default: layer)")] = None,
    percentile: Annotated[float | None, typer.Option(help="Of --threshold percentile (default: 99.9).")] = None,
    potential: Potential = None,
    correction: Corrections = None,
    neuron: NeuronName = None,
    schedule: Annotated[
        str | None, named("--schedule", TABLES["schedule"], "How the network will run (default: plain)")
    ] = None,
    probe_steps: ProbeSteps = None,
    quantise: Annotated[
        str | None,
        typer.Option(
            metavar="BITS[:setting=value]",
            help="Put all numbers on grids, weights to so many bits, so that events are equal on every machine.",
        ),
    ] = None,
    dataset: DataName = None,
    data: Root = None,
    calibration_images: CalibrationImages = 512,
    input_shape: InputShape = None,
    leave: Leave = None,
    leaf: Leaf = None,
    max_pooling: Pooling = MaxPooling.RUNNING,
    weights: Weights = None,
    option: Options = None,
    seed: Seed = 0,
    factory: Factory = None,
) -> None:
    """Convert a trained network and write it to a file: by a method, a TOML file, or parts.

    Without any of these, trained thresholds are taken, and plain ReLU gets the 99.9 percentile per channel. A part is
    NAME or NAME:setting=value, for example spike-norm:fraction=0.8.

    A TOML file for --config:

    ```toml
    steps = 8  # the default of every part that takes steps, and of probe_steps
    threshold = "minimum-mse:per=channel"
    potential = "half"
    corrections = ["bias"]
    neuron = "if"
    schedule = "accumulate"
    quantise = 8  # bits of a weight
    ```

    Examples:
    * `transpike convert slip.safetensors -o snn.safetensors`
    * `transpike convert relu.safetensors --method accumulate --steps 4 -o snn.safetensors`
    * `transpike convert relu.safetensors --method digits --budget 12 -o snn.safetensors`
    * `transpike convert relu.safetensors --threshold minimum-mse --correction bias --steps 8 -o snn.safetensors`
    * `transpike convert relu.safetensors --method accumulate --steps 4 --quantise 8 -o snn.safetensors`
    * `transpike convert cifar-resnet20 --weights w.pt --dataset cifar10 --schedule cos -o snn.safetensors`
    * `transpike convert mymodel.py:Net --weights w.pt --dataset folder --data DIR -o snn.safetensors`
    """
    from transpike.cli.find_model import find_model
    from transpike.cli.words import read_conversion_words
    from transpike.cli.work import calibration_batches, check_classes, check_output, open_data, search_schedule
    from transpike.conversion.convert import convert as convert_model
    from transpike.conversion.methods import digit_conversion
    from transpike.errors import CalibrationError, ConfigError, DataError
    from transpike.rules import BlockCorrection
    from transpike.schedules import SignedDigits
    from transpike.serialization.model_info import model_info
    from transpike.storage import checkpoint

    if budget is not None and method != "digits":
        raise ConfigError("--budget searches lags of digits", fix="use it with --method digits, or leave it out")
    if budget is not None and steps is not None:
        raise ConfigError("--budget finds T, too", where=f"--steps {steps}", fix="leave --steps or --budget out")
    conversion = read_conversion_words(
        method=method,
        config=config,
        steps=steps if budget is None else _DIGITS,
        threshold=threshold,
        per=per,
        percentile=percentile,
        potential=potential,
        corrections=correction,
        neuron=neuron,
        schedule=schedule,
        probe_steps=probe_steps,
        seed=seed,
        quantise=quantise,
    )
    check_output(output, model, config, weights, factory)
    found = find_model(model, option=option, factory=factory, weights=weights, input_shape=input_shape)
    batches: list[Any] | None = None
    absent: DataError | None = None
    try:
        name, images = open_data(found.inputs, dataset, data, seed=seed)
    except DataError as error:
        asked = dataset is not None or data is not None
        if asked or budget is not None or conversion.quantise is not None or found.inputs is None:
            raise
        absent, inputs, checked = error, found.inputs, found.example()
    else:
        batches = calibration_batches(images, calibration_images, seed)
        inputs, checked = images.inputs, found.try_on(batches[0][0][:16])
        try:
            check_classes(found.network, images, name)
        except DataError as problem:  # calibration needs no labels
            note(f"{problem.what}: enough to calibrate, but not to evaluate")
    if found.fresh:
        note(f"{model} has random weights; trained ones come by --weights FILE")

    def made(conversion: Conversion) -> SpikingNetwork:
        with noting_warnings():
            return convert_model(
                found.network,
                conversion,
                example_inputs=checked[:4],
                calibration=batches,
                leave=leave or (),
                leaf_modules=leaf or (),
                max_pooling=max_pooling,
                progress=True,
            )

    try:
        snn = made(conversion if budget is None else replace(conversion, quantise=None))
    except CalibrationError:
        if absent is None:
            raise
        raise absent from None  # the images are needed
    if absent is not None:
        note(f"{absent.what}: converted without images, and checked on random numbers")
    if budget is not None:
        lags = search_schedule(snn, images, budget, "digits")
        if not isinstance(lags.schedule, SignedDigits):
            raise ConfigError(
                f"on training images no lags of digits answer better than plain neurons after {budget} pipeline steps",
                fix="give a larger --budget, or convert by another method",
            )
        steps, conversion = lags.steps, replace(digit_conversion(lags.schedule), quantise=conversion.quantise)
        snn = made(conversion)
    changed = any(isinstance(part, BlockCorrection) for part in conversion.corrections)
    other = changed or conversion.quantise is not None or max_pooling is MaxPooling.AVERAGE
    snn.verify(checked, ann=None if other else found.network.eval())
    checkpoint.save(snn, output, inputs=inputs)
    say(snn.summary())
    say(f"conversion: {snn.conversion}")
    say(f"written: {output}")
    following = ["transpike", "evaluate", str(output)]
    following += [] if steps is None else ["--steps", str(steps)]
    following += [] if data is None else ["--data", str(data)]
    home = factory or (model if ":" in model else None)
    if home is not None and model_info(snn.network).source is None:
        following += ["--model", home]
    say(f"next: {shlex.join(following)}")
