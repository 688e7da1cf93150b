"""Tables and a picture of measured speed."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from transpike.bench import BenchReport, StageCosts, Sweep
from transpike.errors import needs_extra
from transpike.report.layout import plain_table
from transpike.serialization.json_records import write_atomically


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


def bench_warning(report: BenchReport) -> str:
    """Why the times mean little, if they contradict each other: a batch that took longer than a larger one."""
    for earlier in report.timings:
        for later in report.timings:
            same = (earlier.what, earlier.steps) == (later.what, later.steps)
            if same and earlier.batch < later.batch and earlier.milliseconds > 1.1 * later.milliseconds:
                return (
                    f"{earlier.what} took longer for batch {earlier.batch} than for batch {later.batch}: the machine "
                    "is loaded, or threads wait for each other (set OMP_NUM_THREADS); these ratios mean little"
                )
    return ""


def stages_table(costs: StageCosts) -> Table:
    """Time of every stage, of its ANN operators, its work, and its share of the limit."""
    title = (
        f"stages at batch {costs.batch}, T={costs.steps}, {costs.schedule}, {costs.threads} threads, "
        f"{costs.instruction_set}; at most {costs.peaks.additions / 1e9:.0f} G additions/s and "
        f"{_memory_rates(costs)} GB/s read; limit: the least time for additions and bytes / measured"
    )
    table = plain_table(title, "stage", "ms", "share", "ANN ms", "input rate", "M additions", "kB moved", "of limit")
    for stage in costs.stages:
        table.add_row(
            stage.site if stage.events else f"{stage.site} (torch)",
            f"{stage.milliseconds:.3f}",
            f"{stage.share:.1%}",
            f"{stage.ann_milliseconds:.3f}",
            "" if stage.rate is None else f"{stage.rate:.1%}",
            "" if stage.rate is None else f"{stage.additions / 1e6:.2f}",
            f"{stage.bytes / 1e3:.0f}" if stage.bytes else "",
            "" if stage.limit is None else f"{stage.limit:.0%}",
        )
    by_events = [stage for stage in costs.stages if stage.limit is not None]
    least = sum((stage.limit or 0.0) * stage.milliseconds for stage in by_events)
    table.add_row(
        "all",
        f"{sum(stage.milliseconds for stage in costs.stages):.3f}",
        "",
        f"{sum(stage.ann_milliseconds for stage in costs.stages):.3f}",
        "",
        f"{sum(stage.additions for stage in by_events) / 1e6:.2f}",
        f"{sum(stage.bytes for stage in costs.stages) / 1e3:.0f}",
        f"{least / sum(stage.milliseconds for stage in by_events):.0%}" if by_events else "",
    )
    return table


def _memory_rates(costs: StageCosts) -> str:
    rates = [rate / 1e9 for _, rate in costs.peaks.reading]
    return f"{rates[-1]:.0f} (memory) to {rates[0]:.0f} (first cache)"


def sweep_table(found: Sweep) -> Table:
    """Time of T steps of single layers in units of one dense pass, and the share of the limit, by firing rate."""
    points = found.by_rate
    rates = sorted({point.rate for point in points})
    title = (
        f"3x3 convolution and neurons, batch {found.batch}, T={points[0].steps}, in units of one dense pass "
        "(and of the limit)"
    )
    table = plain_table(title, "layer", *(f"{rate:.0%} spike" for rate in rates), "R2 in spikes", "R2 in T")
    for over_rate, over_steps in zip(found.rate_lines, found.step_lines, strict=True):
        layer = (over_rate.channels, over_rate.size)
        own = [next(p for p in points if (p.channels, p.size, p.rate) == (*layer, rate)) for rate in rates]
        cells = [f"{point.ratio:.2f} ({point.limit:.0%})" for point in own]
        table.add_row(f"{layer[0]}, {layer[1]}x{layer[1]}", *cells, f"{over_rate.r2:.3f}", f"{over_steps.r2:.3f}")
    return table


def plot_sweep(found: Sweep, path: Path) -> None:
    """Draws the time of each layer against the spikes that come in and against T, with lines of least squares.

    Args:
        found: of `transpike.bench.sweep`.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for index, (over_rate, over_steps) in enumerate(zip(found.rate_lines, found.step_lines, strict=True)):
        layer = (over_rate.channels, over_rate.size)
        colour = f"C{index}"
        by_rate = [p for p in found.by_rate if (p.channels, p.size) == layer]
        by_steps = [p for p in found.by_steps if (p.channels, p.size) == layer]
        dense = by_rate[0].milliseconds / by_rate[0].ratio
        for axes, own, x, line, scale in (
            (left, by_rate, [100 * p.rate for p in by_rate], over_rate, [p.spikes / 1000 for p in by_rate]),
            (right, by_steps, [float(p.steps) for p in by_steps], over_steps, [float(p.steps) for p in by_steps]),
        ):
            label = f"{layer[0]} channels, {layer[1]}x{layer[1]}; $R^2$ {over_rate.r2:.3f}, {over_steps.r2:.3f}"
            axes.plot(x, [p.ratio for p in own], f"{colour}o", markersize=4, label=label)
            axes.plot(x, [(line.start + line.slope * at) / dense for at in scale], f"{colour}-", linewidth=1)
    left.set_xlabel(f"inputs that spike at a step, in %; T = {found.by_rate[0].steps}")
    right.set_xlabel(f"time-steps T; {found.by_steps[0].rate:.0%} of inputs spike")
    left.set_ylabel("time / one dense pass")
    for axes in (left, right):
        axes.axhline(1.0, color="black", linestyle="--", linewidth=1)
        axes.set_ylim(0)
        axes.grid(alpha=0.3)
    title = (
        "points: measured; lines: least squares, R squared in spikes (left) and in T (right); dashed: one dense pass"
    )
    figure.legend(
        *left.get_legend_handles_labels(),
        fontsize=8,
        loc="outside lower center",
        ncols=3,
        title=title,
        title_fontsize=8,
    )
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=130, format=path.suffix.lstrip(".")))
