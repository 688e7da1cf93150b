"""Trains a classifier along a cosine schedule (SlipReLU paper, appendix E.1), on Lightning, resumable."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler, Subset

from transpike.activations import TrainedActivation
from transpike.data import Data
from transpike.errors import needs_extra
from transpike.graph.unwrap import unwrapped
from transpike.network.spiking import SpikingNetwork
from transpike.serialization.digest import digest, digest_batches
from transpike.serialization.fields import check_count, fitted
from transpike.serialization.json_records import check_writable
from transpike.training.optimizers import LEARNING_RATES, Optimizer
from transpike.training.sharing import OwnBatches


@dataclass(frozen=True)
class Epoch:
    """What one epoch brought.

    Attributes:
        epoch: from 1.
        loss: mean training loss.
        train_accuracy: percent, on the augmented training samples while the weights changed.
        validation_accuracy: percent, on the held-back part of the training set.
        operations: mean share of synaptic operations on the training samples, in [0, 1], where spikes are penalised.
    """

    epoch: int
    loss: float
    train_accuracy: float
    validation_accuracy: float
    operations: float | None = None


class EpochShuffle(Sampler[int]):
    """A permutation that depends on seed and epoch alone, so that a resumed run sees the same order."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.size, generator=generator).tolist()

    def __len__(self) -> int:
        return self.size


def fit(
    network: nn.Module,
    data: Data,
    *,
    epochs: int,
    optimizer: Optimizer | Literal["sgd", "adam"] = Optimizer.SGD,
    learning_rate: float | None = None,
    warmup_steps: int = 0,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    spike_penalty: float = 0.0,
    teacher: nn.Module | None = None,
    temperature: float = 2.0,
    distillation: float = 0.5,
    batch_size: int = 128,
    seed: int = 0,
    checkpoint: Path | None = None,
    workers: int = 0,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    progress: bool = False,
    on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
) -> list[Epoch]:
    """Trains ``network`` in place; the defaults are the papers' settings.

    The learning rate falls to zero along a cosine, epoch by epoch. The weights of the last epoch are kept: no epoch is
    selected, and the test set is not touched. Processes that ``torchrun`` started share every batch, with gradients as
    of one process but for BatchNorm, which sees the samples of its own; each must call this.

    Args:
        network: a classifier with logits ``[N, classes]``.
        data: its training part is trained on, its validation part is reported.
        epochs: number of passes.
        optimizer: ``"sgd"`` with momentum, as in the papers, or ``"adam"`` (AdamW), whose steps are in proportion to
            each parameter's size: a trained network goes on learning where an activation of one level throws SGD off.
        learning_rate: at the start. Of SGD 0.1 if it is None; the paper falls back to 0.05 where that diverges. Of Adam
            in units of each parameter's root mean square, 0.003 if it is None.
        warmup_steps: steps at the start in which the learning rate rises from 0; a deep network with fresh weights may
            never learn without.
        momentum: of SGD; beta_1 of Adam.
        weight_decay: on all parameters, thresholds included unless their activation says otherwise.
        spike_penalty: how much the expected share of synaptic operations adds to the loss
            (`transpike.training.spike_cost`): fewer spikes make the spiking network faster. Start with 3; more may cost
            accuracy, first at T = 1 and 2.
        teacher: a trained network with the same classes, whose logits are learnt besides the labels. It is copied, and
            runs in evaluation mode.
        temperature: tau of the distillation.
        distillation: its share of the loss, in [0, 1]; see `transpike.training.output_losses.distilled`.
        batch_size: samples per step, of all processes together; a last, smaller batch is used too.
        seed: of order and augmentation.
        checkpoint: a file written after every epoch, without pickle; if it is there, training goes on from it, or
            a finished one is read, if it began with these settings, weights, activations and data. With ``workers=0``
            a resumed run gives the same weights as an uninterrupted one.
        workers: processes that load data.
        device: a Lightning accelerator, ``"auto"``, ``"cpu"`` or ``"gpu"``.
        precision: a Lightning precision; ``"bf16-mixed"`` keeps weights in fp32 and is faster on GPUs and CPUs
            that multiply bfloat16.
        compile: train under ``torch.compile``, which needs a C++ compiler and a minute to prepare; rounds otherwise.
        progress: show a progress bar.
        on_epoch: called after every epoch with what it brought and the network, which must not be changed: it trains
            on. What it raises ends the training, before the epoch is written to ``checkpoint``.

    Raises:
        ValueError: a setting out of range.
        TrainingError: the loss is not finite, the checkpoint belongs to another training, the teacher gives other
            logits, or spikes are penalised in a network that `transpike.tailor` did not make.
        OutputError: the checkpoint cannot be written.
    """
    network = unwrapped(network, "fit", "network")
    kind: Optimizer = fitted("optimizer", optimizer, Optimizer)
    settings = {
        "epochs": epochs,
        "optimizer": kind.value,
        "learning_rate": LEARNING_RATES[kind] if learning_rate is None else learning_rate,
        "warmup_steps": warmup_steps,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "spike_penalty": spike_penalty,
        "batch_size": batch_size,
        "seed": seed,
        "precision": precision,
    }
    check_settings(settings, workers, checkpoint)
    guide = None if teacher is None else frozen_teacher(teacher, "fit")
    if guide is not None:
        settings |= distillation_settings(temperature, distillation)
    with needs_extra("train", "training"):
        from transpike.training.lightning import train_classifier  # Lightning takes seconds to import

    if checkpoint is not None:
        settings |= {"start": digest_start(network), "data": digest_data(data), "teacher": digest_teacher(guide)}
    train, validation = make_loaders(data, batch_size, seed, workers)
    with quiet_lightning():
        return train_classifier(
            network, settings, guide, train, validation, checkpoint, device, compile, progress, on_epoch
        )


def check_settings(settings: dict[str, Any], workers: int, checkpoint: Path | None) -> None:
    """Checks what every training takes.

    Raises:
        ValueError: a setting out of range.
        OutputError: the checkpoint cannot be written.
    """
    for name, least in {"epochs": 1, "batch_size": 1, "warmup_steps": 0, "seed": 0}.items():
        check_count(name, settings[name], least)
    check_count("workers", workers, 0)
    for name in {"learning_rate", "momentum", "weight_decay", "spike_penalty"} & set(settings):
        fitted(name, settings[name], float)
    rate, momentum, decay = settings["learning_rate"], settings.get("momentum", 0.0), settings.get("weight_decay", 0.0)
    if not (0 < rate < math.inf) or not 0 <= momentum < 1 or decay < 0:
        raise ValueError(
            f"learning_rate must be positive, momentum in [0, 1), weight_decay not negative; got {rate}, {momentum}, "
            f"{decay}"
        )
    if not 0 <= settings["spike_penalty"] < math.inf:
        raise ValueError(f"spike_penalty must be a number that is not negative, got {settings['spike_penalty']}")
    if checkpoint is not None:
        if checkpoint.suffix != ".ckpt":
            raise ValueError(f"the training state must be named *.ckpt, got {checkpoint}")
        check_writable(checkpoint)


def frozen_teacher(teacher: nn.Module, where: str) -> nn.Module:
    """A copy of the teacher that stays as it is; of a spiking network its ANN."""
    found = unwrapped(teacher, where, "teacher")
    found = found.network if isinstance(found, SpikingNetwork) else found
    return copy.deepcopy(found).eval().requires_grad_(False)


def distillation_settings(temperature: float, share: float) -> dict[str, float]:
    """What belongs to a training with a teacher.

    Raises:
        ValueError: out of range.
    """
    fitted("temperature", temperature, float)
    fitted("distillation", share, float)
    if not 0 < temperature < math.inf or not 0 <= share <= 1:
        raise ValueError(f"temperature must be positive, distillation in [0, 1]; got {temperature} and {share}")
    return {"temperature": temperature, "distillation": share}


def make_loaders(data: Data, batch_size: int, seed: int, workers: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the training part, in an order that depends on seed and epoch, and of the validation part."""
    # Generators of their own: a loader draws a seed when it starts, which must not shift the order of dropout.
    own = [torch.Generator().manual_seed(seed) for _ in range(2)]
    train = OwnBatches(EpochShuffle(_size(data.train), seed), batch_size)
    validation = OwnBatches(SequentialSampler(range(_size(data.validation))), 500, fill=False)
    return (
        DataLoader(data.train, batch_sampler=train, num_workers=workers, generator=own[0]),
        DataLoader(data.validation, batch_sampler=validation, num_workers=workers, generator=own[1]),
    )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keeps what Lightning says to its own users from ours."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        yield


_DIGESTED = 100_000  # samples of a part that are looked at; of more, as many, evenly spread


def digest_start(network: nn.Module) -> str:
    """What a training starts from: weights, structure, settings of activations, and which parameters learn."""
    trained = [module.config for module in network.modules() if isinstance(module, TrainedActivation)]
    learning = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return digest(network, trained, learning)


def digest_teacher(teacher: nn.Module | None) -> str:
    """Whose answers are learnt."""
    return "none" if teacher is None else digest_start(teacher)


def digest_data(data: Data) -> str:
    """What is learnt from, images and labels; and how images are augmented, as far as torch's generator decides it."""
    with torch.random.fork_rng(devices=[]):
        parts = [digest_batches(_spread(part)) for part in (data.calibration, data.validation)]
        augmented = []
        for _ in range(2):
            torch.manual_seed(0)
            augmented.append(digest_batches(_spread(data.train, 64)))
    sizes = [_size(part) for part in (data.train, data.calibration, data.validation)]
    return digest(sizes, parts, augmented[0] if augmented[0] == augmented[1] else "")


def _spread(dataset: Dataset[Any], most: int = _DIGESTED) -> DataLoader[Any]:
    there = _size(dataset)
    chosen = Subset(dataset, range(0, there, max(1, there // most)))
    return DataLoader(chosen, 500, generator=torch.Generator())


def _size(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]
