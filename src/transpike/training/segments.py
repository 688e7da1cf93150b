"""Runs through time that forget what they computed: the backward pass computes each segment of steps again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from transpike.network.spiking import SpikingNetwork
from transpike.runtime.interpreters import observing
from transpike.schedules import Memory, Plain

Counts = dict[str, Tensor]
"""By site, what is counted of its events in a segment."""


def run_in_segments(
    snn: SpikingNetwork,
    images: Tensor,
    total: int,
    segment: int,
    count: Callable[[str, Tensor], Tensor] | None = None,
) -> tuple[Tensor, Counts]:
    """The answers of `Plain` after every step, ``[T, N, classes]``, and sums of what is counted.

    Between segments only the memories are kept, membrane potentials and running outputs.

    Args:
        snn: the network.
        images: ``[N, *]``.
        total: T.
        segment: steps whose activations the backward pass holds at once.
        count: given a site and its events ``[S, N, *]``, what adds up over the segments.
    """
    stepper = snn.stepper(Plain())
    statics = stepper.prologue(images)

    def run(begin: int, now: int, memory: tuple[Memory | None, ...], constants: Any) -> tuple[Any, Any, Counts]:
        counted: Counts = {}

        def observe(site: str, _: Tensor, events: Tensor) -> None:
            counted[site] = count(site, events)  # type: ignore[misc]

        body = stepper.body if count is None else observing(stepper.body, observe)
        start = torch.tensor(begin, device=images.device)
        answer, memory = body(images.shape[0], now, start, *memory, *constants)
        return answer, memory, counted

    memory: tuple[Memory | None, ...] = (None,) * len(stepper.stateful)
    answers: list[Tensor] = []
    sums: Counts = {}
    for begin, end in pairwise((*range(0, total, segment), total)):
        answer, memory, counted = checkpoint(run, begin, end - begin, memory, statics, use_reentrant=False)
        answers.append(answer)
        sums = {site: value + sums[site] if site in sums else value for site, value in counted.items()}
    return torch.cat(answers), sums
