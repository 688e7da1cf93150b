"""Runs a lowered network: every pass of the schedule, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.runtime.interpreters import Count, Observer, observing, refuse_overflow
from transpike.runtime.lower import Lowered
from transpike.schedules import Memory

MEMORY = 32 * 2**20
"""Bytes that the currents of one site may take where nothing else is said: what stays in a CPU's caches."""
MEMORY_ON_GPU = 2**30
"""The same on a GPU, which wants large batches."""


@dataclass(frozen=True)
class DenseRun:
    """All passes of a network with torch's own operators.

    Attributes:
        passes: the lowered network of each pass.
        bodies: what runs the steps of each pass: its ``body``, or a compiled form of it.
        lengths: steps of each pass.
        sites: names of the nodes whose memory goes on to the next pass.
        device: where the network is.
        size: samples that run at once; others follow.
        chunk: steps that every stage runs before the next stage starts.
        observe: called with the drive and events of every site.
        narrow: whether drives are checked for overflow, as float16 needs.
    """

    passes: Sequence[Lowered]
    bodies: Sequence[Callable[..., Any]]
    lengths: Sequence[int]
    sites: Collection[str]
    device: torch.device
    size: int
    chunk: int
    observe: Observer | None
    narrow: bool = False

    def run(self, constant: Sequence[Tensor], frames: Mapping[str, Tensor], batch: int, count: Count | None) -> Any:
        """The answer ``[S, N, *]``, that of the last pass.

        Args:
            constant: the arguments that are the same at every step, ``[N, *]``.
            frames: the others by name, ``[S, N, *]``.
            batch: N.
            count: called with the spikes of every site.
        """
        by_sample = [*constant, *(values.transpose(0, 1) for values in frames.values())]

        def run(part: Sequence[Tensor], samples: int, counter: Count | None) -> Any:
            varying = [values.transpose(0, 1) for values in part[len(constant) :]]
            return self._run_passes(part[: len(constant)], varying, samples, counter)

        return run_in_parts(run, by_sample, batch, self.size, count)

    def _run_passes(
        self, constant: Sequence[Tensor], varying: Sequence[Tensor], batch: int, count: Count | None
    ) -> Any:
        memories: tuple[Memory | None, ...] = ()
        answer: Any = None
        for number, (lowered, body, total) in enumerate(zip(self.passes, self.bodies, self.lengths, strict=True)):
            statics = lowered.prologue(*constant)
            spikes: dict[str, list[Tensor]] = {}
            observe = _refusing(self.observe) if self.narrow else self.observe
            observe = observe if count is None else _counting(spikes, observe)
            run = body if observe is None else observing(lowered.body, observe)
            if number == 0:
                memories = (None,) * len(lowered.stateful)
            else:  # readouts and temporal operators start afresh
                pairs = zip(lowered.stateful, memories, strict=True)
                memories = tuple(memory if owner in self.sites else None for owner, memory in pairs)
            parts = []
            for begin in range(0, total, self.chunk):
                now = min(self.chunk, total - begin)
                start = torch.tensor(begin, device=self.device)
                frames = [values[begin : begin + now].flatten(0, 1) for values in varying]
                part, memories = run(batch, now, start, *memories, *statics, *frames)
                parts.append(part)
            answer = parts[0] if len(parts) == 1 else _concatenate(parts, 0)
            if count is not None:
                for site, found in spikes.items():
                    count(site, torch.cat(found))
        return answer


def _counting(spikes: dict[str, list[Tensor]], observe: Observer | None) -> Observer:
    """An observer that keeps the number of spikes of every step, and tells another one."""

    def both(site: str, drive: Tensor, events: Tensor) -> None:
        spikes.setdefault(site, []).append(events.abs().flatten(1).sum(1, dtype=torch.float64).long())
        if observe is not None:
            observe(site, drive, events)

    return both


def _refusing(observe: Observer | None) -> Observer:
    """An observer that checks drives, and tells another one."""

    def both(site: str, drive: Tensor, events: Tensor) -> None:
        refuse_overflow(site, drive, events)
        if observe is not None:
            observe(site, drive, events)

    return both


def run_in_parts(
    run: Callable[[Sequence[Tensor], int, Count | None], Any],
    inputs: Sequence[Tensor],
    batch: int,
    size: int,
    count: Count | None,
) -> Any:
    """Runs some samples after the others; answers and counts are those of one run of all of them.

    Args:
        run: gives the answer ``[S, M, *]`` for M samples, and calls the counter with the spikes of every site.
        inputs: ``[N, *]``.
        batch: N.
        size: the largest M.
        count: called with the spikes of every site, all samples together.
    """
    if size >= batch:
        return run(inputs, batch, count)
    counted: list[list[tuple[str, Tensor]]] = []
    answers = []
    for begin in range(0, batch, size):
        calls: list[tuple[str, Tensor]] = []
        part = [tensor[begin : begin + size] for tensor in inputs]
        samples = min(size, batch - begin)
        answers.append(run(part, samples, None if count is None else lambda *call, to=calls: to.append(call)))
        counted.append(calls)
    if count is not None:
        for same in zip(*counted, strict=True):  # the sites come in one order
            count(same[0][0], torch.stack([spikes for _, spikes in same]).sum(0))
    return _concatenate(answers, 1)


def _concatenate(parts: Sequence[Any], dim: int) -> Any:
    """The parts of an answer as one; what is no tensor is the same in all."""
    return pytree.tree_map(
        lambda *values: torch.cat(values, dim) if isinstance(values[0], Tensor) else values[0], *parts
    )
