"""The record that a run leaves: what was measured, of what, where and when."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from transpike.data import Preparation
from transpike.errors import DataError
from transpike.evaluation.report import REPORT_KINDS, Report
from transpike.experiments.offset_rows import OFFSET_KINDS, OffsetResult
from transpike.experiments.recipe import Recipe, Training
from transpike.rules import Conversion
from transpike.schedules import Schedule
from transpike.serialization.digest import digest
from transpike.serialization.environment import Environment, environment
from transpike.serialization.fields import ADDED
from transpike.serialization.json_records import from_json
from transpike.storage.checkpoint import record_kinds


@dataclass(frozen=True)
class RunResult:
    """One conversion, evaluated.

    Attributes:
        conversion: how the network was converted.
        schedule: how it ran.
        calibration_views: augmented copies of every calibration image.
        ann_top1: accuracy of the source network on the same images, in percent, whatever the conversion changed.
        report: accuracy, spikes and latency at every T.
        seconds: wall time of the conversion.
        environment: where and when.
        digest: of network, conversion, calibration images, schedule, steps and test data.
    """

    conversion: Conversion
    schedule: Schedule
    calibration_views: int
    ann_top1: float
    report: Report
    seconds: float
    environment: Environment
    digest: str


@dataclass(frozen=True)
class Repeat:
    """The same row with another network.

    Attributes:
        network: which.
        runs: in the order of the recipe.
    """

    network: str
    runs: tuple[RunResult, ...]


@dataclass(frozen=True)
class Spread:
    """One number, measured several times.

    Attributes:
        values: all of them; the first is that of the row's own network.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Their standard deviation, with n - 1 below; 0 for a single one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f}" if len(self.values) > 1 else f"{self.mean:.2f}"


@dataclass(frozen=True)
class RowResult:
    """One row of the table.

    Attributes:
        label: what it is called.
        network: which network; empty where the row is only published.
        images: which test images, in the recipe's word; how many is in the reports.
        runs: in the order of the recipe.
        published: published accuracies in percent by T.
        published_in: where.
        refused: why the conversion does not fit the network, in one line, else empty.
        published_ann: the published accuracy of the source network in percent, or None.
        repeats: the same of other networks, such as those of other seeds.
    """

    label: str
    network: str
    images: str
    runs: tuple[RunResult, ...]
    published: Mapping[int, float]
    published_in: str
    refused: str = ""
    published_ann: float | None = field(default=None, metadata=ADDED)
    repeats: tuple[Repeat, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:  # JSON has no numbers as keys
        object.__setattr__(self, "published", {int(t): float(value) for t, value in self.published.items()})

    @property
    def top1(self) -> dict[int, Spread]:
        """Top-1 accuracy in percent by T, of the row's network and of its repeats."""
        networks = [self.runs, *(each.runs for each in self.repeats)]
        found = [{row.steps: row.top1 for run in runs for row in run.report.rows} for runs in networks]
        return {t: Spread(tuple(each[t] for each in found)) for t in found[0] if all(t in each for each in found)}

    @property
    def ann(self) -> Spread:
        """Accuracy of the source networks in percent."""
        return Spread(tuple(runs[0].ann_top1 for runs in (self.runs, *(each.runs for each in self.repeats))))

    @property
    def differences(self) -> dict[int, float]:
        """Ours, the mean where there are repeats, less the published accuracy, in points, at every T that has both."""
        ours = self.top1
        return {t: ours[t].mean - value for t, value in self.published.items() if t in ours}

    @property
    def report(self) -> Report:
        """All runs of the row's own network as one report, with the activity of sites in the last of them."""
        reports = [run.report for run in self.runs]
        rows = sorted((row for report in reports for row in report.rows), key=lambda row: row.steps)
        return replace(
            reports[-1],
            ann_top1=self.runs[0].ann_top1,
            rows=tuple(rows),
            seconds=sum(report.seconds for report in reports),
            schedule=", ".join(dict.fromkeys(report.schedule for report in reports)),
        )


@dataclass(frozen=True)
class GivenNetwork:
    """A network that a run was given in place of a training.

    Attributes:
        name: the network of the recipe, or the label of a row, that it stands for.
        source: its file, or its name in the zoo.
        digest: of its structure and weights.
    """

    name: str
    source: str
    digest: str


@dataclass(frozen=True)
class Record:
    """What a run made; ``result.json`` holds it.

    Attributes:
        name: of the recipe.
        about: one line.
        network: name in the zoo, or the model's class.
        data: name of the data set.
        seed: of weights, splits and order.
        calibration_images: training images, without labels, for conversions.
        weights: file with the pretrained weights, or None.
        trainings: networks that were trained, in order; where the first learning rate failed, it is the second one.
        rows: the table, as far as it is finished.
        finished: whether all rows are there.
        environment: of the run that was made last.
        digest: of all settings, networks and data.
        preparation: normalisation and augmentation of the CIFAR sets.
        training_images: how many training images there were at most, or None for all.
        given: networks that were given, and not trained by this run.
        offsets: rows about offset spikes.
    """

    name: str
    about: str
    network: str
    data: str
    seed: int
    calibration_images: int
    weights: str | None
    trainings: tuple[Training, ...]
    rows: tuple[RowResult, ...]
    finished: bool
    environment: Environment
    digest: str
    preparation: Preparation = field(default=Preparation.STANDARD, metadata=ADDED)
    training_images: int | None = field(default=None, metadata=ADDED)
    given: tuple[GivenNetwork, ...] = field(default=(), metadata=ADDED)
    offsets: tuple[OffsetResult, ...] = field(default=(), metadata=ADDED)

    @property
    def reports(self) -> dict[str, Report]:
        """Reports of the rows that were not refused, by label."""
        return {row.label: row.report for row in self.rows if row.runs}

    @property
    def published(self) -> dict[str, Mapping[int, float]]:
        """Published accuracies by label and T."""
        return {row.label: row.published for row in self.rows if row.published}


def make_record(
    recipe: Recipe,
    rows: Sequence[RowResult],
    *,
    finished: bool,
    training_images: int | None = None,
    given: Sequence[GivenNetwork] = (),
) -> Record:
    """The record of rows that are measured."""
    runs = [run for row in rows for runs in (row.runs, *(each.runs for each in row.repeats)) for run in runs]
    return Record(
        name=recipe.name,
        about=recipe.about,
        network=recipe.network,
        data=recipe.data,
        seed=recipe.seed,
        calibration_images=recipe.calibration_images,
        weights=recipe.weights,
        trainings=recipe.trainings,
        rows=tuple(rows),
        finished=finished,
        environment=max((run.environment for run in runs), key=lambda found: found.date, default=environment()),
        digest=digest(recipe, [run.digest for run in runs]),
        preparation=recipe.preparation,
        training_images=training_images,
        given=tuple(given),
    )


def result_kinds() -> dict[str, type]:
    """All records that a `Record` may hold, by name."""
    own = (Record, RowResult, Repeat, RunResult, GivenNetwork, Training, Environment)
    return {**record_kinds(), **REPORT_KINDS, **OFFSET_KINDS, **{cls.__name__: cls for cls in own}}


def read_record(path: Path) -> Record:
    """Reads what a run wrote.

    Raises:
        DataError: the file is missing, no record, or one of another version.
    """
    try:
        record = from_json(json.loads(path.read_text(encoding="utf-8")), result_kinds())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"the record cannot be read: {error}", where=str(path), fix="run the recipe again") from error
    if not isinstance(record, Record):
        raise DataError(f"the file holds a {type(record).__name__}", where=str(path), fix="pass a run's result.json")
    return record


def check_record_path(path: Path) -> None:
    """Makes sure that no foreign file lies where a record is to be written.

    Raises:
        DataError: there is one.
    """
    if not path.exists():
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or stored.get("kind") != Record.__name__:
        raise DataError(
            "the file is no record that transpike wrote, and is left as it is",
            where=str(path),
            fix="choose another folder, or remove this file",
        )
