"""What corrections of means have in common: a value moves until a mean is right, and never makes it worse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.fields import check_count


def correct(
    value: Tensor, put: Callable[[Tensor], None], error: Callable[[], Tensor], *, gain: float, iterations: int
) -> None:
    """Adds ``gain * error()`` to a value, again and again, each entry for itself.

    Where a step does not make the error smaller, because spikes come in whole numbers, the step is taken back and half
    of it is tried next. So no entry ends with a larger error than it had.

    Args:
        value: what is set now.
        put: sets another value, of a shape to which ``value`` and the error broadcast.
        error: wanted minus found, with what is set now; an entry depends on the value's same entry only.
        gain: by how much the value must move per error.
        iterations: how often to try, each time at the cost of one call of ``error``.
    """
    value, best = value.double(), error()
    step = torch.full_like(best, gain)
    for _ in range(iterations):
        tried = value + step * best
        put(tried)
        found = error()
        better = found.abs() < best.abs()
        value = torch.where(better, tried, value)
        best = torch.where(better, found, best)
        step = torch.where(better, step, step / 2)
    put(value)


def check_counts(**counts: int) -> None:
    """Checks numbers of steps or iterations.

    Raises:
        ValueError: one is below 1, or above `MOST_STEPS`.
    """
    for name, count in counts.items():
        check_count(name, count, most=MOST_STEPS)
