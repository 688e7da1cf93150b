"""The Lightning side of training; imported only when it starts."""

from __future__ import annotations

import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from transpike.activations import TrainedActivation
from transpike.calibration.progress import ProgressBar
from transpike.errors import DivergedError, TrainingError
from transpike.training.fit import Epoch
from transpike.training.optimizers import Optimizer, make_optimizer
from transpike.training.output_losses import distilled
from transpike.training.sharing import own_share, trainer_processes
from transpike.training.spike_cost import SpikeCost
from transpike.training.states import SafeStates, check_resumed


class Step(NamedTuple):
    """What a batch brought.

    Attributes:
        logits: ``[N, classes]``.
        loss: the loss without the penalty for spikes.
        operations: the share of synaptic operations that is penalised, if any.
    """

    logits: Tensor
    loss: Tensor
    operations: Tensor | None


class Task(LightningModule, ABC):  # type: ignore[misc]
    """What every training shares: optimizer where it has none of its own, cosine, warm-up, history, training states."""

    def __init__(
        self,
        network: nn.Module,
        settings: dict[str, Any],
        classes: int,
        teacher: nn.Module | None,
        on_epoch: Callable[[Epoch, nn.Module], None] | None,
    ) -> None:
        super().__init__()
        self.layout = torch.contiguous_format  # of weights while they are trained
        self.teacher = [] if teacher is None else [teacher]  # in a list, so that it is no child and is not stored
        self.on_epoch = on_epoch
        self.operations = MeanMetric()
        self.network = network
        self.settings = settings
        self.samples = 0  # of an epoch
        self.history: list[list[float]] = []
        self.loss = MeanMetric()
        self.train_hits = MulticlassAccuracy(classes, average="micro")
        self.validation_hits = MulticlassAccuracy(classes, average="micro")

    @abstractmethod
    def learn(self, images: Tensor, labels: Tensor) -> Step:
        """Runs a training batch."""

    @abstractmethod
    def answer(self, images: Tensor) -> Tensor:
        """The logits that count in validation."""

    def criterion(self, images: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        """The loss of logits ``[N, classes]``: cross-entropy, with distillation where there is a teacher."""
        with torch.no_grad():
            wanted = [teacher(images) for teacher in self.teacher]

        def loss(logits: Tensor) -> Tensor:
            if not wanted:
                return F.cross_entropy(logits, labels)
            temperature, share = self.settings["temperature"], self.settings["distillation"]
            return distilled(logits, labels, wanted[0].to(logits.dtype), temperature, share)

        return loss

    def on_fit_start(self) -> None:
        """Brings the teacher where the network is."""
        reference = next(self.network.parameters())
        for teacher in self.teacher:
            teacher.to(reference.device, reference.dtype)

    def finish(self) -> None:
        """Does what is left when the last epoch is done."""
        return

    def configure_optimizers(self) -> Any:
        """The optimizer that was asked for; its learning rate falls along a cosine."""
        s = self.settings
        kind = Optimizer(s["optimizer"])
        return self.with_cosine(
            make_optimizer(kind, self.network, s["learning_rate"], s["momentum"], s["weight_decay"])
        )

    def with_cosine(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimizer with its schedule, as Lightning takes them."""
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.settings["epochs"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """One step; while warming up with a part of the epoch's learning rate."""
        share = min(1.0, (self.trainer.global_step + 1) / (self.settings["warmup_steps"] + 1))
        rates = [group["lr"] for group in optimizer.param_groups]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = share * rate
        optimizer.step(closure=optimizer_closure)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def on_train_epoch_start(self) -> None:
        """Seeds the epoch, so that a resumed run draws the same."""
        torch.manual_seed(self.settings["seed"] * 1_000_003 + self.current_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch, with what its spikes cost."""
        images, labels = batch
        step = self.learn(images, labels)
        if not bool(torch.isfinite(step.loss)):
            raise self.diverged(f"the loss became {step.loss.item()}", index)
        factor, share = self.own_share(index)
        self.loss.update(step.loss.detach(), share)
        if share:
            self.train_hits.update(step.logits.detach(), labels)
        if step.operations is None:
            return factor * step.loss
        self.operations.update(step.operations.detach(), share)
        penalty: float = self.settings["spike_penalty"]
        return factor * (step.loss + penalty * step.operations)

    def own_share(self, index: int) -> tuple[float, float]:
        """See `transpike.training.sharing.own_share`."""
        size: int = self.settings["batch_size"]
        return own_share(index, self.samples, size, self.settings.get("micro_batch", size))

    def diverged(self, what: str, index: int) -> DivergedError:
        """The error of a training that lost its way in a step."""
        return DivergedError(
            what,
            where=f"epoch {self.current_epoch + 1}, step {index}",
            fix="start again with a smaller learning rate (the paper uses 0.05 where 0.1 fails)",
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Counts right answers."""
        images, labels = batch
        self.validation_hits.update(self.answer(images), labels)

    def on_train_epoch_end(self) -> None:
        """Adds the epoch to the history."""
        row = [self.loss.compute(), 100 * self.train_hits.compute(), 100 * self.validation_hits.compute()]
        if self.settings["spike_penalty"]:
            row.append(self.operations.compute())
        self.history.append([float(value) for value in row])
        for metric in (self.loss, self.train_hits, self.validation_hits, self.operations):
            metric.reset()
        if self.on_epoch is not None:
            with torch.random.fork_rng():
                self.on_epoch(Epoch(len(self.history), *self.history[-1]), self.network)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed training is checked against."""
        checkpoint["transpike"] = {"settings": self.settings, "history": self.history}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the history."""
        self.history = [list(row) for row in checkpoint["transpike"]["history"]]


class _Classifier(Task):
    """Cross-entropy and what activations add, with what spikes cost if they are penalised."""

    def __init__(
        self,
        network: nn.Module,
        settings: dict[str, Any],
        classes: int,
        spike_cost: SpikeCost | None,
        learner: Callable[[Tensor], Tensor],
        teacher: nn.Module | None,
        on_epoch: Callable[[Epoch, nn.Module], None] | None,
    ) -> None:
        super().__init__(network, settings, classes, teacher, on_epoch)
        self.layout = fast_layout(network)
        self.spike_cost = spike_cost
        self.learner = learner
        self.trained = [module for module in network.modules() if isinstance(module, TrainedActivation)]

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        for module in self.trained:
            module.begin_batch(index)
        loss = super().training_step(batch, index)
        objectives = [module.objective for module in self.trained if module.objective is not None]
        return loss + self.own_share(index)[0] * torch.stack(objectives).sum() if objectives else loss

    def learn(self, images: Tensor, labels: Tensor) -> Step:
        logits = self.learner(images).float()
        loss = self.criterion(images, labels)(logits)
        return Step(logits, loss, None if self.spike_cost is None else self.spike_cost.take())

    def answer(self, images: Tensor) -> Tensor:
        return self.network(images)  # type: ignore[no-any-return]


def fast_layout(network: nn.Module) -> torch.memory_format:
    """Channels last; contiguous where a convolution of 1 x 1 with a stride has few channels.

    For such a one oneDNN's gradient of weights writes past its buffer if channels are last (oneDNN issue 6035).
    """
    few = any(
        isinstance(layer, nn.Conv2d)
        and layer.in_channels // layer.groups < _SAFE_CHANNELS
        and set(layer.kernel_size) == {1}
        and set(layer.stride) != {1}
        for layer in network.modules()
    )
    return torch.contiguous_format if few else torch.channels_last


_SAFE_CHANNELS = 16
"""As many as oneDNN ever takes in one block."""


class _Lines(Callback):  # type: ignore[misc]
    """Says now and then how many epochs are done, where there is no terminal."""

    def __init__(self, epochs: int) -> None:
        self.bar = ProgressBar("training, epochs", epochs, True)

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.bar.done = trainer.current_epoch
        self.bar.advance()


def check_teacher(teacher: nn.Module | None, example: Tensor, logits: Tensor, where: str) -> None:
    """Checks that a teacher answers as the network that learns from it.

    Raises:
        TrainingError: it does not.
    """
    if teacher is None:
        return
    with torch.no_grad():
        found = teacher.to(example.device, logits.dtype)(example)
    if not isinstance(found, Tensor) or found.shape != logits.shape:
        answers = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TrainingError(
            f"the teacher answers {answers}, the network {list(logits.shape)}",
            where=f"{where}, teacher",
            fix="give a teacher with the same classes, or none",
        )


def train_classifier(
    network: nn.Module,
    settings: dict[str, Any],
    teacher: nn.Module | None,
    train: DataLoader[Any],
    validation: DataLoader[Any],
    checkpoint: Path | None,
    device: str,
    compiled: bool,
    progress: bool,
    on_epoch: Callable[[Epoch, nn.Module], None] | None,
) -> list[Epoch]:
    """Trains an ANN; see `transpike.training.fit`."""
    costs: list[SpikeCost] = []

    def make(example: Tensor) -> Task:
        with torch.no_grad():
            was = network.training
            logits = network.eval()(example)
            network.train(was)
        check_teacher(teacher, example, logits, "fit")
        network.to(memory_format=fast_layout(network))
        costs.extend([SpikeCost(network, example)] if settings["spike_penalty"] else [])
        # A function, so that the compiled form is no second child; a shape each, since the last batch may differ.
        learner = torch.compile(network.__call__, dynamic=False) if compiled else network.__call__
        cost = costs[0] if costs else None
        return _Classifier(network, settings, logits.shape[-1], cost, learner, teacher, on_epoch)

    try:
        return run(network, settings, train, validation, checkpoint, device, progress, make)
    finally:
        for cost in costs:
            cost.remove()


def run(
    network: nn.Module,
    settings: dict[str, Any],
    train: DataLoader[Any],
    validation: DataLoader[Any],
    checkpoint: Path | None,
    device: str,
    progress: bool,
    make: Callable[[Tensor], Task],
    parts: int = 1,
) -> list[Epoch]:
    """Trains, and goes on from the checkpoint if it is there.

    Args:
        network: what is trained, in place.
        settings: what a checkpoint must have been made with.
        train: batches of images and labels.
        validation: the same.
        checkpoint: a file written after every epoch.
        device: a Lightning accelerator.
        progress: show a progress bar.
        make: makes the task from one validation image ``[1, *]``.
        parts: batches of ``train`` whose gradients are averaged for one step.
    """
    resume = str(checkpoint) if checkpoint is not None and checkpoint.is_file() else None
    if resume is not None:
        check_resumed(Path(resume), settings)
    images, _ = next(iter(validation))
    example = images[:1].to(next(network.parameters()).device)
    callbacks: list[Callback] = []
    if checkpoint is not None:
        saver = ModelCheckpoint(
            checkpoint.parent, checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        callbacks.append(saver)
    terminal = progress and sys.stderr.isatty()
    if progress:
        callbacks.append(RichProgressBar(leave=False) if terminal else _Lines(settings["epochs"]))
    trainer = Trainer(
        max_epochs=settings["epochs"],
        accelerator=device,
        **trainer_processes(),
        precision=settings["precision"],
        callbacks=callbacks,
        plugins=[SafeStates()],
        enable_progress_bar=terminal,
        enable_model_summary=False,
        enable_checkpointing=checkpoint is not None,
        logger=False,
        num_sanity_val_steps=0,
        accumulate_grad_batches=parts,
        default_root_dir=None if checkpoint is None else checkpoint.parent,
    )
    module = make(example)
    module.samples = len(train.dataset)  # type: ignore[arg-type]
    network.train().to(memory_format=module.layout)
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, train, validation, ckpt_path=resume)
    except RuntimeError as error:
        if resume is not None and "state_dict" in str(error):
            raise TrainingError(
                "the training state belongs to another network", where=str(checkpoint), fix="remove the file"
            ) from error
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes this of Ctrl-C, and ignores further ones
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt from stop
        raise
    module.finish()
    network.eval().to(memory_format=torch.contiguous_format)  # so that a stored copy computes the same to the bit
    return [Epoch(index, *row) for index, row in enumerate(module.history, start=1)]
