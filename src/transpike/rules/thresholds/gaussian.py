"""Thresholds of least squared error if pre-activations were normally distributed (fixed point of DCGS, Lemma 4.7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from transpike.rules.contract import Statistic
from transpike.rules.thresholds.least_squares import LeastSquaresRule, least_squares_threshold

DEVIATIONS = 8.0
"""How many standard deviations above the mean the search begins; no T up to 1024 wants a threshold as large."""


@dataclass(frozen=True)
class GaussianMSE(LeastSquaresRule):
    """The threshold that minimises `MinimumMSE`'s error for a normal distribution with the data's mean and variance.

    Only two moments are taken from the data, so few images are enough. At the minimum theta is the fixed point of
    ``theta <- k theta``, k the least-squares factor ``E[z q]/E[q^2]`` of what the spikes say, q; both expectations are
    sums of error functions and exponentials. Needs data, no labels, no retraining; binary events.

    Differs from the paper in that the closed form's minimum is searched for instead of iterated to: the iteration
    takes thousands of rounds for many steps, and has several fixed points where nearly all values are positive. A row
    whose mean lies more than 8 deviations below zero counts as silent; one without variance takes its value.

    Attributes:
        steps: T, for which the threshold is best.
        granularity: one threshold per layer or per channel.
    """

    def statistic(self) -> Statistic:
        """Mean and variance per row."""
        return _Moments(self.steps)


class _Moments(Statistic):
    """Mean and summed squared deviation, merged batch by batch so that large means do not cancel (Chan et al. 1979)."""

    def __init__(self, steps: int) -> None:
        self.levels = steps
        self.count = 0
        self.mean: Tensor | None = None
        self.spread: Tensor | None = None

    def update(self, rows: Tensor) -> None:
        values = rows.double()
        count, mean = values.shape[1], values.mean(1)
        spread = (values - mean.unsqueeze(1)).square().sum(1)
        self.dtype = rows.dtype
        if self.mean is None or self.spread is None:
            self.count, self.mean, self.spread = count, mean, spread
            return
        total = self.count + count
        apart = mean - self.mean
        self.mean = self.mean + apart * (count / total)
        self.spread = self.spread + spread + apart.square() * (self.count * count / total)
        self.count = total

    def result(self) -> Tensor:
        assert self.mean is not None
        assert self.spread is not None
        deviation = (self.spread / self.count).sqrt()
        known = deviation > 0
        unit = torch.where(known, deviation, 1.0)
        theta = unit * _threshold(self.mean / unit, self.levels)
        return torch.where(known, theta, self.mean.clamp_min(0.0)).to(self.dtype)


def _threshold(mean: Tensor, steps: int) -> Tensor:
    """The best thresholds for normal distributions with these means and variance 1."""
    center = mean.unsqueeze(1)

    def above(places: Tensor) -> tuple[Tensor, Tensor]:
        distance = places - center
        probability = torch.special.erfc(distance / math.sqrt(2.0)) / 2
        density = torch.exp(-distance.square() / 2) / math.sqrt(2.0 * math.pi)
        return probability, center * probability + density

    return least_squares_threshold(above, (mean + DEVIATIONS).clamp_min(0.0), steps)
