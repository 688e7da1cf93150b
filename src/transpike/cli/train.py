"""``transpike train``."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.activations import ACTIVATIONS, Gradient
from transpike.cli.main import app
from transpike.cli.options import (
    Compile,
    DataName,
    Device,
    DeviceName,
    Factory,
    Model,
    Options,
    Output,
    Root,
    Weights,
    named,
)
from transpike.cli.output import out, say
from transpike.data import Preparation
from transpike.training.optimizers import LEARNING_RATES, Optimizer

_LEVELS, _SLOPE = 4, 0.3
_RATES = ", ".join(f"{rate} of {optimizer.value}" for optimizer, rate in LEARNING_RATES.items())
_TEMPERATURE, _DISTILLATION = 2.0, 0.5


@app.command()
def train(
    model: Model,
    output: Output,
    dataset: DataName = None,
    data: Root = None,
    activation: Annotated[str | None, named("--activation", ACTIVATIONS, "Leave out to train with plain ReLU")] = None,
    levels: Annotated[
        int | None, typer.Option(help=f"N (L of QCFS): steps of the staircase (default: {_LEVELS}).")
    ] = None,
    slope: Annotated[float | None, typer.Option(help=f"c of SlipReLU in [0, 1] (default: {_SLOPE}).")] = None,
    shift: Annotated[
        float | None, typer.Option(help="delta in [-1/2, 1/2]: neurons start at delta theta (default: 1/2 of slip).")
    ] = None,
    ramp_shift: Annotated[
        float | None, typer.Option(help="delta1 of SlipReLU in [-1, 1], in units of theta (default: 0).")
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Every T that learned-slip trains for, as in 1,2,4 (the default).")
    ] = None,
    objective_weight: Annotated[
        float | None, typer.Option(help="w of eq. 5 of learned-slip: 1 for close to ReLU, 0 for close to the SNN.")
    ] = None,
    objective_penalty: Annotated[
        float | None, typer.Option(help="How much eq. 5 adds to the loss of learned-slip.")
    ] = None,
    gradient: Annotated[
        Gradient | None, typer.Option(help="Surrogate derivative of the staircase (default: released).")
    ] = None,
    theta_percentile: Annotated[
        float | None,
        typer.Option(help="Start thresholds at this percentile of activations (default: 8.0; 1.0 of rate-norm)."),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes through the training set.")] = 30,
    optimizer: Annotated[
        Optimizer, typer.Option(help="sgd with momentum, or adam in units of each parameter's size.")
    ] = Optimizer.SGD,
    learning_rate: Annotated[
        float | None, typer.Option(help=f"At the start; falls along a cosine (default: {_RATES}).")
    ] = None,
    warmup_steps: Annotated[int, typer.Option(help="Steps in which the learning rate rises from 0.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="On all parameters.")] = 5e-4,
    spike_penalty: Annotated[
        float, typer.Option(help="Train for fewer spikes: weight of the share of synaptic operations in the loss.")
    ] = 0.0,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Trained network whose logits are learnt besides the labels.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help=f"Of the distillation (default: {_TEMPERATURE}).")] = None,
    distillation: Annotated[
        float | None, typer.Option(help=f"Share of the distillation in the loss, 0 to 1 (default: {_DISTILLATION}).")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    seed: Annotated[int, typer.Option(help="Of weights, splits and order.")] = 0,
    weights: Weights = None,
    option: Options = None,
    preparation: Annotated[
        Preparation, typer.Option(help="Augmentation of the CIFAR sets, as a paper did it.")
    ] = Preparation.STANDARD,
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    device: DeviceName = Device.AUTO,
    compile_: Compile = False,
    factory: Factory = None,
) -> None:
    """Train a network; interrupted training goes on from OUTPUT with the ending .ckpt, which goes when it is done.

    Examples:
    * `transpike train digits-resnet -o relu.safetensors`
    * `transpike train relu.safetensors --activation slip --theta-percentile 99 --learning-rate .05 -o slip.safetensors`
    * `transpike train relu.safetensors --activation learned-slip --steps 1,2 -o learned.safetensors`
    * `transpike train relu.safetensors --activation qcfs --teacher relu.safetensors -o qcfs.safetensors`
    """
    import torch

    from transpike.activations import ThetaPercentile
    from transpike.cli.find_model import find_model
    from transpike.cli.words import parse_numbers, read_activation
    from transpike.cli.work import calibration_batches, check_output, device_of, open_data
    from transpike.conversion.tailor import tailor, tailoring
    from transpike.errors import ConfigError
    from transpike.report import learned_table, training_table
    from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
    from transpike.storage import checkpoint
    from transpike.training import fit

    torch.manual_seed(seed)
    where = device_of(device)
    settings = {
        "levels": levels,
        "slope": slope,
        "shift": shift,
        "ramp_shift": ramp_shift,
        "gradient": gradient,
        "steps": None if steps is None else parse_numbers(steps, "--steps"),
        "objective_weight": objective_weight,
        "objective_penalty": objective_penalty,
        "theta_init": None if theta_percentile is None else ThetaPercentile(theta_percentile),
    }
    own = {key: value for key, value in settings.items() if value is not None}
    if activation is None and own:
        first = f"--{next(iter(own)).replace('theta_init', 'theta_percentile').replace('_', '-')}"
        raise ConfigError(f"{first} belongs to --activation", fix="name an --activation, or leave it out")
    if teacher is None and (temperature is not None or distillation is not None):
        word = "--distillation" if temperature is None else "--temperature"
        raise ConfigError(f"{word} belongs to --teacher", fix="name a --teacher, or leave it out")
    defaults = {"levels": _LEVELS, "slope": _SLOPE}
    chosen = None if activation is None else read_activation(activation, own, defaults)
    check_output(output, model, weights, factory, teacher)
    model_found = find_model(model, option=option, factory=factory, weights=weights)
    network = model_found.network
    _, found = open_data(model_found.inputs, dataset, data, seed=seed, preparation=preparation)
    model_found.try_on(torch.stack([found.validation[index][0] for index in range(2)]))
    if chosen is not None:
        source = model_info(network).source
        network = tailor(network, chosen, calibration=calibration_batches(found, 512, seed))
        set_model_info(network, ModelInfo(source, found.inputs))
        say(str(tailoring(network)))
    history = fit(
        network,
        found,
        epochs=epochs,
        optimizer=optimizer,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        weight_decay=weight_decay,
        spike_penalty=spike_penalty,
        teacher=None if teacher is None else find_model(teacher).network,
        temperature=_TEMPERATURE if temperature is None else temperature,
        distillation=_DISTILLATION if distillation is None else distillation,
        batch_size=batch_size,
        seed=seed,
        checkpoint=output.with_suffix(".ckpt"),
        workers=workers,
        device=where,
        compile=compile_,
        progress=True,
    )
    checkpoint.save(network.cpu(), output, inputs=found.inputs)
    output.with_suffix(".ckpt").unlink(missing_ok=True)  # the network is saved: nothing is left to go on from
    out.print(training_table(history, last=5 if out.is_terminal else None))
    learned = learned_table(network)
    if learned is not None:
        out.print(learned)
    say(f"written: {output}")
