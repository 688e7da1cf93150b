"""Thresholds from a percentile of the activations (robust normalisation, Rueckauer et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.methods.contract import Granularity, PerLayer, Statistic, ThresholdRule

BINS = 8192


@dataclass(frozen=True)
class Percentile(ThresholdRule):
    """Threshold = a percentile of the ReLU outputs (zeros included) on calibration data.

    Where that percentile is zero, because a channel is active more seldom, its largest activation is taken.
    Needs data, no labels, no retraining. Differs from the paper in that weights are not rescaled.

    Attributes:
        percentile: in (0, 100]; 100 is the maximum.
        granularity: one threshold per layer or per channel.
    """

    percentile: float = 99.9
    granularity: Granularity = field(default_factory=PerLayer)

    def __post_init__(self) -> None:
        if not 0.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must lie in (0, 100], got {self.percentile}")

    def statistic(self) -> Statistic:
        """A histogram per row."""
        return HistogramPercentile(self.percentile / 100.0)


class HistogramPercentile(Statistic):
    """Percentile from a histogram whose range doubles when a larger value comes; memory does not grow with data.

    The result is interpolated inside a bin and lies within one bin width, at most 1/4096 of the largest value of
    its row, of the exact percentile.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.counts: Tensor | None = None
        self.top: Tensor | None = None  # upper end of each row's histogram, a power of two times its first maximum
        self.maximum: Tensor | None = None

    def update(self, rows: Tensor) -> None:
        """Adds ReLU outputs of ``[rows, values]``."""
        rows = rows.clamp_min(0.0)
        largest = rows.amax(1)
        if self.counts is None or self.top is None or self.maximum is None:
            self.counts = torch.zeros(rows.shape[0], BINS, dtype=torch.int64, device=rows.device)
            self.top = largest.clone()
            self.maximum = largest.clone()
        self._widen(largest)
        self.maximum = torch.maximum(self.maximum, largest)
        scale = torch.where(self.top > 0, BINS / self.top, 0.0)
        index = (rows * scale.unsqueeze(1)).long().clamp_max(BINS - 1)
        index += torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) * BINS
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def _widen(self, largest: Tensor) -> None:
        assert self.counts is not None
        assert self.top is not None
        empty = (self.top == 0) & (largest > 0)  # so far all values of the row were zero, in bin 0
        self.top = torch.where(empty, largest, self.top)
        while bool((largest > self.top).any()):
            grow = largest > self.top
            pairs = self.counts.view(-1, BINS // 2, 2).sum(2)
            merged = torch.cat([pairs, torch.zeros_like(pairs)], 1)
            self.counts = torch.where(grow.unsqueeze(1), merged, self.counts)
            self.top = torch.where(grow, 2 * self.top, self.top)

    def result(self) -> Tensor:
        """The percentile of each row."""
        assert self.counts is not None
        assert self.top is not None
        assert self.maximum is not None
        rank = self.fraction * (self.counts.sum(1) - 1).double()  # as numpy.percentile's linear method counts
        cumulative = self.counts.cumsum(1).double()
        bin_index = torch.searchsorted(cumulative, rank.unsqueeze(1), right=True).squeeze(1).clamp_max(BINS - 1)
        below = torch.where(
            bin_index > 0, cumulative.gather(1, (bin_index - 1).clamp_min(0).unsqueeze(1)).squeeze(1), 0.0
        )
        inside = self.counts.gather(1, bin_index.unsqueeze(1)).squeeze(1).clamp_min(1)
        position = (bin_index + (rank - below) / inside) / BINS
        value = position.to(self.top.dtype) * self.top
        if self.fraction >= 1.0:
            return self.maximum
        return torch.where(bin_index == 0, self.maximum, torch.minimum(value, self.maximum))
