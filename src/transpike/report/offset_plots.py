"""Pictures of offset spikes (COS paper, figures 1 to 6)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transpike.errors import needs_extra
from transpike.evaluation.offsets import CaseExample, Offsets, ShiftCase, SiteOffsets, Trajectory
from transpike.evaluation.report import Report
from transpike.serialization.json_records import write_atomically

_NAMED_SITES = 24  # more names than this cannot be read below the axis
_BLUE, _RED = (0.15, 0.35, 0.65), (0.75, 0.25, 0.15)


def plot_offsets(free: Mapping[str, Offsets], constrained: Mapping[str, Offsets], path: Path, title: str) -> None:
    """Draws the distribution of psi at every site: one row per schedule, without and with constraint.

    Too few spikes (psi > 0) are stacked upwards, too many downwards, darker for more of them; psi = 0 is what is
    missing to 100 %. A schedule without any offset spike is named in the title instead. Figures 1, 3 and 6.

    Args:
        free: by label, at least one.
        constrained: with the same labels.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        title: above the picture.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    sites = next(iter(free.values())).sites
    drawn = [label for label in free if _wrong(free[label]) or _wrong(constrained[label])] or list(free)[:1]
    silent = [label for label in free if label not in drawn]
    if silent:
        title = f"{title}; psi = 0 everywhere: {', '.join(silent)}"
    figure = Figure(figsize=(_width(sites), 2.4 * len(drawn) + 1.9), layout="constrained")
    grid = figure.subplots(len(drawn), 2, sharex=True, sharey=True, squeeze=False)
    sizes = [size for size in range(1, sites[0].probe_steps + 1) if _occurs(size, free, constrained)] or [1]
    for row, label in enumerate(drawn):
        for axes, found, mode in zip(grid[row], (free, constrained), ("as it runs", "with right inputs"), strict=True):
            for sign, hue in ((1, _BLUE), (-1, _RED)):
                _stack(axes, found[label].sites, [sign * size for size in sizes], hue)
            axes.axhline(0, color="black", linewidth=0.8)
            axes.set_title(f"{label}, {mode}: at most {100 * _wrong(found[label]):.3g} % not exact", fontsize=9)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
            axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    for axes in grid[-1]:
        _name_sites(axes, sites)
    figure.supylabel("% of neurons: too many spikes (down), too few (up)", fontsize=9)
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=10)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=8, fontsize=8)
    write_figure(figure, path)


def plot_cases(cases: Mapping[ShiftCase, CaseExample | None], path: Path, title: str) -> None:
    """Draws figure 2 for neurons of the network: the potential of each before and after its shift.

    Between two steps the drive is drawn as a rise to its end, the reset as the drop that follows; a triangle marks a
    spike. A case without a neuron says so.

    Args:
        cases: as `find_cases` gives them.
        path: the picture.
        title: above the picture.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    grid = figure.subplots(2, 2)
    for axes, letter, (case, found) in zip(grid.flat, "abcd", cases.items(), strict=True):
        heading = f"({letter}) {case.value}"
        if found is None:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "does not occur in this data", ha="center", va="center")
            axes.set_title(heading, fontsize=9)
            continue
        for run, colour, label in ((found.before, _RED, "before"), (found.after, _BLUE, "after the shift")):
            _draw_run(axes, run, found, colour, label)
        axes.axhline(1, color="black", linestyle="--", linewidth=1)
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.set_xticks(range(len(found.drive) + 1))
        axes.set_xlabel("time-step", fontsize=8)
        axes.set_ylabel("potential in thresholds", fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        neuron = ", ".join(str(index) for index in found.neuron)
        offsets = (
            f"psi = {_signed(found.offset_before)}, then {_signed(found.offset_after)}; {found.wanted} spikes wanted"
        )
        place = f"{found.site}, neuron ({neuron}), sample {found.sample}"
        axes.set_title(f"{heading}\n{offsets}\n{place}", fontsize=9)
    lines = "\n".join(textwrap.wrap(title, 90))
    figure.suptitle(f"{lines}\ndashed: the threshold; triangle: a spike", fontsize=10)
    write_figure(figure, path)


def plot_convergence(free: Mapping[str, Offsets], path: Path, title: str) -> None:
    """Draws the ratio of exact outputs and the MSE at every site, one line per number of COS iterations (figure 5).

    Args:
        free: by label, in the order of iterations.
        path: the picture.
        title: above the picture.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    sites = next(iter(free.values())).sites
    figure = Figure(figsize=(_width(sites), 5.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = [("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"), ("v", "-")]
    zeros = False
    for index, (label, offsets) in enumerate(free.items()):
        marker, line = styles[index % len(styles)]
        size = max(3.0, 9.0 - 1.5 * index)  # lines that coincide stay visible
        look = {"marker": marker, "markersize": size, "linestyle": line, "color": f"C{index}", "label": label}
        left.plot([100 * site.exact for site in offsets.sites], **look)
        errors = [site.mse if site.mse > 0 else float("nan") for site in offsets.sites]
        zeros = zeros or any(site.mse == 0 for site in offsets.sites)
        right.plot(errors, **look)
    left.set_ylabel("neurons with psi = 0, in %")
    right.set_ylabel("MSE: mean of psi squared" + (" (zeros are not drawn)" if zeros else ""))
    if any(site.mse > 0 for offsets in free.values() for site in offsets.sites):
        right.set_yscale("log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_xlim(-0.7, len(sites) - 0.3)
        _name_sites(axes, sites)
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=10)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    write_figure(figure, path)


def plot_influence(reports: Mapping[int, Report], path: Path, title: str) -> None:
    """Draws top-1 accuracy of COS against T, one line per rho (figure 4).

    Args:
        reports: by rho.
        path: the picture.
        title: above the picture.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.subplots()
    markers = "os^Dv*"
    for index, (rho, report) in enumerate(reports.items()):
        steps = [row.steps for row in report.rows]
        accuracy = [row.top1 for row in report.rows]
        axes.plot(steps, accuracy, marker=markers[index % len(markers)], markersize=5, label=f"rho = {rho}")
    first = next(iter(reports.values()))
    axes.axhline(first.ann_top1, color="black", linestyle="--", linewidth=1, label="source ANN")
    steps = [row.steps for row in first.rows]
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(t) for t in steps])
    axes.minorticks_off()
    axes.set_xlabel("time-steps T after the probe")
    axes.set_ylabel("top-1 accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    axes.set_title("\n".join(textwrap.wrap(title, 80)), fontsize=10)
    write_figure(figure, path)


def _width(sites: Sequence[SiteOffsets]) -> float:
    """Inches that leave room for the names of the sites below two panels."""
    return max(9.0, 2 * (1.5 + 0.24 * min(len(sites), 2 * _NAMED_SITES)))


def _wrong(offsets: Offsets) -> float:
    """The largest share of neurons with an offset at any site."""
    return max(1 - site.exact for site in offsets.sites)


def _occurs(size: int, *modes: Mapping[str, Offsets]) -> bool:
    every = (site for mode in modes for offsets in mode.values() for site in offsets.sites)
    return any(site.share(size) or site.share(-size) for site in every)


def _stack(axes: Any, sites: Sequence[SiteOffsets], values: Sequence[int], hue: tuple[float, float, float]) -> None:
    """Bars of one sign, the smallest offset next to the axis."""
    base = [0.0] * len(sites)
    for rank, value in enumerate(values):
        sign = 1 if value > 0 else -1
        heights = [100 * sign * site.share(value) for site in sites]
        strength = 0.4 + 0.6 * rank / max(1, len(values) - 1)
        colour = tuple(1 - strength * (1 - part) for part in hue)
        axes.bar(range(len(sites)), heights, bottom=base, color=colour, width=0.8, label=f"psi = {value:+d}")
        base = [low + height for low, height in zip(base, heights, strict=True)]


def _draw_run(axes: Any, run: Trajectory, found: CaseExample, colour: tuple[float, float, float], label: str) -> None:
    times, values = [0], [run.potentials[0] / found.theta]
    peaks = []
    for t, current in enumerate(found.drive, start=1):
        peaks.append((run.potentials[t - 1] + current) / found.theta)
        times += [t, t]
        values += [peaks[-1], run.potentials[t] / found.theta]
    train = "".join(str(spike) for spike in run.spikes)
    axes.plot(times, values, color=colour, linewidth=1.4, label=f"{label}: {train}")
    axes.plot(times[::2], values[::2], linestyle="", marker="o", markersize=4, color=colour)
    fired = [t for t, spike in enumerate(run.spikes) if spike]
    heights = [peaks[t] for t in fired]
    axes.plot([t + 1 for t in fired], heights, "^", markersize=9, color=colour, markeredgecolor="black")


def _signed(number: int) -> str:
    return f"{number:+d}" if number else "0"


def _name_sites(axes: Any, sites: Sequence[SiteOffsets]) -> None:
    if len(sites) <= _NAMED_SITES:
        axes.set_xticks(range(len(sites)), [site.site for site in sites], rotation=90, fontsize=7)
    else:
        axes.set_xlabel("site, numbered from 0 in execution order")


def write_figure(figure: Any, path: Path) -> None:
    """Writes a Matplotlib figure in the format that the file's name ends in."""
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".")))
