"""The threshold of least squared error of T + 1 evenly spaced levels, for any distribution of the values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from transpike.rules.contract import Granularity, PerLayer, ThresholdRule

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
    Searches from 1/1024 of the largest threshold that uses all levels, then twice around the best, to 2e-4 of theta.

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

    theta = _best(loss, largest * steps / (steps - 0.5) / 32, 32.0, 145)
    for reach in (32.0 ** (2 / 144), 32.0 ** (2 / 144 / 16)):  # the distance between two points of the grid before
        theta = _best(loss, theta, reach, 33)
    return theta


def _best(loss: Callable[[Tensor], Tensor], center: Tensor, reach: float, points: int) -> Tensor:
    """The best of ``points`` values from ``center / reach`` to ``center * reach``, evenly spaced in the logarithm."""
    best, least = center, torch.full_like(center, math.inf)
    for exponent in torch.linspace(-1.0, 1.0, points).tolist():
        candidate = center * reach**exponent
        now = loss(candidate)
        best, least = torch.where(now < least, candidate, best), torch.minimum(now, least)
    return best
