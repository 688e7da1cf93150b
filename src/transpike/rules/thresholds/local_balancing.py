"""Thresholds by local threshold balancing (LTB, Bu et al., CVPR 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.rules.contract import Granularity, PerChannel, Statistic, ThresholdRule
from transpike.rules.thresholds.histogram import GrowingHistogram, HistogramStatistic, Tails


@dataclass(frozen=True)
class LocalThresholdBalancing(ThresholdRule):
    """Gradient descent on the clipping error: from 0, ``theta <- theta + 2 rate mean(max(z - theta, 0))``.

    The mean runs over all values, those below theta included. Only at the maximum nothing is clipped any more, so the
    number of iterations decides: more suit many steps, fewer suit few. T itself does not enter; see `MinimumMSE`.
    Needs data, no labels, no retraining; binary events.

    Differs from the paper in that the mean of an iteration is that of all calibration data, from a histogram, not of
    one batch, so that data is read once; in that z comes from the source network, not from one whose earlier layers are
    clipped at their thresholds so far; and in that theta stays below the largest value, where the first iteration
    would exceed it (a row that always is active). Its delayed readout is `transpike.delayed_readout`.

    Attributes:
        iterations: how often theta grows; the released code's number.
        rate: eta, the released code's.
        granularity: one threshold per layer or, as in the paper, per channel.
    """

    iterations: int = 4000
    rate: float = 1.0
    granularity: Granularity = field(default_factory=PerChannel)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"rate must be positive and finite, got {self.rate}")

    def statistic(self) -> Statistic:
        """A histogram per row."""
        return _Balancing(self.iterations, self.rate)


class _Balancing(HistogramStatistic):
    def __init__(self, iterations: int, rate: float) -> None:
        super().__init__()
        self.iterations = iterations
        self.rate = rate

    def evaluate(self, histogram: GrowingHistogram) -> Tensor:
        tails = Tails(histogram)
        everything = (histogram.zeros + histogram.counts.sum(1)).double()
        theta = torch.zeros_like(tails.maximum)
        for _ in range(self.iterations):
            count, total = (tail.squeeze(1) for tail in tails.above(theta.unsqueeze(1)))
            clipped = (total - count * theta) / everything
            theta = torch.minimum(theta + 2 * self.rate * clipped, tails.maximum)
        return tails.unit * theta
