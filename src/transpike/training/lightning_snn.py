"""The Lightning side of `fit_snn`; imported only when training starts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from transpike.errors import RangeError, TrainingError
from transpike.functional import summing_type
from transpike.graph.walk import reference_tensor
from transpike.network.spiking import SpikingNetwork, compiled, converted
from transpike.rules import BatchNormMode
from transpike.schedules import Plain
from transpike.training.batch_norms import ThresholdNorms
from transpike.training.fit import Epoch
from transpike.training.lightning import Step, Task, check_teacher, run
from transpike.training.optimizers import groups_by_size, root_mean_square
from transpike.training.output_losses import OutputLoss
from transpike.training.segments import Counts, run_in_segments
from transpike.training.spike_cost import fan_out

_ALL_AT_ONCE = 2**40
"""MiB for the currents of a site: a run with gradients keeps everything anyway, so it is not cut into parts."""
_FLOOR = 0.01
"""The smallest threshold, in thresholds at the start."""


class _ThroughTime(Task):
    """Back-propagation through time at one T, and the best epoch on the validation part."""

    def __init__(
        self,
        snn: SpikingNetwork,
        settings: dict[str, Any],
        classes: int,
        loss: OutputLoss,
        teacher: nn.Module | None,
        shares: dict[str, float],
        norms: ThresholdNorms | None,
        on_epoch: Callable[[Epoch, nn.Module], None] | None,
    ) -> None:
        super().__init__(snn, settings, classes, teacher, on_epoch)
        self.output_loss = loss
        self.shares = shares
        self.sites = [snn.site(planned.name) for planned in snn.sites]
        self.floors = [_FLOOR * site.theta.detach().clone() for site in self.sites]
        self.norms = norms
        self.best: dict[str, Any] = {"accuracy": -1.0, "state": {}}

    def configure_optimizers(self) -> Any:
        rate = self.settings["learning_rate"]
        groups = groups_by_size(self.network, rate)
        for norm in [] if self.norms is None else self.norms.norms():
            groups.append({"params": list(norm.parameters()), "lr": rate * root_mean_square(norm.weight)})
        optimizer = torch.optim.Adam(groups)
        return self.with_cosine(optimizer)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.norms is not None:
            self.norms.attach()

    def on_validation_epoch_start(self) -> None:
        """What is validated, stored and handed out is the network as a user gets it."""
        if self.norms is not None:
            self.norms.share()
            self.norms.fold()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one part of a batch."""
        try:
            return super().training_step(batch, index)
        except RangeError as error:
            raise self.diverged(error.what, index) from error

    def learn(self, images: Tensor, labels: Tensor) -> Step:
        answers, counted = self._recorded(images)
        answers = answers.to(summing_type(answers.dtype))
        operations = torch.stack(list(counted.values())).sum() if self.shares else None
        return Step(answers[-1], self.output_loss.of(answers, self.criterion(images, labels)), operations)

    def _recorded(self, images: Tensor) -> tuple[Tensor, Counts]:
        """The answers, and each site's share of the synaptic operations where spikes are penalised."""
        steps: int = self.settings["steps"]

        def share(site: str, events: Tensor) -> Tensor:
            part = len(events) / steps
            return part * self.shares.get(site, 0.0) * events.mean(dtype=summing_type(events.dtype))

        counted: Counts = {}

        def observe(site: str, _: Tensor, events: Tensor) -> None:
            counted[site] = share(site, events)

        segment = self.settings["checkpoint_steps"]
        if segment is not None:
            return run_in_segments(
                converted(self.network, "fit_snn"), images, steps, segment, share if self.shares else None
            )
        return self._run(images, memory_mib=_ALL_AT_ONCE, observe=observe if self.shares else None), counted

    def answer(self, images: Tensor) -> Tensor:
        return self._run(images)[-1]

    def _run(self, images: Tensor, **settings: Any) -> Tensor:
        answers: Tensor = self.network(images, steps=self.settings["steps"], schedule=Plain(), **settings)
        return answers

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """One step, after which thresholds are positive."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        with torch.no_grad():
            for site, floor in zip(self.sites, self.floors, strict=True):
                site.theta.copy_(torch.maximum(site.theta, floor.to(site.theta)))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        accuracy = self.history[-1][2]
        if accuracy >= self.best["accuracy"]:
            state = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
            self.best = {"accuracy": accuracy, "state": state}
        if self.norms is not None:
            self.norms.attach()  # the training state holds what training goes on from

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["transpike"]["best"] = self.best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.best = dict(checkpoint["transpike"]["best"])

    def finish(self) -> None:
        """Takes the best epoch."""
        if self.norms is not None:
            self.norms.fold()
        self.network.load_state_dict(self.best["state"])


def train_spiking(
    snn: SpikingNetwork,
    settings: dict[str, Any],
    loss: OutputLoss,
    teacher: nn.Module | None,
    train: DataLoader[Any],
    validation: DataLoader[Any],
    checkpoint: Path | None,
    device: str,
    compile: bool,
    progress: bool,
    on_epoch: Callable[[Epoch, nn.Module], None] | None,
) -> list[Epoch]:
    """Trains a converted network; see `transpike.fit_snn`."""

    def make(example: Tensor) -> Task:
        with torch.no_grad():
            logits = snn.ann(example)
            if not isinstance(logits, Tensor) or logits.dim() != 2:
                raise TrainingError("the network is no classifier with logits [N, classes]", where="fit_snn")
        check_teacher(teacher, example, logits, "fit_snn")
        operations = fan_out(snn.network, example) if settings["spike_penalty"] else {}
        shares = {site: number / sum(operations.values()) for site, number in operations.items()}
        return _ThroughTime(snn, settings, logits.shape[1], loss, teacher, shares, norms, on_epoch)

    norms = None
    if settings["batch_norm"] == BatchNormMode.TDBN.value:
        norms = ThresholdNorms(snn, _images(train, settings).to(reference_tensor(snn.network)), settings["steps"])
    parts = settings["batch_size"] // settings["micro_batch"]
    try:
        with compiled(snn) if compile else nullcontext():
            return run(snn, settings, train, validation, checkpoint, device, progress, make, parts)
    finally:
        if norms is not None:
            norms.fold()  # where an error or Ctrl-C came in between


def _images(loader: DataLoader[Any], settings: dict[str, Any]) -> Tensor:
    """A batch of training images ``[N, *]``, the same in every process, that leaves the order of training as it is."""
    samples: Any = loader.dataset
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        order = torch.randperm(len(samples))[: settings["micro_batch"]]
        images: Tensor = default_collate([samples[index] for index in order.tolist()])[0]
    return images
