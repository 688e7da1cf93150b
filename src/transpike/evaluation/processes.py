"""Work that several processes share, each with a copy of the network: ``torchrun`` and ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DistributedSampler

from transpike.errors import InputError


def rank_and_number() -> tuple[int, int]:
    """The number of this process, from 0, and how many there are: (0, 1) outside of ``torch.distributed``."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def sum_over_processes(values: Sequence[float], device: torch.device) -> list[float]:
    """Sums of numbers over all processes, the same in each; whole numbers below 2^53 exactly."""
    if rank_and_number()[1] == 1:
        return list(values)
    where = device if distributed.get_backend() == "nccl" else torch.device("cpu")
    total = torch.tensor(values, dtype=torch.float64, device=where)
    distributed.all_reduce(total)
    return total.tolist()


def from_first_process(value: Any) -> Any:
    """What the first process holds, in all of them."""
    if rank_and_number()[1] == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held)
    return held[0]


def check_shared(batches: Any) -> None:
    """Makes sure that all processes see the same batches.

    Raises:
        InputError: a `DistributedSampler` deals them out already, and repeats some so that all have as many.
    """
    if rank_and_number()[1] > 1 and isinstance(getattr(batches, "sampler", None), DistributedSampler):
        raise InputError(
            "the batches are dealt out to the processes by a DistributedSampler, which repeats samples",
            where="evaluate",
            fix="give every process a loader of all images: each evaluates its own share of the batches",
        )
