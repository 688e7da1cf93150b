"""Sequences of a lowered network: time is folded into the batch, ``[S * N, ...]``, step-major."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.graph.plan import Layout


def fold(value: Tensor) -> Tensor:
    """``[S, N, *] -> [S * N, *]``."""
    return value.flatten(0, 1)


def unfold(value: Tensor, batch: int) -> Tensor:
    """``[S * N, *] -> [S, N, *]``."""
    return value.reshape(-1, batch, *value.shape[1:])


def in_time(value: Tensor, batch: int, layout: Layout) -> Tensor:
    """A folded sequence of any layout as ``[S, rows, *]``."""
    dim, factor = layout
    return unfold(value.movedim(dim, 0), batch * factor)


def out_of_time(value: Tensor, layout: Layout) -> Tensor:
    """The inverse of `in_time`."""
    return fold(value).movedim(0, layout[0])


def steps_of(sequence: Tensor, batch: int, layout: Layout) -> int:
    """The number of steps of a folded sequence."""
    return sequence.shape[layout[0]] // (batch * layout[1])


def join(
    batch: int, held: tuple[bool, ...], layouts: tuple[Layout, ...], incremental: bool, *values: Tensor
) -> tuple[Tensor, ...]:
    """Brings the operands of one operator to the same number of steps.

    A branch that is ahead waits, so every sequence is cut to the steps that all have; increments have ended where a
    sequence is shorter, and zeros follow. Values that are the same at every step (``held``) are repeated.
    """
    lengths = [
        steps_of(value, batch, layout) for value, hold, layout in zip(values, held, layouts, strict=True) if not hold
    ]
    steps = max(lengths) if incremental else min(lengths)
    joined = []
    for value, hold, layout in zip(values, held, layouts, strict=True):
        sequence = in_time(value, batch, layout)
        if hold:
            sequence = sequence.expand(steps, *sequence.shape[1:])
        elif len(sequence) != steps:
            sequence = lengthened(sequence[:steps], steps)
        else:
            joined.append(value)
            continue
        joined.append(out_of_time(sequence, layout))
    return tuple(joined)


def lengthened(sequence: Tensor, steps: int) -> Tensor:
    """``[S, *]`` with zeros behind, ``[steps, *]``."""
    missing = steps - len(sequence)
    return torch.cat([sequence, sequence.new_zeros(missing, *sequence.shape[1:])]) if missing else sequence


def first_step(value: Any, batch: int, layout: Layout) -> Any:
    """The first step of a folded sequence."""
    dim, factor = layout
    return pytree.tree_map(lambda sequence: sequence.narrow(dim, 0, batch * factor), value)


def silence(value: Any, batch: int, layout: Layout) -> Any:
    """One step of zeros."""
    return pytree.tree_map(torch.zeros_like, first_step(value, batch, layout))


def first_only(value: Any, at_rest: Any, batch: int, layout: Layout) -> Any:
    """Takes what an operator gives for zeros, such as its bias, off all steps of a folded sequence but the first."""

    def difference(value: Tensor, at_rest: Tensor) -> Tensor:
        steps = in_time(value, batch, layout)
        rest = at_rest.movedim(layout[0], 0)
        return out_of_time(torch.cat([steps[:1], steps[1:] - rest]), layout)

    return pytree.tree_map(difference, value, at_rest)  # an operator may give several tensors
