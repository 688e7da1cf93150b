"""Methods of conversion side by side, or schedules of one converted network, on test images; resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from transpike.conversion.methods import METHODS, Method
from transpike.evaluation.report import Report
from transpike.experiments.recipe import Recipe, RecipeRow, Run, method_runs
from transpike.experiments.record import RowResult, check_record_path, make_record, read_record
from transpike.experiments.runner import Runner
from transpike.graph.unwrap import unwrapped
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import Latency, Schedule
from transpike.serialization.json_records import from_json, to_json, write_json
from transpike.serialization.model_info import model_info


class Batches(Protocol):
    """What can be gone through several times and has a length."""

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TestSet:
    """Images for some numbers of steps.

    Attributes:
        batches: pairs of images and class indices, in a fixed order, such as a DataLoader.
        at: the numbers of steps.
    """

    batches: Batches
    at: tuple[int, ...]


@dataclass(frozen=True)
class MethodRow:
    """One method at one number of steps.

    Attributes:
        steps: T.
        images: how many.
        ann: top-1 accuracy of the network itself on these images, in percent.
        top1: of the converted one.
        events: spikes per image.
        latency: the four figures.
        seconds: wall time of the conversion.
    """

    steps: int
    images: int
    ann: float
    top1: float
    events: float
    latency: Latency
    seconds: float


@dataclass(frozen=True)
class MethodResult:
    """What one method did.

    Attributes:
        method: its name.
        paper: where it comes from.
        needs: what it takes, in words.
        rows: one per number of steps, ascending.
        refused: why it does not fit this network, in one line, else empty.
    """

    method: str
    paper: str
    needs: tuple[str, ...]
    rows: tuple[MethodRow, ...]
    refused: str = ""


_SUMMARIES: Mapping[str, type] = {cls.__name__: cls for cls in (MethodResult, MethodRow, Latency)}


def compare_methods(
    model: nn.Module,
    methods: Sequence[Method],
    calibration: Sequence[Any],
    tests: Sequence[TestSet],
    *,
    dataset: str = "",
    seed: int = 0,
    folder: Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[MethodResult]:
    """Converts a network by each method and evaluates it; one that is tuned for T is converted anew for every T.

    Nothing may be chosen by these numbers when they come from a test set; see `transpike.choose`.

    Args:
        model: the trained network, which is not changed.
        methods: what to compare.
        calibration: batches of training images; labels are not used.
        tests: images, and the numbers of steps that they are for.
        dataset: name of the data set, for the record.
        seed: of the choice of calibration images, for the record.
        folder: for ``result.json``, the record, and ``cache``; rows of the same network, method and images are not run
            again.
        device: where to evaluate; None is where the network is.
        progress: show progress bars.
        say: called with a line about each conversion.

    Raises:
        InputError, DataError: see `transpike.evaluate`; or the folder holds foreign files.
    """
    model = unwrapped(model, "compare_methods")
    images = [batch if isinstance(batch, Tensor) else batch[0] for batch in calibration]
    bench = Runner(images, lambda word: tests[int(word)].batches, folder, device, progress=progress, say=say)
    wanted = [
        RecipeRow(method.name, _NETWORK, method_runs(method, test.at), images=str(number))
        for method in methods
        for number, test in enumerate(tests)
    ]
    count = sum(len(batch) for batch in images)
    about = "methods of conversion side by side"
    plan = Recipe("methods", about, _name(model), dataset, seed, count, None, (), ())
    rows = _measure(bench, wanted, model, plan)
    return [_result(method, [row for row in rows if row.label == method.name]) for method in methods]


def compare_schedules(
    snn: SpikingNetwork,
    schedules: Mapping[str, Schedule],
    tests: Sequence[TestSet],
    *,
    at: Mapping[str, Sequence[int]] = MappingProxyType({}),
    dataset: str = "",
    folder: Path | None = None,
    device: torch.device | str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Report]]:
    """Evaluates a converted network under several schedules: a report by label for every test set.

    Args:
        snn: the converted network.
        schedules: by label.
        tests: images, and the numbers of steps that they are for.
        at: numbers of steps of some labels, in place of those of the test sets.
        dataset: name of the data set, for the record.
        folder: for ``result.json``, the record, and ``cache``; what is finished is not run again.
        device: where to evaluate; None is where the network is.
        progress: show progress bars.
        say: called with a line about each evaluation.

    Raises:
        ValueError, InputError, DataError: see `transpike.evaluate`; or the folder holds foreign files.
    """
    snn = converted(snn, "compare_schedules")
    bench = Runner([], lambda word: tests[int(word)].batches, folder, device, progress=progress, say=say)
    wanted = [
        RecipeRow(label, _NETWORK, (Run(snn.conversion, tuple(at.get(label, test.at)), schedule),), images=str(number))
        for label, schedule in schedules.items()
        for number, test in enumerate(tests)
    ]
    about = "schedules of one converted network side by side"
    rows = _measure(bench, wanted, snn, Recipe("schedules", about, _name(snn.network), dataset, 0, 0, None, (), ()))
    return [{row.label: row.report for row in rows if row.images == str(number)} for number in range(len(tests))]


def read_methods(folder: Path) -> list[MethodResult]:
    """Results of `compare_methods`: from its record ``result.json`` or, of older runs, summaries ``METHOD.json``.

    Raises:
        DataError: the record cannot be read.
        ValueError: a summary is malformed.
    """
    if (folder / "result.json").is_file():
        record = read_record(folder / "result.json")
        labels = dict.fromkeys(row.label for row in record.rows)
        return [
            _result(METHODS[label], [row for row in record.rows if row.label == label])
            for label in labels
            if label in METHODS
        ]
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.json"))]
    return [from_json(json.loads(text), _SUMMARIES) for text in texts]


_NETWORK = "network"


def _measure(bench: Runner, wanted: Sequence[RecipeRow], model: nn.Module, plan: Recipe) -> list[RowResult]:
    """All rows, with a record after each."""
    result = None if bench.folder is None else bench.folder / "result.json"
    if result is not None:
        check_record_path(result)
    rows: list[RowResult] = []
    for index, row in enumerate(wanted):
        found = bench.measure(row, model, f"{index}", refusals=not isinstance(model, SpikingNetwork))
        rows.append(found)
        reached = [f"T={at.steps} {at.top1:.2f} %" for run in found.runs for at in run.report.rows]
        bench.say(f"{row.label}, {index + 1} of {len(wanted)}: {found.refused or ', '.join(reached[-4:])}")
        if result is not None:
            write_json(result, to_json(make_record(plan, rows, finished=len(rows) == len(wanted))))
    return rows


def _name(model: nn.Module) -> str:
    source = model_info(model).source
    return type(model).__name__ if source is None else source.name


def _result(method: Method, rows: Sequence[RowResult]) -> MethodResult:
    found = [
        MethodRow(row.steps, run.report.images, run.ann_top1, row.top1, row.events, row.latency, run.seconds)
        for result in rows
        for run in result.runs
        for row in run.report.rows
    ]
    return MethodResult(
        method.name,
        method.paper,
        tuple(need.value for need in method.needs),
        tuple(sorted(found, key=lambda row: row.steps)),
        next((result.refused for result in rows if result.refused), ""),
    )
