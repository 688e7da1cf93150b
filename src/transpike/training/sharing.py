"""How processes that ``torchrun`` started share a training: each takes its part of every batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import BatchSampler, Sampler

from transpike.evaluation.processes import rank_and_number


class OwnBatches(Sampler[list[int]]):
    """Every batch, or this process' part of it.

    A process whose part is empty gets the batch's first sample, which `own_share` counts as nothing.

    Args:
        order: of all samples, the same in every process; its ``set_epoch`` is called by the trainer.
        batch_size: samples of all processes together.
        fill: whether a process without a part gets a sample; without it the process has a batch less.
    """

    def __init__(self, order: Sampler[int], batch_size: int, *, fill: bool = True) -> None:
        self.sampler = order
        self.batch_size = batch_size
        self.fill = fill

    def __iter__(self) -> Iterator[list[int]]:
        rank, processes = rank_and_number()
        for batch in BatchSampler(self.sampler, self.batch_size, drop_last=False):
            own = batch[rank::processes]
            if own or self.fill:
                yield own or batch[:1]

    def __len__(self) -> int:
        rank, _ = rank_and_number()
        whole, last = divmod(len(self.sampler), self.batch_size)  # type: ignore[arg-type]
        return whole * (self.fill or rank < self.batch_size) + (last > 0 and (self.fill or rank < last))


def own_share(index: int, samples: int, batch_size: int, micro_batch: int) -> tuple[float, float]:
    """What the mean loss of this process' part of a step counts for.

    Processes and parts are averaged, whatever their sizes; weighed so, the average is the mean over the batch.

    Args:
        index: of the step in the epoch, from 0; several steps make a batch.
        samples: of the epoch.
        batch_size: samples whose gradients add up.
        micro_batch: samples of a step, all processes together; a divisor of ``batch_size``.

    Returns:
        The factor of the loss, and the share of the step's samples that this process has, 1 for a single one.
    """
    rank, processes = rank_and_number()
    parts = batch_size // micro_batch
    batch, part = divmod(index, parts)
    there = min(batch_size, samples - batch * batch_size)
    step = min(micro_batch, there - part * micro_batch)
    own = len(range(rank, step, processes))
    return parts * processes * own / there, own / step


def trainer_processes() -> dict[str, Any]:
    """Lightning's settings for the processes that ``torchrun`` started, else for one."""
    number, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if number == 1 or "RANK" not in os.environ:
        return {"devices": 1}
    return {"devices": here, "num_nodes": number // here, "strategy": "ddp", "use_distributed_sampler": False}
