"""``transpike train-snn``."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import DataName, Device, DeviceName, Factory, File, Output, Root
from transpike.cli.output import out, say
from transpike.data import Preparation
from transpike.rules import BatchNormMode

_LOSSES = ("mean", "tet")


@app.command("train-snn")
def train_snn(
    file: File,
    output: Output,
    steps: Annotated[int, typer.Option("--steps", "-T", help="T that it is trained for.")],
    dataset: DataName = None,
    data: Root = None,
    epochs: Annotated[int, typer.Option(help="Passes through the training set.")] = 5,
    learning_rate: Annotated[
        float, typer.Option(help="Of Adam, in units of each parameter's size; falls along a cosine.")
    ] = 0.003,
    warmup_steps: Annotated[int, typer.Option(help="Steps in which the learning rate rises from 0.")] = 0,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="ANN whose logits are learnt too, or none (default: the ANN that FILE is of).",
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the distillation.")] = 2.0,
    distillation: Annotated[float, typer.Option(help="Share of the distillation in the loss, 0 to 1.")] = 0.5,
    loss: Annotated[
        str, typer.Option(metavar="NAME", help="mean: of the mean output; tet: of every step's, averaged.")
    ] = "mean",
    tet_regulariser: Annotated[
        float, typer.Option(help="lambda of tet: how much every output is drawn to 1, 0 to 1.")
    ] = 0.0,
    spike_penalty: Annotated[
        float, typer.Option(help="Train for fewer spikes: weight of the share of synaptic operations in the loss.")
    ] = 0.0,
    batch_norm: Annotated[
        BatchNormMode, typer.Option(help="folded: into the weights that learn; tdbn: over steps and batch.")
    ] = BatchNormMode.FOLDED,
    batch_size: Annotated[int, typer.Option(help="Images per step of Adam.")] = 128,
    micro_batch: Annotated[
        int | None, typer.Option(help="Images that run at once, a divisor of --batch-size: less takes less memory.")
    ] = None,
    checkpoint_steps: Annotated[
        int | None,
        typer.Option(help="Time-steps to hold for the backward pass, which computes the others again: less memory."),
    ] = None,
    precision: Annotated[str, typer.Option(help="32-true, or bf16-mixed: products in bfloat16.")] = "32-true",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Make one graph of all layers and steps, which takes a minute or more.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of splits and order.")] = 0,
    preparation: Annotated[
        Preparation, typer.Option(help="Augmentation of the CIFAR sets, as a paper did it.")
    ] = Preparation.STANDARD,
    workers: Annotated[int, typer.Option(help="Processes that load data.")] = 0,
    device: DeviceName = Device.AUTO,
    factory: Factory = None,
) -> None:
    """Train a converted network through time; the best epoch on the validation images at T is kept.

    All layers step together; surrogate derivatives stand in for those of spikes. Interrupted training goes on from
    OUTPUT with the ending .ckpt, which goes when it is done.

    Examples:
    * `transpike train-snn snn.safetensors --steps 2 -o tuned.safetensors`
    * `transpike train-snn snn.safetensors -T 1 --epochs 20 --teacher relu.safetensors -o tuned.safetensors`
    * `transpike train-snn snn.safetensors -T 2 --batch-norm tdbn -o tuned.safetensors`
    * `transpike train-snn snn.safetensors -T 4 --loss tet --spike-penalty 1 -o tuned.safetensors`
    * `transpike train-snn snn.safetensors -T 8 --checkpoint-steps 2 --precision bf16-mixed -o tuned.safetensors`
    """
    import torch

    from transpike.cli.find_model import find_converted, find_model
    from transpike.cli.work import check_classes, check_output, check_run, device_of, open_data
    from transpike.errors import ConfigError, known_words
    from transpike.report import training_table
    from transpike.serialization.model_info import InputSpec, model_info
    from transpike.storage import checkpoint
    from transpike.training import MeanLoss, TETLoss, fit_snn

    torch.manual_seed(seed)
    check_run(steps, "all", dataset)
    if loss not in _LOSSES:
        raise ConfigError(f"there is no loss {loss!r}", where="--loss", fix=known_words(loss, _LOSSES))
    if loss != "tet" and tet_regulariser:
        raise ConfigError("--tet-regulariser belongs to --loss tet", fix="pass --loss tet, or leave it out")
    where = device_of(device)
    check_output(output, file, teacher)
    snn = find_converted(file, factory)
    shapes = snn.capture.input_shapes
    inputs = model_info(snn.network).inputs or (InputSpec(shapes[0]) if shapes else None)
    name, found = open_data(inputs, dataset, data, seed=seed, preparation=preparation)
    check_classes(snn.network, found, name)
    history = fit_snn(
        snn,
        found,
        steps=steps,
        epochs=epochs,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        teacher="ann" if teacher is None else None if teacher == "none" else find_model(teacher).network,
        temperature=temperature,
        distillation=distillation,
        loss=TETLoss(tet_regulariser) if loss == "tet" else MeanLoss(),
        spike_penalty=spike_penalty,
        batch_norm=batch_norm,
        batch_size=batch_size,
        micro_batch=micro_batch,
        checkpoint_steps=checkpoint_steps,
        precision=precision,
        compile=compile_,
        seed=seed,
        checkpoint=output.with_suffix(".ckpt"),
        workers=workers,
        device=where,
        progress=True,
    )
    checkpoint.save(snn.cpu(), output, inputs=found.inputs)
    output.with_suffix(".ckpt").unlink(missing_ok=True)  # the network is saved: nothing is left to go on from
    out.print(training_table(history, last=5 if out.is_terminal else None))
    best = max(history, key=lambda epoch: (epoch.validation_accuracy, epoch.epoch))
    say(f"kept: epoch {best.epoch}, {best.validation_accuracy:.2f} % of the validation images at T = {steps}")
    say(f"written: {output}")
