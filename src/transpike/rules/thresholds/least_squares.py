"""The threshold of least squared error of T + 1 evenly spaced levels, for any distribution of the values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.rules.contract import Granularity, PerLayer, ThresholdRule

_PER_OCTAVE = 14.4  # points of the first search

Above = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Number (or probability) and sum (or expectation) of the values above places ``[rows, K]``, each ``[rows, K]``."""


@dataclass(frozen=True)
class LeastSquaresRule(ThresholdRule):
    """A rule that is tuned for T steps.

    Attributes:
        steps: T, from 1 to 1024: a histogram could not tell more levels apart.
        granularity: one threshold per layer or per channel.
    """

    steps: int
    granularity: Granularity = field(default_factory=PerLayer)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= 1024:
            raise ValueError(f"steps must lie in 1 to 1024, got {self.steps}; for more steps use Maximum()")


def least_squares_threshold(above: Above, largest: Tensor, steps: int) -> Tensor:
    """Minimises ``E (max(z, 0) - q(z))^2``, ``q = (theta/T) clip(floor(T z/theta + 1/2), 0, T)``, for each row.

    With the levels' lower edges ``e_i = (i - 1/2) theta/T`` and ``i^2 - (i-1)^2 = 2i - 1``:
    ``E q^2 - 2 E z q = (theta/T)^2 sum_i (2i - 1) P(z > e_i) - 2 (theta/T) sum_i E z [z > e_i]``.
    Searches below the largest threshold that uses all levels, down to 1/1024 of it, and on to 1/8 of the mean of the
    positive values where few are large: then twice around the best, to 2e-4 of theta. No smaller threshold is best:
    against sending nothing, one of theta saves at most ``2 theta E z``.

    Args:
        above: the tails of the distributions.
        largest: per row, above which there are no values, ``[rows]``, float64.
        steps: T.
    """
    levels = torch.arange(1, steps + 1, dtype=torch.float64, device=largest.device)

    def loss(theta: Tensor) -> Tensor:
        unit = theta / steps
        count, total = above(unit.unsqueeze(1) * (levels - 0.5))
        return unit * unit * (count * (2 * levels - 1)).sum(1) - 2 * unit * total.sum(1)

    top = largest * steps / (steps - 0.5)
    positive, total = (tail.squeeze(1) for tail in above(torch.zeros_like(largest).unsqueeze(1)))
    mean = total / torch.where(positive > 0, positive, 1.0)
    least = torch.where(mean > 0, torch.minimum(top / 1024, mean / 8), top / 1024)
    reach = torch.where(top > 0, top / least, 1.0).sqrt()
    points = 1 + 2 * math.ceil(_PER_OCTAVE * float(reach.max().log2()))
    theta = _best(loss, top / reach, reach, points)
    for finer in (1, 16):  # from the distance between two points of the grid before
        theta = _best(loss, theta, reach ** (2 / (points - 1) / finer), 33)
    return theta


def _best(loss: Callable[[Tensor], Tensor], center: Tensor, reach: Tensor, points: int) -> Tensor:
    """The best of ``points`` values from ``center / reach`` to ``center * reach``, evenly spaced in the logarithm."""
    best, least = center, torch.full_like(center, math.inf)
    for exponent in torch.linspace(-1.0, 1.0, points).tolist():
        candidate = center * reach**exponent
        now = loss(candidate)
        best, least = torch.where(now < least, candidate, best), torch.minimum(now, least)
    return best
