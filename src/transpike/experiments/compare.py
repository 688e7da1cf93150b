"""Methods of conversion side by side on test images, row by row, resumable."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from transpike.conversion.convert import convert
from transpike.conversion.methods import Method
from transpike.errors import CalibrationError, ConversionError, reason
from transpike.evaluation.evaluate import digest, evaluate
from transpike.graph.capture import evaluation_mode
from transpike.schedules import Latency
from transpike.serialization.json_records import to_json, write_json

VERSION = 1


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
        key: fingerprint of network, method, calibration and test images.
    """

    steps: int
    images: int
    ann: float
    top1: float
    events: float
    latency: Latency
    seconds: float
    key: str


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

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        record = asdict(self)
        record["rows"] = [{**asdict(row), "latency": row.latency._asdict()} for row in self.rows]
        return {"version": VERSION, **record}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> MethodResult:
        """Rebuilds a result written by `to_json`.

        Raises:
            ValueError: another version.
        """
        if record.get("version") != VERSION:
            raise ValueError(f"result of version {record.get('version')}, this library reads {VERSION}")
        rows = tuple(MethodRow(**{**row, "latency": Latency(**row["latency"])}) for row in record["rows"])
        return cls(record["method"], record["paper"], tuple(record["needs"]), rows, record["refused"])


def compare_methods(
    model: nn.Module,
    methods: Sequence[Method],
    calibration: Sequence[Any],
    tests: Sequence[TestSet],
    *,
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
        folder: for ``METHOD.json`` after every row; rows of the same network, method and images are not run again.
        device: where to evaluate; None is where the network is.
        progress: show progress bars.
        say: called with a line about each conversion.

    Raises:
        InputError, DataError: see `transpike.evaluate`.
    """
    with evaluation_mode(model):
        run = _Run(model, calibration, folder, device, progress, say)
        return [run.measure(method, tests) for method in methods]


class _Run:
    """What all methods share."""

    def __init__(
        self,
        model: nn.Module,
        calibration: Sequence[Any],
        folder: Path | None,
        device: torch.device | str | None,
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        self.model = model
        self.calibration = [batch if isinstance(batch, Tensor) else batch[0] for batch in calibration]
        self.folder = folder
        self.device = device
        self.progress = progress
        self.say = say
        state = model.state_dict()
        self.network = digest([*state.values(), *self.calibration]) + f"{list(state)}{model}"
        self.accuracies: dict[str, float] = {}

    def measure(self, method: Method, tests: Sequence[TestSet]) -> MethodResult:
        """All rows of one method, known or new."""
        file = None if self.folder is None else self.folder / f"{method.name}.json"
        known = _known(file)
        result = MethodResult(method.name, method.paper, tuple(need.value for need in method.needs), ())
        wanted: list[str] = []
        for test in tests:
            images = digest(next(iter(test.batches))) + str(len(test.batches))
            for group in [(steps,) for steps in test.at] if method.tuned else [test.at]:
                keys = [self._key(method, steps, images) for steps in group]
                wanted += keys
                if not result.refused and not set(keys) <= set(known):
                    try:
                        known.update(zip(keys, self._rows(method, group, keys, test, images), strict=True))
                    except (CalibrationError, ConversionError, ValueError) as problem:
                        result = replace(result, refused=reason(problem))
                    if file is not None:  # with the rows that are still to come, if a run before this one made them
                        write_json(file, replace(result, rows=tuple(known.values())).to_json())
        rows = sorted((known[key] for key in wanted if key in known), key=lambda row: row.steps)
        return replace(result, rows=tuple(rows))

    def _rows(
        self, method: Method, group: tuple[int, ...], keys: Sequence[str], test: TestSet, images: str
    ) -> list[MethodRow]:
        """One conversion and its evaluation."""
        last = max(group)
        self.say(f"{method.name}, T = {', '.join(str(steps) for steps in group)}")
        began = time.perf_counter()
        reference, data = next(self.model.parameters()), self.calibration
        example = data[0][:4].to(reference.device, reference.dtype)
        snn = convert(self.model, method(last), calibration=data, example_inputs=example, progress=self.progress)
        seconds = time.perf_counter() - began
        report = evaluate(
            snn,
            test.batches,
            steps=last,
            at=group,
            device=self.device,
            cache=None if self.folder is None else self.folder / "evaluations" / f"{method.name}-{last}.json",
            progress=self.progress,
        )
        if images not in self.accuracies:  # not the report's, since a method may change weights
            self.accuracies[images] = _accuracy(self.model, test.batches)
        ann = self.accuracies[images]
        found = [report.row(steps) for steps in group]
        return [
            MethodRow(row.steps, report.images, ann, row.top1, row.events, row.latency, seconds, key)
            for row, key in zip(found, keys, strict=True)
        ]

    def _key(self, method: Method, steps: int, images: str) -> str:
        """Tells apart what else would give another row."""
        text = json.dumps([VERSION, self.network, to_json(method(steps)), steps, images])
        return hashlib.sha256(text.encode()).hexdigest()


def _known(file: Path | None) -> dict[str, MethodRow]:
    """The rows of an earlier run; none where the file is absent, foreign or damaged."""
    if file is None or not file.is_file():
        return {}
    try:
        result = MethodResult.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        return {}
    return {row.key: row for row in result.rows}


def _accuracy(model: nn.Module, batches: Iterable[Any]) -> float:
    """Top-1 accuracy in percent."""
    hits = images = 0
    reference = next(model.parameters())
    with torch.no_grad():
        for inputs, labels in batches:
            answer = model(inputs.to(reference.device, reference.dtype)).argmax(1)
            hits += int((answer == labels.to(reference.device)).sum())
            images += len(labels)
    return 100.0 * hits / images
