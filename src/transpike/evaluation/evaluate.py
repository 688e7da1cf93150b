"""Accuracy at every T, spikes, latency and time of a converted network, in one resumable run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transpike.calibration.progress import ProgressBar
from transpike.errors import DataError, InputError
from transpike.evaluation.delayed_readout import delayed_readout
from transpike.evaluation.processes import check_shared, from_first_process, rank_and_number, sum_over_processes
from transpike.evaluation.report import Report, Row, SiteActivity
from transpike.graph.walk import reference_tensor
from transpike.network.spiking import SpikingNetwork, converted
from transpike.runtime.encoding import Coding
from transpike.runtime.timing import SentSpikes, Timing
from transpike.schedules import Schedule
from transpike.schedules.contract import MOST_STEPS, check_schedule
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.digest import digest, digest_batches, digest_next
from transpike.serialization.fields import check_count
from transpike.serialization.json_records import check_writable

COUNTING_VERSION = 2
"""Of what is run and counted, beyond what names and settings say; caches of another version are not read."""
_SAVE_EVERY = 5.0  # seconds between two writes of an unfinished run


@dataclass
class _Progress:
    """What an unfinished run has counted so far."""

    batches: int
    images: int
    ann: list[int]  # top-1 and top-5 hits
    hits1: list[int]  # per step
    hits5: list[int]
    events: dict[str, list[float]]  # per site: spikes sent for the answer at t
    seconds: float
    data: str  # digest of all batches so far


def evaluate(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    *,
    steps: int,
    schedule: Schedule | None = None,
    coding: Coding = Coding.CONSTANT,
    at: Sequence[int] | None = None,
    readout_delay: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    chunk: int | None = None,
    memory_mib: int | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> Report:
    """Evaluates a classifier at T = 1 .. ``steps``.

    A prefix-consistent schedule needs one run for all T; others run again for each T in ``at``. Nothing may be chosen
    by these numbers when they come from a test set. Where ``torch.distributed`` is initialised, the processes take the
    batches in turn, and each returns the same report, that of all images.

    Args:
        snn: the converted network; moved to ``device`` and ``dtype`` if given.
        batches: pairs ``(images [N, *], class indices [N])`` in a fixed order, for example a DataLoader; the same in
            every process.
        steps: the largest T.
        schedule: how the network runs; None is the network's own.
        coding: constant current, or Poisson spikes (seeded by the number of the image).
        at: the rows wanted; None gives all T (prefix-consistent) or the powers of two.
        readout_delay: steps at the start whose output is left out (`transpike.delayed_readout`); spikes and latency
            are those of all steps.
        device: None leaves the network where it is.
        dtype: None leaves the network's type.
        chunk: as for `SpikingNetwork`; results do not depend on it.
        memory_mib: MiB that one site's currents may take, as for `SpikingNetwork`.
        cache: a JSON file; an unfinished run with the same network, settings and data goes on from there, a
            finished one is read, after all images and labels were compared with those it was made of. A used-up
            iterator cannot be compared first: its run is made again. Of several processes the first one reads and
            writes it, when all are finished.
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, rows outside 1 .. steps, or a negative delay.
        InputError, DataError: unusable batches or labels, other data than in the unfinished run, or a cache file that
            is none of ours.
    """
    snn = converted(snn, "evaluate")
    schedule = snn.schedule if schedule is None else check_schedule(schedule)
    rows = rows_for(steps, schedule, at)
    check_count("readout_delay", readout_delay, 0)
    if readout_delay and schedule.incremental:
        raise ValueError(f"the answer under {schedule} is a sum: no step of it can be left out")
    if cache is not None:
        check_writable(cache)
    if device is not None or dtype is not None:
        snn = snn.to(device=device, dtype=dtype)
    for site in snn.sites:
        if snn.site(site.name).v_init.dim() > max(1, len(site.shape)):
            raise InputError(
                "the initial potentials are those of particular samples",
                where=f"site {site.name}",
                fix="evaluate with potentials per layer, channel or neuron; call the network itself for one batch",
            )
    check_shared(batches)
    key = "" if cache is None else _key(snn, schedule, coding, rows, readout_delay)
    state = _Progress(0, 0, [0, 0], [0] * len(rows), [0] * len(rows), {}, 0.0, "")
    state.events = {site.name: [0.0] * len(rows) for site in snn.sites}
    shared = rank_and_number()[1] > 1
    stored = from_first_process(read_cache(cache, key))
    if stored is not None and "unfinished" in stored and shared:
        stored = None  # counts of one process, which would be summed once per process
    if stored is not None and "unfinished" in stored:
        state = _Progress(**stored["unfinished"])
    elif stored is not None and not isinstance(batches, Iterator) and digest_batches(batches) == stored["data"]:
        return Report.from_json(stored["report"])
    timings = [snn.timing(t, schedule) for t in rows]
    counter = _Counter(snn, schedule, coding, rows, timings, readout_delay, chunk, memory_mib, state)
    counted = _summed(_count(counter, batches, cache, key, progress), reference_tensor(snn).device)
    report = _report(snn, counted, schedule, rows, timings, readout_delay)
    if rank_and_number()[0] == 0:
        write_cache(cache, key, {"data": counted.data, "report": report.to_json()})
    return report


def rows_for(steps: int, schedule: Schedule, at: Sequence[int] | None = None) -> list[int]:
    """The rows of a report, ascending; ``at`` None gives all T (prefix-consistent) or the powers of two.

    Raises:
        ValueError: steps below 1, or rows outside 1 .. steps.
    """
    check_count("steps", steps, most=MOST_STEPS)
    if at is None:
        if schedule.prefix_consistent:
            return list(range(1, steps + 1))
        at = [2**k for k in range(steps.bit_length()) if 2**k <= steps]
    wanted = sorted({check_count("a row", t, -MOST_STEPS) for t in at})
    if not wanted or wanted[0] < 1 or wanted[-1] > steps:
        raise ValueError(f"rows must lie in 1 .. {steps}, got {list(at)}")
    return wanted


def _count(counter: _Counter, batches: Iterable[Any], cache: Path | None, key: str, progress: bool) -> _Progress:
    """Adds every batch that is not counted yet, and saves the counts now and then."""
    state = counter.state
    size = len(batches) if isinstance(batches, Sized) else None
    saved = time.monotonic()
    data, seen = "", 0
    rank, processes = rank_and_number()
    images_seen = state.images
    with torch.no_grad(), ProgressBar("evaluating", size, progress) as bar:
        for index, batch in enumerate(batches):
            images, labels = _pair(batch, index)
            data, seen = digest_next(data, (images, labels)) if cache is not None else "", index + 1
            if seen == state.batches and data != state.data:
                raise _other_data(cache)
            if seen > state.batches:
                if index % processes == rank:
                    counter.add(images, labels, images_seen)
                images_seen += len(labels)
                state.batches, state.data = seen, data
                if cache is not None and processes == 1 and time.monotonic() - saved > _SAVE_EVERY:
                    write_cache(cache, key, {"unfinished": asdict(state)})
                    saved = time.monotonic()
            bar.advance()
    if seen == 0:
        raise DataError("there is nothing to evaluate: the batches are empty", fix="a used-up iterator gives none")
    if seen < state.batches:
        raise _other_data(cache)
    return state


def _summed(state: _Progress, device: torch.device) -> _Progress:
    """The counts, and seconds, of all processes together."""
    parts: list[Sequence[float]] = [state.ann, state.hits1, state.hits5, *state.events.values()]
    flat = sum_over_processes([state.images, state.seconds, *(value for part in parts for value in part)], device)
    images, seconds, *rest = flat
    sums = iter(rest)
    ann, hits1, hits5, *events = ([next(sums) for _ in part] for part in parts)
    return replace(
        state,
        images=round(images),
        ann=list(map(round, ann)),
        hits1=list(map(round, hits1)),
        hits5=list(map(round, hits5)),
        events=dict(zip(state.events, events, strict=True)),
        seconds=seconds,
    )


def _other_data(cache: Path | None) -> DataError:
    return DataError(
        "the data is not that of the unfinished run", where=str(cache), fix="remove this file to start afresh"
    )


@dataclass
class _Counter:
    """Runs batches and counts hits and spikes."""

    snn: SpikingNetwork
    schedule: Schedule
    coding: Coding
    rows: list[int]
    timings: list[Timing]  # per row
    readout_delay: int
    chunk: int | None
    memory_mib: int | None
    state: _Progress

    def add(self, images: Tensor, labels: Tensor, first: int) -> None:
        """Counts one batch, whose first image has the number ``first`` among all."""
        reference = reference_tensor(self.snn)
        images = images.to(reference.device, reference.dtype)
        labels = labels.to(reference.device)
        ann = self.snn.ann(images)
        if not isinstance(ann, Tensor) or ann.dim() != 2:
            raise InputError(
                "evaluate needs one output of shape [N, classes]",
                where="the model's answer",
                fix="call the network itself and compute your own measure, or wrap the model to return its logits",
            )
        if not 0 <= int(labels.min()) <= int(labels.max()) < ann.shape[1]:
            raise DataError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, the network has {ann.shape[1]} outputs",
                fix="use class indices from 0, and the network trained for these classes",
            )
        for position, hits in enumerate(_hits(ann, labels)):
            self.state.ann[position] += int(hits)
        began = time.perf_counter()
        for length in [self.rows[-1]] if self.schedule.prefix_consistent else self.rows:
            wanted = [(i, t) for i, t in enumerate(self.rows) if self.schedule.prefix_consistent or t == length]
            answer = delayed_readout(self._run(images, length, [i for i, _ in wanted], first), self.readout_delay)
            for index, t in wanted:
                top1, top5 = _hits(answer[t - 1], labels)
                self.state.hits1[index] += int(top1)
                self.state.hits5[index] += int(top5)
        self.state.seconds += time.perf_counter() - began
        self.state.images += images.shape[0]

    def _run(self, images: Tensor, length: int, rows: list[int], first: int) -> Tensor:
        """The answers after every step; counts the spikes sent for those of some rows."""
        sent = SentSpikes([self.timings[index] for index in rows])
        answer: Tensor = self.snn(
            self.coding.encode(images, seed=first),
            steps=length,
            schedule=self.schedule,
            chunk=self.chunk,
            count=sent,
            memory_mib=self.memory_mib,
        )
        for name, totals in sent.totals.items():
            for index, total in zip(rows, totals, strict=True):
                self.state.events[name][index] += total
        return answer


def _hits(answer: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Number of samples whose label is the largest, and among the five largest, outputs."""
    best = answer.topk(min(5, answer.shape[1]), dim=1).indices == labels.unsqueeze(1)
    return best[:, 0].sum(), best.sum()


def _pair(batch: Any, index: int) -> tuple[Tensor, Tensor]:
    if (
        not isinstance(batch, Sequence)
        or len(batch) != 2
        or not all(isinstance(item, Tensor) for item in batch)
        or batch[1].dtype.is_floating_point
        or batch[1].dim() != 1
        or batch[0].shape[0] != batch[1].shape[0]
        or batch[0].shape[0] == 0
    ):
        raise DataError(
            "a batch is not a pair of images [N, *] and whole class indices [N]",
            where=f"batch {index}",
            fix="pass a DataLoader over a labelled data set",
        )
    return batch[0], batch[1]


def _report(
    snn: SpikingNetwork,
    counted: _Progress,
    schedule: Schedule,
    rows: list[int],
    timings: list[Timing],
    readout_delay: int,
) -> Report:
    images, reference = counted.images, reference_tensor(snn)
    busy = {name: sum(timings[-1].pass_lengths[:-1]) + sent for name, sent in timings[-1].steps_sent.items()}
    found = tuple(
        Row(
            steps=t,
            top1=100.0 * counted.hits1[index] / images,
            top5=100.0 * counted.hits5[index] / images,
            events=sum(events[index] for events in counted.events.values()) / images,
            latency=timings[index].latency,
        )
        for index, t in enumerate(rows)
    )
    sites = tuple(
        SiteActivity(
            site.name,
            site.neurons,
            counted.events[site.name][-1] / images,
            counted.events[site.name][-1] / (images * site.neurons * busy[site.name]),
        )
        for site in snn.sites
    )
    return Report(
        images=images,
        ann_top1=100.0 * counted.ann[0] / images,
        ann_top5=100.0 * counted.ann[1] / images,
        rows=found,
        sites=sites,
        seconds=counted.seconds,
        schedule=str(schedule),
        dtype=str(reference.dtype).removeprefix("torch."),
        device=str(reference.device),
        readout_delay=readout_delay,
    )


def _key(snn: SpikingNetwork, schedule: Schedule, coding: Coding, rows: list[int], readout_delay: int) -> str:
    """Digest of network and settings; that of the data is kept beside it, since data is gone through once."""
    return digest(
        *("evaluate", COUNTING_VERSION, snn.network, list(snn.plan.pools), snn.conversion, snn.capture),
        *(schedule, coding, rows, readout_delay),
    )
