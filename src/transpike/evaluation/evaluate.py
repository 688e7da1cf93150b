"""Accuracy at every T, spikes, latency and time of a converted network, in one resumable run."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from transpike.calibration.progress import ProgressBar
from transpike.errors import DataError, InputError
from transpike.evaluation.delayed_readout import delayed_readout
from transpike.evaluation.report import VERSION, Report, Row, SiteActivity
from transpike.graph.plan import steps_sent
from transpike.network.spiking import SpikingNetwork
from transpike.runtime.encoding import Coding
from transpike.schedules import Schedule
from transpike.serialization.json_records import to_json, write_json

_MEANING = "all spikes sent; accumulate-then-fire rounds halves in turn"
"""What is run and counted, beyond what names and settings say; a cache that meant otherwise is not read."""
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
    labels: str  # digest of all labels so far


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
    memory_mib: int = 32,
    cache: Path | None = None,
    progress: bool = False,
) -> Report:
    """Evaluates a classifier at T = 1 .. ``steps``.

    A prefix-consistent schedule needs one run for all T; others run again for each T in ``at``. Nothing may be chosen
    by these numbers when they come from a test set.

    Args:
        snn: the converted network; moved to ``device`` and ``dtype`` if given.
        batches: pairs ``(images [N, *], class indices [N])`` in a fixed order, for example a DataLoader.
        steps: the largest T.
        schedule: how the network runs; None is the network's own.
        coding: constant current, or Poisson spikes (seeded by the number of the image).
        at: the rows wanted; None gives all T (prefix-consistent) or the powers of two.
        readout_delay: steps at the start whose output is left out (`transpike.delayed_readout`); spikes and latency
            are those of all steps.
        device: None leaves the network where it is.
        dtype: None leaves the network's type.
        chunk: steps per stage; None chooses by ``memory_mib``. Results do not depend on it.
        memory_mib: upper bound for one site's currents, in MiB.
        cache: a JSON file; an unfinished run with the same network, settings and data goes on from there, a
            finished one is read.
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, rows outside 1 .. steps, or a negative delay.
        InputError, DataError: unusable batches or labels, or other data than in the unfinished run.
    """
    schedule = snn.schedule if schedule is None else schedule
    rows = _rows(steps, schedule, at)
    if readout_delay < 0:
        raise ValueError(f"readout_delay must not be negative, got {readout_delay}")
    if device is not None or dtype is not None:
        snn = snn.to(device=device, dtype=dtype)
    for site in snn.sites:
        if snn.site(site.name).v_init.dim() > max(1, len(site.shape)):
            raise InputError(
                "the initial potentials are those of particular samples",
                where=f"site {site.name}",
                fix="evaluate with potentials per layer, channel or neuron; call the network itself for one batch",
            )
    size = [len(batches), _samples(batches)] if isinstance(batches, Sized) else None
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise DataError("there is nothing to evaluate: the batches are empty", fix="a used-up iterator gives none")
    key = _fingerprint(snn, schedule, coding, rows, readout_delay, _pair(first, 0), size)
    state = _read_cache(cache, key)
    if isinstance(state, Report) and size is not None:  # what has no length might be longer now
        return state
    if isinstance(state, Report):
        state = None
    if state is None:
        zeros = [0] * len(rows)
        events: dict[str, list[float]] = {site.name: [0.0] * len(rows) for site in snn.sites}
        state = _Progress(0, 0, [0, 0], zeros[:], zeros[:], events, 0.0, "")
    sent = [steps_sent(snn.network, schedule, t) for t in rows]
    counter = _Counter(snn, schedule, coding, rows, sent, readout_delay, chunk, memory_mib, state)
    counted = _count(counter, chain([first], remaining), size[0] if size else None, cache, key, progress)
    busy = {name: n + _earlier_steps(schedule, rows[-1]) for name, n in sent[-1].items()}
    report = _report(snn, counted, schedule, rows, busy, readout_delay)
    if cache is not None:
        write_json(cache, {"key": key, "report": report.to_json()})
    return report


def _rows(steps: int, schedule: Schedule, at: Sequence[int] | None) -> list[int]:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if at is None:
        if schedule.prefix_consistent:
            return list(range(1, steps + 1))
        at = [2**k for k in range(steps.bit_length()) if 2**k <= steps]
    wanted = sorted(set(at))
    if not wanted or wanted[0] < 1 or wanted[-1] > steps:
        raise ValueError(f"rows must lie in 1 .. {steps}, got {list(at)}")
    return wanted


def _count(
    counter: _Counter, batches: Iterable[Any], size: int | None, cache: Path | None, key: str, progress: bool
) -> _Progress:
    """Adds every batch that is not counted yet, and saves the counts now and then."""
    state = counter.state
    saved = time.monotonic()
    with torch.no_grad(), ProgressBar("evaluating", size, progress) as bar:
        labels_seen = ""
        for index, batch in enumerate(batches):
            images, labels = _pair(batch, index)
            labels_seen = hashlib.sha256((labels_seen + digest([labels])).encode()).hexdigest()
            if index == state.batches - 1 and labels_seen != state.labels:
                raise DataError(
                    "the data is not that of the unfinished run",
                    where=str(cache),
                    fix="remove this file to start afresh",
                )
            if index >= state.batches:
                counter.add(images, labels)
                state.batches = index + 1
                state.labels = labels_seen
                if cache is not None and time.monotonic() - saved > _SAVE_EVERY:
                    write_json(cache, {"key": key, "unfinished": asdict(state)})
                    saved = time.monotonic()
            bar.advance()
    return state


@dataclass
class _Counter:
    """Runs batches and counts hits and spikes."""

    snn: SpikingNetwork
    schedule: Schedule
    coding: Coding
    rows: list[int]
    sent: list[dict[str, int]]  # per row and site: steps to count
    readout_delay: int
    chunk: int | None
    memory_mib: int
    state: _Progress

    def add(self, images: Tensor, labels: Tensor) -> None:
        """Counts one batch."""
        reference = next(self.snn.parameters())
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
            answer = delayed_readout(self._run(images, length, wanted), self.readout_delay)
            for index, t in wanted:
                top1, top5 = _hits(answer[t - 1], labels)
                self.state.hits1[index] += int(top1)
                self.state.hits5[index] += int(top5)
        self.state.seconds += time.perf_counter() - began
        self.state.images += images.shape[0]

    def _run(self, images: Tensor, length: int, wanted: list[tuple[int, int]]) -> Tensor:
        """Runs in pieces that fit into memory; counts the spikes sent for every wanted t."""
        done: Counter[str] = Counter()
        calls: Counter[str] = Counter()
        earlier = self.schedule.passes - 1  # a schedule of several passes runs each in one piece

        def count(name: str, spikes: Tensor) -> None:
            sums = spikes.cumsum(0).tolist()
            calls[name] += 1
            if calls[name] <= earlier:
                for index, _ in wanted:
                    self.state.events[name][index] += sums[-1]
                return
            begin = done[name]
            done[name] += len(sums)
            for index, _ in wanted:
                inside = min(self.sent[index][name] - begin, len(sums))
                if inside > 0:
                    self.state.events[name][index] += sums[inside - 1]

        size = self._size(images.shape[0], length)
        answers = []
        for index, part in enumerate(torch.split(images, size.samples)):
            done.clear()
            calls.clear()
            chunk = size.steps if self.schedule.streamable and size.steps < length else None
            given = self.coding.encode(part, seed=self.state.images + index * size.samples)
            answers.append(self.snn(given, steps=length, schedule=self.schedule, chunk=chunk, count=count))
        return torch.cat(answers, 1)

    def _size(self, batch: int, steps: int) -> _Size:
        """The largest chunk (or, for schedules that need all steps, micro-batch) within the memory bound."""
        if self.chunk is not None:
            return _Size(self.chunk, batch)
        reference = next(self.snn.parameters())
        stored = max(site.neurons for site in self.snn.sites)
        whole = False  # whether all steps run at once
        if self.coding is Coding.CONSTANT and (least := self.snn.stored_neurons(self.schedule)) < stored:
            stored, whole = least, True
        bytes_per_step = stored * reference.element_size()
        budget = max(1, self.memory_mib * 2**20 // bytes_per_step)  # steps times samples
        if self.schedule.streamable and not whole:
            samples = min(batch, budget)
            return _Size(max(1, min(steps, budget // samples)), samples)
        longest = max(self.schedule.pass_steps(steps, number) for number in range(self.schedule.passes))
        return _Size(steps, max(1, min(batch, budget // longest)))


@dataclass(frozen=True)
class _Size:
    """How much runs at once."""

    steps: int
    samples: int


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


def _earlier_steps(schedule: Schedule, steps: int) -> int:
    """Steps of all passes but the last, whose spikes cost energy too."""
    return sum(schedule.pass_steps(steps, number) for number in range(schedule.passes - 1))


def _report(
    snn: SpikingNetwork,
    counted: _Progress,
    schedule: Schedule,
    rows: list[int],
    busy: dict[str, int],
    readout_delay: int,
) -> Report:
    images, reference = counted.images, next(snn.parameters())
    found = tuple(
        Row(
            steps=t,
            top1=100.0 * counted.hits1[index] / images,
            top5=100.0 * counted.hits5[index] / images,
            events=sum(events[index] for events in counted.events.values()) / images,
            latency=snn.latency(t, schedule),
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


def _samples(batches: Sized) -> int:
    """Number of samples, where the loader tells."""
    return len(batches.dataset) if isinstance(batches, DataLoader) and isinstance(batches.dataset, Sized) else -1


def digest(tensors: Iterable[Tensor]) -> str:
    """A fingerprint of tensors: their types, shapes and values."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _fingerprint(
    snn: SpikingNetwork,
    schedule: Schedule,
    coding: Coding,
    rows: list[int],
    readout_delay: int,
    first_batch: tuple[Tensor, Tensor],
    size: list[int] | None,
) -> str:
    """Identifies network, settings and data (by their first batch and their length)."""
    tensors = snn.state_dict()
    network = [
        list(tensors),
        snn.network.code,
        str(snn.network),
        snn.plan.pools,
        to_json(snn.conversion),
        to_json(snn.capture),
    ]
    settings = [VERSION, _MEANING, network, to_json(schedule), coding.value, rows, size]
    settings += [readout_delay] if readout_delay else []
    text = json.dumps(settings, sort_keys=True) + digest(tensors.values()) + digest(first_batch)
    return hashlib.sha256(text.encode()).hexdigest()


def _read_cache(cache: Path | None, key: str) -> Report | _Progress | None:
    """A finished report, an unfinished count, or None if the file is absent, foreign or damaged."""
    if cache is None or not cache.is_file():
        return None
    try:
        record = json.loads(cache.read_text(encoding="utf-8"))
        if record["key"] != key:
            return None
        if "report" in record:
            return Report.from_json(record["report"])
        return _Progress(**record["unfinished"])
    except (ValueError, KeyError, TypeError):
        return None
