"""Tables and a picture of measured speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from transpike.bench import BenchReport, SweepPoint
from transpike.config import write_atomically
from transpike.report.layout import plain_table


def bench_table(report: BenchReport) -> Table:
    """Milliseconds of every contender, and the ratio to the fastest ANN."""
    batches = sorted({timing.batch for timing in report.timings})
    by_events = report.stages - report.dense_stages
    title = (
        f"milliseconds (x the fastest ANN), {report.threads} threads, {report.instruction_set}, torch {report.torch}; "
        f"{report.schedule}, {by_events} of {report.stages} stages by events; "
        f"flipped spikes {report.gate.flipped:.1e}, other answers {report.gate.answers:.1%}"
    )
    table = plain_table(title, "what", *(f"batch {batch}" for batch in batches))
    for what, steps in dict.fromkeys((timing.what, timing.steps) for timing in report.timings):
        cells = []
        for batch in batches:
            found = next(t for t in report.timings if (t.what, t.steps, t.batch) == (what, steps, batch))
            cells.append(f"{found.milliseconds:.2f} ({found.ratio:.2f})")
        table.add_row(what if steps == 0 else f"{what}, T={steps}", *cells)
    return table


def sweep_table(points: Sequence[SweepPoint]) -> Table:
    """Time of T steps of single layers in units of one dense pass, by firing rate."""
    rates = sorted({point.rate for point in points})
    title = f"3x3 convolution and neurons, T={points[0].steps}, in units of one dense pass"
    table = plain_table(title, "layer", *(f"{rate:.0%} spike" for rate in rates))
    for channels, size in dict.fromkeys((point.channels, point.size) for point in points):
        found = [next(p.ratio for p in points if (p.channels, p.size, p.rate) == (channels, size, r)) for r in rates]
        table.add_row(f"{channels} channels, {size}x{size}", *(f"{ratio:.2f}" for ratio in found))
    return table


def plot_sweep(points: Sequence[SweepPoint], path: Path) -> None:
    """Draws the time of each layer against its firing rate.

    Args:
        points: of `transpike.bench.sweep`.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.subplots()
    for index, (channels, size) in enumerate(dict.fromkeys((p.channels, p.size) for p in points)):
        own = [p for p in points if (p.channels, p.size) == (channels, size)]
        label = f"{channels} channels, {size}x{size}"
        axes.plot([100 * p.rate for p in own], [p.ratio for p in own], f"C{index}o-", markersize=3, label=label)
    axes.axhline(1.0, color="black", linestyle="--", linewidth=1, label="one dense pass")
    axes.set_xlabel("inputs that spike at a step, in %")
    axes.set_ylabel(f"time of T = {points[0].steps} steps / one dense pass")
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".")))
