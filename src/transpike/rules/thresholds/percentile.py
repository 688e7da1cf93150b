"""Thresholds from a percentile of the activations (robust normalisation, Rueckauer et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.rules.contract import Granularity, PerLayer, Statistic, ThresholdRule
from transpike.rules.thresholds.histogram import BINS, GrowingHistogram, HistogramStatistic


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
        super().__post_init__()
        if not 0.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must lie in (0, 100], got {self.percentile}")

    def statistic(self) -> Statistic:
        """A histogram per row."""
        return HistogramPercentile(self.percentile / 100.0)


class HistogramPercentile(HistogramStatistic):
    """Percentile from a histogram; memory does not grow with data.

    The result interpolates between two order statistics as ``numpy.percentile`` does; each is known to one bin of
    `GrowingHistogram`, so the relative error is below ``2^-precision``, whatever the largest value is: 0.2 % where the
    positive values of a row span at most 32 octaves, at most 1.6 % else. The least and the largest positive value are
    exact. Where the lower of the two is zero there is nothing to interpolate: the largest value is taken.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__()
        self.fraction = fraction

    def evaluate(self, histogram: GrowingHistogram) -> Tensor:
        """The percentile of each row."""
        cumulative = histogram.counts.cumsum(1)
        rank = self.fraction * (histogram.zeros + cumulative[:, -1] - 1).double()  # as numpy.percentile counts
        lower = rank.floor()
        below, above = (_ordered(histogram, cumulative, place.long()) for place in (lower, rank.ceil()))
        value = torch.lerp(below, above, rank - lower)
        alone = (lower < histogram.zeros) | (self.fraction >= 1.0)
        return torch.where(alone, histogram.maximum.double(), value)


def _ordered(histogram: GrowingHistogram, cumulative: Tensor, rank: Tensor) -> Tensor:
    """The value at a place (from 0) in the sorted row, taken in the middle of its share of its bin."""
    place = (rank - histogram.zeros).clamp_min(0).unsqueeze(1)
    index = torch.searchsorted(cumulative, place, right=True).clamp_max(BINS - 1)
    inside = histogram.counts.gather(1, index).double()
    share = (place - cumulative.gather(1, index) + inside + 0.5) / inside.clamp_min(1.0)
    value = torch.lerp(histogram.edges(index), histogram.edges(index + 1), share).squeeze(1)
    value = torch.where(rank == histogram.zeros, histogram.minimum.double(), value)
    return torch.where(rank + 1 >= histogram.zeros + cumulative[:, -1], histogram.maximum.double(), value)
