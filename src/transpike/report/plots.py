"""Matplotlib pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transpike.errors import needs_extra
from transpike.evaluation.report import Report, Row
from transpike.serialization.json_records import write_atomically

_MARKS = "os^Dv*P<X>"
_STYLES = ("-", "--", "-.", ":")
_LEAST_GAP = 0.035
"""Between two labels at line ends, in heights of the axes."""


def plot_latency(reports: Mapping[str, Report], path: Path, title: str) -> None:
    """Draws top-1 accuracy against *pipeline* steps, so that schedules that look before they fire pay for it.

    Args:
        reports: by label, all of one network.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        title: above the picture.
    """
    figure, axes = _figure(title)
    lines = {
        label: _line(report.rows, [r.latency.pipeline_steps for r in report.rows]) for label, report in reports.items()
    }
    ann = next(iter(reports.values())).ann_top1
    _draw(axes, lines, {"ANN": ann})
    axes.set_xlabel("time-steps from the first input to the answer, all layers stepping at once (pipeline)")
    _save(figure, path)


def plot_accuracy(reports: Mapping[str, Report], path: Path, title: str) -> None:
    """Draws top-1 accuracy against T, one line per run; the ANN is a dashed line, one of its colour where they differ.

    Args:
        reports: by label.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        title: above the picture.
    """
    figure, axes = _figure(title)
    lines = {label: _line(report.rows, [row.steps for row in report.rows]) for label, report in reports.items()}
    accuracies = {label: report.ann_top1 for label, report in reports.items()}
    same = len(set(accuracies.values())) == 1
    _draw(axes, lines, {"ANN": next(iter(accuracies.values()))} if same else accuracies)
    axes.set_xlabel(_steps_axis(reports.values()) + ("" if same else "; dashed: the ANN"))
    _save(figure, path)


def _steps_axis(reports: Iterable[Report]) -> str:
    """What T counts, and what the answer takes besides."""
    waits = {row.latency.pipeline_steps - row.steps for report in reports for row in report.rows}
    if waits == {0}:
        return "time-steps T (all layers step together)"
    latency = f"{waits.pop()} + T" if len(waits) == 1 else "depends on the schedule"
    return f"time-steps T read out for the answer; pipeline latency {latency}"


def _figure(title: str) -> tuple[Any, Any]:
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure  # takes a while to import

    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title("\n".join(textwrap.wrap(title, 80)), fontsize=10)
    return figure, axes


def _line(rows: Sequence[Row], steps: list[int]) -> tuple[list[int], list[float]]:
    return steps, [row.top1 for row in rows]


def _draw(axes: Any, lines: Mapping[str, tuple[list[int], list[float]]], ann: Mapping[str, float]) -> None:
    """Lines with their names at their ends; later ones are thinner, so that equal curves show through each other."""
    with needs_extra("plots", "a picture"):
        from matplotlib.ticker import MaxNLocator

    labels = []
    for index, (label, (x, y)) in enumerate(lines.items()):
        colour, mark = f"C{index % 10}", _MARKS[index % len(_MARKS)]
        width = 3.2 - 2.4 * index / max(1, len(lines) - 1) if len(lines) > 1 else 1.6
        style = _STYLES[index % len(_STYLES)]
        axes.plot(x, y, color=colour, marker=mark, markersize=4.5, linewidth=width, linestyle=style, alpha=0.9)
        labels.append((label, x[-1], y[-1], colour))
        if label in ann:
            axes.axhline(ann[label], color=colour, linestyle="--", linewidth=1, alpha=0.7)
    values = [value for _, y in lines.values() for value in y] + list(ann.values())
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.5)
    axes.set_ylim(low - margin, high + margin)
    first, last = min(min(x) for x, _ in lines.values()), max(max(x) for x, _ in lines.values())
    if "ANN" in ann:
        axes.axhline(ann["ANN"], color="black", linestyle="--", linewidth=1)
        axes.annotate("ANN", (first, ann["ANN"]), (0, 2), textcoords="offset points", fontsize=8, va="bottom")
    axes.set_xscale("log", base=2)
    ticks = [2**k for k in range((2 * last).bit_length()) if first <= 2**k <= last] or [first]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    levels = MaxNLocator(8, steps=[1, 2, 5, 10]).tick_values(low - margin, high + margin)
    axes.set_yticks([level for level in levels if max(0, low - margin) <= level <= min(100, high + margin)])
    axes.set_ylabel("top-1 accuracy in %")
    axes.grid(alpha=0.3)
    _label_ends(axes, labels, low - margin, high + margin)


def _label_ends(axes: Any, labels: list[tuple[str, int, float, str]], low: float, high: float) -> None:
    """Names beside the right edge in the order of the line ends, pushed apart where they would meet."""
    labels = sorted(labels, key=lambda entry: entry[2])
    places = [(value - low) / (high - low) for _, _, value, _ in labels]
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + _LEAST_GAP)
    over = max(0.0, places[-1] - 1.0)
    for (label, x, value, colour), place in zip(labels, places, strict=True):
        axes.annotate(
            label,
            (x, value),
            (1.02, place - over),
            textcoords="axes fraction",
            fontsize=8,
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.5, "relpos": (0, 0.5)},
        )


def _save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".")))
