"""Thresholds of least squared error of what T binary spikes can say (SNNC, Li et al. 2021, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.methods.contract import Granularity, PerLayer, Statistic, ThresholdRule
from transpike.methods.histogram import BINS, GrowingHistogram, HistogramStatistic, Tails


@dataclass(frozen=True)
class MinimumMSE(ThresholdRule):
    """The threshold that minimises ``sum (max(z, 0) - (theta/T) clip(floor(T z/theta + 1/2), 0, T))^2`` over the data.

    Needs data, no labels, no retraining; binary events. Differs from the paper (MMSE) in that the +1/2, which the
    neuron has from v(0) = theta/2, is searched with too (the released code adds it at inference only); in that all data
    is weighed alike instead of by a moving average over batches; and in that the search is finer than its grid of 95
    fractions of the maximum.

    Attributes:
        steps: T, for which the threshold is best; it tends to the maximum as T grows.
        granularity: one threshold per layer or per channel.
    """

    steps: int
    granularity: Granularity = field(default_factory=PerLayer)

    def __post_init__(self) -> None:
        check_levels(self.steps)

    def statistic(self) -> Statistic:
        """A histogram per row."""
        return _LeastSquares(self.steps)


def check_levels(steps: int) -> None:
    """Refuses numbers of steps whose levels the histogram could not tell apart.

    Raises:
        ValueError: the number lies outside 1 to 1024.
    """
    if not 1 <= steps <= 1024:
        raise ValueError(f"steps must lie in 1 to 1024, got {steps}; for more steps use Maximum()")


class _LeastSquares(HistogramStatistic):
    """Searches from 1/1024 of the largest threshold that uses all levels up to it, then around the best one."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.levels = steps

    def evaluate(self, histogram: GrowingHistogram) -> Tensor:
        tails = Tails(histogram)
        places = torch.arange(1, self.levels + 1, dtype=torch.float64, device=histogram.counts.device) - 0.5
        weights = 2 * places  # level i replaces i - 1: i^2 - (i-1)^2 = 2i - 1

        def loss(theta: Tensor) -> Tensor:
            """The squared error less the sum of squares: ``sum q^2 - 2 z q``, by the tails above each level's edge."""
            unit = theta / self.levels
            count, total = tails.above(unit.unsqueeze(1) * places)
            return unit * unit * (count * weights).sum(1) - 2 * unit * total.sum(1)

        largest = tails.maximum * self.levels / (self.levels - 0.5)  # from there on level T is never reached
        theta = _best(loss, largest / 32, 32.0, 145)
        for ratio in (32.0 ** (2 / 144), 32.0 ** (2 / 144 / 16)):  # the distance between two points of the grid before
            theta = _best(loss, theta, ratio, 33)
        return (theta / BINS * histogram.top.double()).to(histogram.top.dtype)


def _best(loss: Callable[[Tensor], Tensor], center: Tensor, reach: float, points: int) -> Tensor:
    """The best of ``points`` values from ``center / reach`` to ``center * reach``, evenly spaced in the logarithm."""
    best, least = center, torch.full_like(center, math.inf)
    for exponent in torch.linspace(-1.0, 1.0, points).tolist():
        candidate = center * reach**exponent
        now = loss(candidate)
        best, least = torch.where(now < least, candidate, best), torch.minimum(now, least)
    return best
