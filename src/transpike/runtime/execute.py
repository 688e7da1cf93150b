"""Runs a lowered network: every pass of the schedule, in chunks of time-steps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.runtime.interpreters import Count, Observer, Observing
from transpike.runtime.lower import Lowered
from transpike.schedules import Memory


def run_passes(
    lower: Callable[[int], Lowered],
    lengths: Sequence[int],
    constant: Sequence[Tensor],
    moving: Mapping[str, Tensor],
    *,
    batch: int,
    device: torch.device,
    sites: Collection[str],
    chunk: int | None,
    observe: Observer | None,
) -> Any:
    """Runs all passes; the answer ``[S, N, *]`` is that of the last one.

    Args:
        lower: gives the lowered network of a pass, counted from 0.
        lengths: steps of each pass.
        constant: the arguments that are the same at every step, ``[N, *]``.
        moving: the others by name, ``[S, N, *]``.
        batch: N.
        device: where the network is.
        sites: names of the nodes whose memory goes on to the next pass.
        chunk: steps that every stage runs before the next stage starts; None is all.
        observe: told the drive and events of every site.
    """
    memories: tuple[Memory | None, ...] = ()
    answer: Any = None
    for number, total in enumerate(lengths):
        lowered = lower(number)
        statics = lowered.prologue(*constant)
        run = lowered.body if observe is None else Observing(lowered.body, observe).run
        if number == 0:
            memories = (None,) * len(lowered.stateful)
        else:  # readouts and temporal operators start afresh
            pairs = zip(lowered.stateful, memories, strict=True)
            memories = tuple(memory if owner in sites else None for owner, memory in pairs)
        parts = []
        for begin in range(0, total, chunk or total):
            now = min(chunk or total, total - begin)
            start = torch.tensor(begin, device=device)
            frames = [values[begin : begin + now].flatten(0, 1) for values in moving.values()]
            part, memories = run(batch, now, start, *memories, *statics, *frames)
            parts.append(part)
        answer = parts[0] if len(parts) == 1 else pytree.tree_map(_concatenate, *parts)
    return answer


def counting(count: Count, observe: Observer | None) -> Observer:
    """An observer that counts the spikes of every step, and tells another one."""

    def both(site: str, drive: Tensor, events: Tensor) -> None:
        count(site, events.abs().flatten(1).sum(1, dtype=torch.float64).long())
        if observe is not None:
            observe(site, drive, events)

    return both


def _concatenate(*rows: Any) -> Any:
    """The chunks of an answer's tensor; a constant beside the tensors is the same in all."""
    return torch.cat(rows) if isinstance(rows[0], Tensor) else rows[0]
