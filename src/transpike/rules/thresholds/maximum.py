"""Thresholds from the largest activation (data-based normalisation, Diehl et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.rules.contract import Granularity, PerLayer, Statistic, ThresholdRule


@dataclass(frozen=True)
class Maximum(ThresholdRule):
    """Threshold = the largest ReLU output on calibration data. Needs data, no labels, no retraining.

    Differs from the paper in that weights are not rescaled: the threshold carries the scale.
    """

    granularity: Granularity = field(default_factory=PerLayer)

    def statistic(self) -> Statistic:
        """A running maximum."""
        return _RunningMaximum()


class _RunningMaximum(Statistic):
    def __init__(self) -> None:
        self.value: Tensor | None = None

    def update(self, rows: Tensor) -> None:
        now = rows.amax(1).clamp_min(0.0)
        self.value = now if self.value is None else torch.maximum(self.value, now)

    def result(self) -> Tensor:
        assert self.value is not None
        return self.value
