"""Thresholds of least squared error of what T binary spikes can say (SNNC, Li et al. 2021, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transpike.rules.contract import Statistic
from transpike.rules.thresholds.histogram import GrowingHistogram, HistogramStatistic, Tails
from transpike.rules.thresholds.least_squares import LeastSquaresRule, least_squares_threshold


@dataclass(frozen=True)
class MinimumMSE(LeastSquaresRule):
    """The threshold that minimises ``sum (max(z, 0) - (theta/T) clip(floor(T z/theta + 1/2), 0, T))^2`` over the data.

    Needs data, no labels, no retraining; binary events. Differs from the paper (MMSE) in that the +1/2, which the
    neuron has from v(0) = theta/2, is searched with too (the released code adds it at inference only); in that all data
    is weighed alike instead of by a moving average over batches; and in that the search is finer than its grid of 95
    fractions of the maximum.

    Attributes:
        steps: T, for which the threshold is best; it tends to the maximum as T grows.
        granularity: one threshold per layer or per channel.
    """

    def statistic(self) -> Statistic:
        """A histogram per row."""
        return _LeastSquares(self.steps)


class _LeastSquares(HistogramStatistic):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self.levels = steps

    def evaluate(self, histogram: GrowingHistogram) -> Tensor:
        tails = Tails(histogram)
        return tails.unit * least_squares_threshold(tails.above, tails.maximum, self.levels)
