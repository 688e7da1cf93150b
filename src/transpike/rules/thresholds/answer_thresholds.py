"""Thresholds of the populations that only the answer reads, for the few steps that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transpike.rules.contract import Correction, PerChannel, PerLayer, StageView, average
from transpike.rules.corrections.correction import check_counts, correct

_FACTORS = tuple(2.0 ** (eighth / 8) for eighth in range(-12, 5))
"""Of the thresholds that are tried: from a third of the old one to 1.4 times, 9 % apart."""


@dataclass(frozen=True)
class AnswerThresholds(Correction):
    """Threshold and bias of least squared error of the mean output of T steps, where only the answer reads it.

    Under a layer-after-layer schedule with more probe steps than the answer has steps, other populations are heard for
    all of the probe steps, but those that only the answer reads for T steps: thresholds that are best for ``rho``
    levels are too large for them. For each channel (or layer, as the thresholds are) several thresholds are tried, each
    with the bias that makes the mean output right (`BiasCorrection`), and the one of the least squared error on the
    data is taken, the old one included; potentials keep their share of the threshold. Other populations stay as they
    are, so it comes after what calibrates these. Ours. Needs unlabelled data, no retraining; events stay as the
    neuron's.

    Attributes:
        steps: T, of the answer.
        iterations: how often to move the bias of each threshold that is tried.
    """

    steps: int
    iterations: int = 2
    keeps_grid: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, iterations=self.iterations)

    def update(self, stage: StageView) -> None:
        """Sets one site, if only the answer reads it."""
        if not stage.answers:
            return
        site = stage.module
        granularity = PerChannel() if site.theta.dim() else PerLayer()
        wanted = stage.wanted
        mean = average(wanted)
        theta, share, bias = site.theta.detach(), (site.v_init / site.theta).detach(), site.bias.detach()

        def outputs() -> list[Tensor]:
            sent = (stage.schedule.values(stage.emit(currents), site.theta) for currents in stage.currents)
            return [stage.schedule.total(values[: self.steps]) for values in sent]

        def loss() -> Tensor:
            errors = (output - target for output, target in zip(outputs(), wanted, strict=True))
            return granularity.mean(average(error.square() for error in errors))

        def offset() -> Tensor:
            return granularity.mean(mean - average(outputs()))

        def put(theta: Tensor, bias: Tensor) -> None:
            theta = theta if site.ceiling is None else theta.clamp_max(site.ceiling)
            site.set_threshold(theta)
            site.set_initial_potential(share * theta)
            site.set_bias(bias)

        put(theta, bias)
        best, kept = loss(), (site.theta.detach(), site.bias.detach())
        for factor in _FACTORS:
            put(factor * theta, bias)
            correct(bias, site.set_bias, offset, gain=1.0, iterations=self.iterations)
            error = loss()
            better = error < best
            best = torch.where(better, error, best)
            kept = (torch.where(better, site.theta, kept[0]), torch.where(better, site.bias, kept[1]))
        put(*kept)
