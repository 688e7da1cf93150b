"""Trains a converted network through time: back-propagation over all layers and steps with surrogate derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

from transpike.data import Data
from transpike.errors import TrainingError, needs_extra
from transpike.network.spiking import SpikingNetwork, converted
from transpike.neurons import IF
from transpike.rules import BatchNormMode, ThroughTime
from transpike.schedules import Plain
from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.fields import check_count, fitted
from transpike.training.fit import (
    Epoch,
    check_settings,
    digest_data,
    digest_start,
    digest_teacher,
    distillation_settings,
    frozen_teacher,
    make_loaders,
    quiet_lightning,
)
from transpike.training.output_losses import MeanLoss, OutputLoss


def fit_snn(
    snn: SpikingNetwork,
    data: Data,
    *,
    steps: int,
    epochs: int,
    learning_rate: float = 0.003,
    warmup_steps: int = 0,
    teacher: nn.Module | Literal["ann"] | None = "ann",
    temperature: float = 2.0,
    distillation: float = 0.5,
    loss: OutputLoss | None = None,
    spike_penalty: float = 0.0,
    batch_norm: BatchNormMode | Literal["folded", "tdbn"] = BatchNormMode.FOLDED,
    batch_size: int = 128,
    micro_batch: int | None = None,
    checkpoint_steps: int | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    workers: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    progress: bool = False,
    on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
) -> list[Epoch]:
    """Trains ``snn`` in place at T = ``steps``, all layers stepping together.

    Weights, biases, thresholds and initial potentials learn, by Adam whose learning rate falls to zero along a cosine,
    epoch by epoch. Where a neuron fires, the backward pass takes the derivative ``surrogate`` of its `IF`. Thresholds
    stay above a hundredth of what they were. The epoch with the best validation accuracy at T is kept, the last of
    equal ones; the test set is not touched. Processes that ``torchrun`` started share every batch; each must call this.

    Args:
        snn: a converted network of `IF` neurons whose schedule is `Plain`, best from a QCFS or SlipReLU network.
        data: its training part is trained on, its validation part chooses the epoch.
        steps: T of training and validation; other T gain less, or lose.
        epochs: number of passes.
        learning_rate: of Adam at the start, in units of each parameter's own size: its root mean square.
        warmup_steps: steps at the start in which the learning rate rises from 0.
        teacher: whose logits are learnt besides the labels: ``"ann"`` is the ANN that ``snn`` came from, a module is
            another one, None is none.
        temperature: tau of the distillation.
        distillation: its share of the loss, in [0, 1]; see `transpike.training.output_losses.distilled`.
        loss: `MeanLoss` of the mean output of the T steps (None), or `TETLoss` of every step's.
        spike_penalty: how much the share of synaptic operations in the T steps adds to the loss; the spikes of the
            same run are counted. 1 if every neuron fires at every step.
        batch_norm: ``"folded"`` trains the weights that BatchNorm was folded into. ``"tdbn"`` puts threshold-dependent
            BatchNorm behind the layers, with the statistics of all steps and samples of a ``micro_batch``, of which
            each process has its own, and folds it when they are trained.
        batch_size: samples per step of Adam; a last, smaller batch is used too.
        micro_batch: samples that go through the network at once, a divisor of ``batch_size``, whose gradients add up:
            memory is T times that of so many samples. None takes whole batches.
        checkpoint_steps: time-steps whose activations are held at once; the backward pass computes each such segment
            again, which gives the same gradients and takes the time of a second forward pass. None holds all T.
        seed: of order and augmentation.
        checkpoint: as in `transpike.fit`: a killed training goes on from it, to the same weights.
        workers: processes that load data.
        device: a Lightning accelerator, ``"auto"``, ``"cpu"`` or ``"gpu"``.
        precision: a Lightning precision; ``"bf16-mixed"`` multiplies in bfloat16 and keeps weights, thresholds and
            membrane potentials in float32.
        compile: train under ``torch.compile``: all layers and steps become one graph, which needs a C++ compiler and a
            minute or more to prepare. It does not work with ``spike_penalty`` and ``checkpoint_steps``.
        progress: show a progress bar.
        on_epoch: called after every epoch with what it brought and the network, which must not be changed.

    Returns:
        What the epochs brought; accuracies are those of the spiking network at T.

    Raises:
        ModelError: ``snn`` is no converted network.
        ValueError: a setting out of range, or two that do not go together.
        TrainingError: neurons or schedule have no derivative here; initial potentials per sample; the teacher gives
            other logits; the loss is not finite; or the checkpoint belongs to another training.
        OutputError: the checkpoint cannot be written.
    """
    snn = converted(snn, "fit_snn")
    loss = MeanLoss() if loss is None else loss
    settings: dict[str, Any] = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_steps,
        "spike_penalty": spike_penalty,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
        "steps": check_count("steps", steps, most=MOST_STEPS),
        "loss": str(loss),
        "batch_norm": fitted("batch_norm", batch_norm, BatchNormMode).value,
        "checkpoint_steps": None if checkpoint_steps is None else check_count("checkpoint_steps", checkpoint_steps),
        "micro_batch": check_count("micro_batch", batch_size if micro_batch is None else micro_batch),
    }
    check_settings(settings, workers, checkpoint)
    if batch_size % settings["micro_batch"]:
        raise ValueError(f"micro_batch must divide batch_size, got {micro_batch} and {batch_size}")
    mode = BatchNormMode(settings["batch_norm"])
    if mode is BatchNormMode.TDBN and checkpoint_steps is not None:
        raise ValueError("tdBN takes the statistics of all steps at once, so it does not work with checkpoint_steps")
    if compile and (checkpoint_steps is not None or spike_penalty):
        raise ValueError("compile does not work with spike_penalty or checkpoint_steps; leave one out")
    if not isinstance(loss, OutputLoss):
        raise ValueError(f"loss takes MeanLoss() or TETLoss(), not {loss!r}")
    distilling = distillation_settings(temperature, distillation)
    _check_trainable(snn)
    guide = _teacher(snn, teacher)
    if guide is not None:
        settings |= distilling
    with needs_extra("train", "training"):
        from transpike.training.lightning_snn import train_spiking  # Lightning takes seconds to import

    with _recording(snn):
        if checkpoint is not None:
            start = {"start": digest_start(snn), "data": digest_data(data)}
            settings |= start | {"teacher": digest_teacher(guide)}
        train, validation = make_loaders(data, settings["micro_batch"], seed, workers)
        with quiet_lightning():
            history = train_spiking(
                snn, settings, loss, guide, train, validation, checkpoint, device, compile, progress, on_epoch
            )
    snn.trained = ThroughTime(steps, epochs, type(loss).__name__, guide is not None, float(spike_penalty), mode)
    return history


def _check_trainable(snn: SpikingNetwork) -> None:
    """Checks what has a surrogate derivative.

    Raises:
        TrainingError: it has none.
    """
    if not isinstance(snn.neuron, IF):
        raise TrainingError(
            f"only IF neurons have a surrogate derivative, these are {snn.neuron}",
            where="fit_snn",
            fix="convert with neuron=tp.neurons.IF() to train through time",
            shell_fix="convert with --neuron if to train through time",
        )
    if not isinstance(snn.schedule, Plain):
        raise TrainingError(
            f"the network was converted for the schedule {snn.schedule}; all layers step together in this training",
            where="fit_snn",
            fix="convert with schedule=tp.schedules.Plain() to train through time",
            shell_fix="convert with --schedule plain to train through time",
        )
    if snn.conversion.quantise is not None:
        raise TrainingError(
            "the network is quantised, and training would move its weights off their grid",
            where="fit_snn",
            fix="train first, then call tp.quantise",
            shell_fix="convert without --quantise to train through time",
        )
    for planned in snn.sites:
        if snn.site(planned.name).v_init.dim() > max(1, len(planned.shape)):
            raise TrainingError(
                "the initial potentials differ from sample to sample, so there are none to learn",
                where=f"site {planned.name}",
                fix="set one per layer, channel or neuron: snn.site(name).set_initial_potential",
            )


def _teacher(snn: SpikingNetwork, teacher: nn.Module | str | None) -> nn.Module | None:
    """A copy of the teacher that stays as it is."""
    if teacher is None:
        return None
    if isinstance(teacher, str) and teacher != "ann":
        raise ValueError(f"teacher takes 'ann', a network or None, not {teacher!r}")
    return frozen_teacher(snn if isinstance(teacher, str) else teacher, "fit_snn")


@contextmanager
def _recording(snn: SpikingNetwork) -> Iterator[None]:
    """Records gradients for a while of what learns: all but the source's activations and biases that are not there."""
    sites = [snn.site(planned.name) for planned in snn.sites]
    fixed = {id(parameter) for site in sites for parameter in site.activation.parameters()}
    fixed |= {id(site.bias) for site in sites if site.bias.dim() == 0}
    learning = [
        parameter for parameter in snn.parameters() if id(parameter) not in fixed and parameter.is_floating_point()
    ]
    before = [parameter.requires_grad for parameter in snn.parameters()]
    snn.requires_grad_(False)
    for parameter in learning:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, recorded in zip(snn.parameters(), before, strict=True):
            parameter.requires_grad_(recorded)
            parameter.grad = None
