"""``transpike choose``."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import (
    CalibrationImages,
    DataName,
    Factory,
    InputShape,
    Leaf,
    Leave,
    Methods,
    Model,
    Options,
    Output,
    Pooling,
    Root,
    Seed,
    Weights,
)
from transpike.cli.output import note, out, say
from transpike.graph.operators import MaxPooling
from transpike.selection.choose import LatencyKind


@app.command()
def choose(
    model: Model,
    output: Output,
    budget: Annotated[int, typer.Option(help="Steps that the answer may take.")] = 8,
    latency: Annotated[
        LatencyKind, typer.Option(help="Which steps the budget counts: T, or from the first input to the answer.")
    ] = LatencyKind.ANSWER,
    methods: Methods = "all",
    any_events: Annotated[
        bool, typer.Option("--any-events", help="Also neurons that send -1, or several spikes per step.")
    ] = False,
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
    """Try the methods on training images, and write the network that answers most like the ANN within a budget.

    Examples:
    * `transpike choose relu.safetensors --budget 8 -o snn.safetensors`
    * `transpike choose relu.safetensors --budget 40 --latency pipeline --methods opi,cos,accumulate -o snn.safetensors`
    """
    from transpike.cli.find_model import find_model
    from transpike.cli.work import calibration_batches, check_output, open_data
    from transpike.conversion.methods import find_methods
    from transpike.neurons import EventKind
    from transpike.report import choice_table
    from transpike.selection.choose import choose as choose_network
    from transpike.storage import checkpoint

    wanted = find_methods(methods)
    check_output(output, model, weights, factory)
    found = find_model(model, option=option, factory=factory, weights=weights, input_shape=input_shape)
    _, images = open_data(found.inputs, dataset, data, seed=seed)
    batches = calibration_batches(images, calibration_images, seed)
    if found.fresh:
        note(f"{model} has random weights; trained ones come by --weights FILE")
    choice = choose_network(
        found.network,
        calibration=batches,
        budget=budget,
        example_inputs=found.try_on(batches[0][0][:4]),
        latency=latency,
        methods=wanted,
        events=tuple(EventKind) if any_events else (EventKind.BINARY,),
        seed=seed,
        leave=leave or (),
        leaf_modules=leaf or (),
        max_pooling=max_pooling,
        progress=True,
    )
    checkpoint.save(choice.network, output, inputs=images.inputs)
    out.print(choice_table(choice))
    say(f"chosen: {choice.ranking[0].method}, for T = {choice.steps}")
    say(f"conversion: {choice.network.conversion}")
    say(f"written: {output}")
