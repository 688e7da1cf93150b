"""The generic loop over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

S = TypeVar("S")


def scan(step: Callable[[S, Tensor], tuple[S, Tensor]], state: S, drive: Tensor) -> tuple[S, Tensor]:
    """Runs a pure ``step(state, drive_t) -> (state, output_t)`` over the first dimension of ``drive``.

    Args:
        step: one time-step; must not change its arguments.
        state: the state before the first step.
        drive: ``[S, N, *]`` with S >= 1.

    Returns:
        The last state, and the outputs stacked to ``[S, N, *]``.
    """
    outputs = []
    for current in drive:
        state, output = step(state, current)
        outputs.append(output)
    return state, torch.stack(outputs)
