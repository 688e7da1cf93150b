"""The charts of a report as plain records: the page, Matplotlib figures and tests read the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from transpike.evaluation.causes import CAUSES
from transpike.evaluation.energy import ENERGY_RULES
from transpike.evaluation.offsets.spikes import Offsets, SiteOffsets
from transpike.evaluation.report import Report
from transpike.experiments.study import Study


class Mark(Enum):
    """How a series is drawn."""

    LINE = "line"
    BAR = "bar"
    POINT = "point"


@dataclass(frozen=True)
class Series:
    """One line, set of bars or set of points.

    Attributes:
        name: in the legend.
        x: numbers or categories.
        y: numbers.
        colour: which of the palette's colours.
        mark: how it is drawn.
        texts: shown beside a value under the pointer, or nothing.
    """

    name: str
    x: tuple[float | str, ...]
    y: tuple[float, ...]
    colour: int
    mark: Mark = Mark.LINE
    texts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: short, letters and hyphens.
        title: what it shows, with the unit.
        x_title: below the axis.
        y_title: beside the axis.
        views: series by the name of the view; with several the reader chooses.
        levels: horizontal lines by name.
        log_x: powers of two are evenly spaced.
        stacked: bars stand on each other.
    """

    name: str
    title: str
    x_title: str
    y_title: str
    views: Mapping[str, tuple[Series, ...]]
    levels: Mapping[str, float]
    log_x: bool = False
    stacked: bool = False


def study_charts(study: Study) -> dict[str, Chart]:
    """All charts of a study by name, in the order of the page; those without data are left out."""
    found = [
        accuracy_chart(study),
        latency_chart(study),
        *([rows_chart(study)] if study.rows else []),
        agreement_chart(study),
        rates_chart(study),
        activity_chart(study),
        causes_chart(study),
        *([offsets_chart(study), inexact_chart(study)] if study.offsets else []),
        energy_chart(study),
        events_chart(study),
    ]
    return {chart.name: chart for chart in found}


def accuracy_chart(study: Study) -> Chart:
    """Accuracy against T."""
    return Chart(
        "accuracy",
        "Accuracy against T",
        "time-steps T that are read out for the answer",
        "top-1 accuracy in %",
        {"": _lines(_reports(study), lambda report: [row.steps for row in report.rows])},
        _levels(study),
        log_x=True,
    )


def latency_chart(study: Study) -> Chart:
    """Accuracy against pipeline steps."""
    return Chart(
        "latency",
        "Accuracy against latency",
        "time-steps from the first input to the answer, all layers stepping at once (pipeline)",
        "top-1 accuracy in %",
        {"": _lines(_reports(study), lambda report: [row.latency.pipeline_steps for row in report.rows])},
        _levels(study),
        log_x=True,
    )


def rows_chart(study: Study) -> Chart:
    """Accuracy of a recipe's rows."""
    accuracies = {f"ANN of {label}": report.ann_top1 for label, report in study.rows.items()}
    same = len(set(accuracies.values())) == 1
    return Chart(
        "rows",
        "Accuracy of all rows of the run",
        "time-steps T that are read out for the answer",
        "top-1 accuracy in %",
        {"": _lines(study.rows, lambda report: [row.steps for row in report.rows])},
        {"ANN": next(iter(accuracies.values()))} if same else accuracies,
        log_x=True,
    )


def agreement_chart(study: Study) -> Chart:
    """How often the answer is the ANN's."""
    steps = tuple(range(1, len(study.agreement) + 1))
    line = Series(study.main, steps, tuple(100 * share for share in study.agreement), 0)
    title = f"Same answer as the ANN ({study.main}, {study.causes.images:,} images)"
    return Chart("agreement", title, "time-steps T", "images in %", {"": (line,)}, {}, log_x=True)


def rates_chart(study: Study) -> Chart:
    """Firing rates of all schedules; the reader chooses one."""
    views = {
        label: (
            Series(
                "spikes per neuron and step",
                tuple(site.name for site in report.sites),
                tuple(site.rate for site in report.sites),
                0,
                Mark.BAR,
                tuple(f"{site.neurons:,} neurons, {site.events:,.0f} spikes per image" for site in report.sites),
            ),
        )
        for label, report in study.reports.items()
    }
    title = f"Firing rates at T = {study.report.rows[-1].steps}"
    return Chart("rates", title, "site", "spikes per neuron and step", views, {})


def activity_chart(study: Study) -> Chart:
    """Neurons at their limits."""
    names = tuple(site.site for site in study.causes.sites)
    series = (
        Series("saturated", names, tuple(100 * site.saturated for site in study.causes.sites), 3, Mark.BAR),
        Series("silent", names, tuple(100 * site.silent for site in study.causes.sites), 5, Mark.BAR),
    )
    return Chart("activity", "Saturated and silent neurons", "site", "neurons in %", {"": series}, {})


def causes_chart(study: Study) -> Chart:
    """Mean size of every cause at every site."""
    sites = study.causes.sites
    names = tuple(site.site for site in sites)
    scales = [site.scale or 1.0 for site in sites]
    bars = [
        Series(
            name,
            names,
            tuple(100 * site.cause(name).size / scale for site, scale in zip(sites, scales, strict=True)),
            colour,
            Mark.BAR,
            tuple(f"{100 * site.cause(name).share:.0f} % of the squared error" for site in sites),
        )
        for name, colour in zip(CAUSES, (7, 1, 3, 0, 2), strict=True)
    ]
    errors = tuple(100 * site.error / scale for site, scale in zip(sites, scales, strict=True))
    points = Series("error (causes may cancel)", names, errors, 8, Mark.POINT)
    title = f"Error by cause ({study.causes.schedule}, T = {study.causes.steps})"
    return Chart(
        "causes", title, "site", "mean size in % of the mean ReLU value", {"": (*bars, points)}, {}, stacked=True
    )


def offsets_chart(study: Study) -> Chart:
    """Histograms of offset spikes before and after calibration, of all sites and of each."""
    names = [site.site for site in next(iter(study.offsets.values())).sites]
    views = {"all sites": _histograms(study.offsets, names)}
    views |= {name: _histograms(study.offsets, [name]) for name in names}
    return Chart(
        "offsets",
        "Offset spikes: spikes that a neuron is short of the ANN's count",
        "offset (negative: too many spikes)",
        "neurons in %",
        views,
        {},
    )


def inexact_chart(study: Study) -> Chart:
    """Share of neurons whose count is not the ANN's, by site."""
    series = tuple(
        Series(
            _calibrated(label),
            tuple(site.site for site in found.sites),
            tuple(100 * (1 - site.exact) for site in found.sites),
            _OFFSET_COLOURS[index % len(_OFFSET_COLOURS)],
            Mark.BAR,
        )
        for index, (label, found) in enumerate(study.offsets.items())
    )
    return Chart("inexact", "Neurons with another count than the ANN's", "site", "neurons in %", {"": series}, {})


def energy_chart(study: Study) -> Chart:
    """Accuracy against energy, one view per rule."""
    views = {}
    for rule in ENERGY_RULES:
        lines = []
        for index, label in enumerate(study.reports):
            runs = [run for run in study.operations if run.label == label and run.top1 is not None]
            lines.append(
                Series(
                    label,
                    tuple(rule.spiking(run.operations) for run in runs),
                    tuple(float(run.top1 or 0.0) for run in runs),
                    index,
                    texts=tuple(f"T = {run.steps}" for run in runs),
                )
            )
        ann = Series("ANN", (rule.dense(study.ann_operations),), (study.report.ann_top1,), 8, Mark.POINT)
        views[rule.name] = (*lines, ann)
    return Chart(
        "energy", "Accuracy against energy", "microjoules per image (arithmetic only)", "top-1 accuracy in %", views, {}
    )


def events_chart(study: Study) -> Chart:
    """Spikes per image."""
    lines = tuple(
        Series(
            label,
            tuple(row.steps for row in report.rows),
            tuple(row.events for row in report.rows),
            index,
            Mark.LINE if len(report.rows) > 1 else Mark.POINT,
        )
        for index, (label, report) in enumerate(study.reports.items())
    )
    return Chart("events", "Spikes per image, all sites", "time-steps T", "spikes", {"": lines}, {}, log_x=True)


_OFFSET_COLOURS = (3, 0, 2, 1)


def _reports(study: Study) -> dict[str, Report]:
    return {**study.reports, **study.baseline}


def _levels(study: Study) -> dict[str, float]:
    """Accuracies of networks without time; equal ones share a line."""
    found = {"ANN": study.report.ann_top1, "ReLU, same weights": study.relu_top1}
    found |= {f"ANN of {label}": report.ann_top1 for label, report in study.baseline.items()}
    names: dict[float, list[str]] = {}
    for name, value in found.items():
        names.setdefault(value, []).append(name)
    return {", ".join(same): value for value, same in names.items()}


def _lines(reports: Mapping[str, Report], steps: Callable[[Report], list[int]]) -> tuple[Series, ...]:
    return tuple(
        Series(
            label,
            tuple(steps(report)),
            tuple(row.top1 for row in report.rows),
            index,
            Mark.LINE if len(report.rows) > 1 else Mark.POINT,
            tuple(f"T = {row.steps}, pipeline {row.latency.pipeline_steps}" for row in report.rows),
        )
        for index, (label, report) in enumerate(reports.items())
    )


def _histograms(offsets: Mapping[str, Offsets], names: Iterable[str]) -> tuple[Series, ...]:
    wanted = set(names)
    series = []
    for index, (label, found) in enumerate(offsets.items()):
        sites = [site for site in found.sites if site.site in wanted]
        counts = tuple(sum(column) for column in zip(*(site.counts for site in sites), strict=True))
        whole = SiteOffsets("", counts, 0.0, 0.0)
        series.append(
            Series(
                _calibrated(label),
                tuple(whole.offsets),
                tuple(100 * whole.share(offset) for offset in whole.offsets),
                _OFFSET_COLOURS[index % len(_OFFSET_COLOURS)],
                Mark.BAR,
                tuple(f"{count:,} neurons" for count in counts),
            )
        )
    return tuple(series)


def _calibrated(label: str) -> str:
    return "before (plain)" if label == "plain" else f"after ({label.split(':')[0]})"
