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

    Where a channel is active more seldom, so that its percentile falls on zeros, its largest activation is taken.
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

    Zeros are counted apart. The result interpolates between two order statistics as ``numpy.percentile`` does; each is
    known to one bin, so the result lies within one bin width, at most 1/4096 of the largest value of its row, of the
    exact percentile. Where the lower of the two is zero there is nothing to interpolate: the largest value is taken.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.counts: Tensor | None = None  # of the positive values
        self.zeros: Tensor | None = None
        self.top: Tensor | None = None  # upper end of each row's histogram, a power of two times its first maximum
        self.maximum: Tensor | None = None

    def update(self, rows: Tensor) -> None:
        """Adds ReLU outputs of ``[rows, values]``."""
        rows = rows.clamp_min(0.0)
        rows = rows if rows.dtype == torch.float64 else rows.float()  # half precision cannot tell the bins apart
        largest = rows.amax(1)
        if self.counts is None or self.zeros is None or self.top is None or self.maximum is None:
            self.counts = torch.zeros(rows.shape[0], BINS, dtype=torch.int64, device=rows.device)
            self.zeros = self.counts[:, 0].clone()
            self.top = largest.clone()
            self.maximum = largest.clone()
        self._widen(largest)
        self.maximum = torch.maximum(self.maximum, largest)
        self.zeros += (rows == 0).sum(1)
        unit = torch.where(self.top > 0, self.top, 1.0).unsqueeze(1)
        index = (rows / unit * BINS).long().clamp_max(BINS - 1)
        index += torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) * BINS
        self.counts += torch.bincount(index[rows > 0], minlength=self.counts.numel()).view_as(self.counts)

    def _widen(self, largest: Tensor) -> None:
        assert self.counts is not None
        assert self.top is not None
        self.top = torch.where(self.top == 0, largest, self.top)  # so far all values of the row were zero
        while bool((largest > self.top).any()):
            grow = largest > self.top
            pairs = self.counts.view(-1, BINS // 2, 2).sum(2)
            merged = torch.cat([pairs, torch.zeros_like(pairs)], 1)
            self.counts = torch.where(grow.unsqueeze(1), merged, self.counts)
            self.top = torch.where(grow, 2 * self.top, self.top)

    def result(self) -> Tensor:
        """The percentile of each row."""
        assert self.counts is not None
        assert self.zeros is not None
        assert self.maximum is not None
        rank = self.fraction * (self.zeros + self.counts.sum(1) - 1).double()  # as numpy.percentile counts
        lower = rank.floor()
        below, above = self._ordered(lower), self._ordered(rank.ceil())
        value = torch.lerp(below, above, (rank - lower).to(below.dtype))
        return torch.where((lower < self.zeros) | (self.fraction >= 1.0), self.maximum, value)

    def _ordered(self, rank: Tensor) -> Tensor:
        """The value at a place (from 0) in the sorted row, taken in the middle of its share of its bin."""
        assert self.counts is not None
        assert self.zeros is not None
        assert self.top is not None
        assert self.maximum is not None
        place = (rank - self.zeros).clamp_min(0.0).unsqueeze(1)
        cumulative = self.counts.cumsum(1).double()
        index = torch.searchsorted(cumulative, place, right=True).clamp_max(BINS - 1)
        inside = self.counts.gather(1, index)
        before = cumulative.gather(1, index) - inside
        position = (index + (place - before + 0.5) / inside.clamp_min(1)) / BINS
        value = torch.minimum(position.squeeze(1).to(self.top.dtype) * self.top, self.maximum)
        last = rank + 1 >= self.zeros + self.counts.sum(1)
        return torch.where(last, self.maximum, value)
