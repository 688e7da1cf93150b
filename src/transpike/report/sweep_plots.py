"""Pictures of a sweep: accuracy over c (SlipReLU paper, Fig. 2 and S4), with and without shift (S3), the criterion."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transpike.errors import needs_extra
from transpike.experiments.sweep import Setting
from transpike.experiments.sweep_record import Cell, Scores, SweepRecord
from transpike.report.offset_plots import write_figure
from transpike.report.sweep_tables import spiking, variant_label, variants

_MARKS = "os^Dv*P<X>"
_COLUMNS = 4


def plot_sweep(record: SweepRecord, folder: Path) -> list[Path]:
    """Draws all pictures of a sweep into a folder.

    Args:
        record: of the sweep; without a finished setting nothing is drawn.
        folder: for ``accuracy.png`` and ``criterion.png``, with the variant in the name where there are several, and
            ``shift.png`` where delta is varied.

    Returns:
        The pictures.
    """
    groups = variants(record)
    found = []
    for variant, cells in groups.items():
        label = variant_label(record, variant)
        end = ".png" if len(groups) == 1 else f"-{re.sub(r'[^A-Za-z0-9.]+', '-', label)}.png"
        plot_slopes(record, cells, folder / f"accuracy{end}", label)
        plot_criterion(record, cells, folder / f"criterion{end}", label)
        found += [folder / f"accuracy{end}", folder / f"criterion{end}"]
    if len(record.sweep.shifts) > 1 and groups:
        plot_shifts(record, folder / "shift.png")
        found.append(folder / "shift.png")
    return found


def plot_slopes(record: SweepRecord, cells: Sequence[Cell], path: Path, label: str) -> None:
    """Draws test accuracy over c: a panel for the ANN and for each T, a line for each N; shades reach over the seeds.

    Args:
        record: of the sweep.
        cells: settings that differ in N and c alone.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        label: what the settings have in common.
    """
    figure_class, maps = _matplotlib()
    sweep = record.sweep
    panels: list[tuple[str, Callable[[Scores], float]]] = [("ANN", lambda scores: scores.ann)]
    panels += [(f"SNN, T = {t}", spiking(t)) for t in sweep.at]
    columns = min(_COLUMNS, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = figure_class(figsize=(max(6.0, 2.9 * columns), 2.6 * lines + 1.1), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    used = list(dict.fromkeys(cell.setting.activation.levels for cell in cells))
    colours = _colours(maps, len(used))
    for axes, (title, value) in zip(grid.flat, panels, strict=False):
        for index, levels in enumerate(used):
            own = [cell for cell in cells if cell.setting.activation.levels == levels]
            c = [cell.setting.activation.slope for cell in own]
            mark = _MARKS[index % len(_MARKS)]
            means = [cell.mean("test", value) for cell in own]
            axes.plot(c, means, color=colours[index], marker=mark, markersize=4, linewidth=1.5, label=f"N = {levels}")
            if len(sweep.seeds) > 1:
                spread = [cell.values("test", value) for cell in own]
                axes.fill_between(
                    c, [min(v) for v in spread], [max(v) for v in spread], color=colours[index], alpha=0.15
                )
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for index in range(len(panels)):
        grid.flat[index].tick_params(labelbottom=index + columns >= len(panels), labelsize=8)
    figure.supxlabel("slope c", fontsize=9)
    figure.supylabel("top-1 accuracy on test images in %", fontsize=9)
    seeds = f"; lines: mean of {len(sweep.seeds)} seeds, shades: their range" if len(sweep.seeds) > 1 else ""
    figure.suptitle(f"{label}{seeds}", fontsize=10)
    handles = grid.flat[0].get_legend_handles_labels()
    free = list(grid.flat)[len(panels) :]
    if free:
        free[0].legend(*handles, loc="center", fontsize=10, frameon=False)
    else:
        figure.legend(*handles, loc="outside right upper", fontsize=9)
    write_figure(figure, path)


def plot_criterion(record: SweepRecord, cells: Sequence[Cell], path: Path, label: str) -> None:
    """Draws the criterion on the validation part over c and N, the sweep's choice framed.

    Args:
        record: of the sweep.
        cells: settings that differ in N and c alone.
        path: the picture.
        label: what the settings have in common.
    """
    figure_class, maps = _matplotlib()
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    sweep, t = record.sweep, record.sweep.criterion_steps
    values = [[math.nan] * len(sweep.slopes) for _ in sweep.levels]
    chosen, place = record.choose().setting, None
    for cell in cells:
        a = cell.setting.activation
        row, column = sweep.levels.index(a.levels), sweep.slopes.index(a.slope)
        values[row][column] = cell.criterion(t)
        place = (row, column) if cell.setting == chosen else place
    there = [value for line in values for value in line if value > 0]
    low, high = min(there, default=0.1), max(there, default=1.0)
    size = (max(6.0, 2.2 + 0.62 * len(sweep.slopes)), max(2.8, 1.7 + 0.5 * len(sweep.levels)))
    figure = figure_class(figsize=size, layout="constrained")
    axes = figure.subplots()
    norm = LogNorm(low, max(high, 1.01 * low))
    shades = maps["viridis_r"].with_extremes(bad="white", under=maps["viridis_r"](0.0))
    drawn = axes.imshow(values, cmap=shades, norm=norm, aspect="auto")
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            known = not math.isnan(value)
            dark = known and norm(max(value, low)) > 0.55
            text = f"{value:.3g}" if known else "-"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    if place is not None:
        axes.add_patch(
            Rectangle(
                (place[1] - 0.5, place[0] - 0.5), 1, 1, fill=False, clip_on=False, edgecolor="#d62728", linewidth=2.5
            )
        )
    axes.set_xticks(range(len(sweep.slopes)), [f"{c:g}" for c in sweep.slopes])
    axes.set_yticks(range(len(sweep.levels)), [str(levels) for levels in sweep.levels])
    axes.set_xlabel("slope c")
    axes.set_ylabel("levels N")
    bar = figure.colorbar(drawn, ax=axes, label="percentage points", pad=0.02, format="%g", ticks=_decades(low, high))
    bar.ax.minorticks_off()
    frame = "; framed: the choice" if place is not None else ""
    title = f"{label}: criterion of section 4.4 at T = {t} on the validation part{frame}"
    figure.suptitle("\n".join(textwrap.wrap(title, round(13 * size[0]))), fontsize=10)
    write_figure(figure, path)


def plot_shifts(record: SweepRecord, path: Path) -> None:
    """Draws test accuracy over T for each delta (columns) and N (rows), a line for each c.

    Drawn for the network and the other settings of the sweep's choice.

    Args:
        record: of a sweep over delta.
        path: the picture.
    """
    figure_class, maps = _matplotlib()
    sweep = record.sweep
    chosen = record.choose().setting
    common = [cell for cell in record.cells if _without_shift(cell.setting) == _without_shift(chosen)]
    size = (2.9 * len(sweep.shifts) + 2.2, 2.1 * len(sweep.levels) + 1.3)
    figure = figure_class(figsize=size, layout="constrained")
    grid = figure.subplots(len(sweep.levels), len(sweep.shifts), sharex=True, sharey=True, squeeze=False)
    colours = dict(zip(sweep.slopes, _colours(maps, len(sweep.slopes)), strict=True))
    for row, levels in enumerate(sweep.levels):
        for column, shift in enumerate(sweep.shifts):
            axes = grid[row][column]
            for cell in common:
                a = cell.setting.activation
                if (a.levels, a.shift) == (levels, shift):
                    means = [cell.mean("test", spiking(t)) for t in sweep.at]
                    axes.plot(
                        sweep.at, means, color=colours[a.slope], marker="o", markersize=3, label=f"c = {a.slope:g}"
                    )
            axes.set_title(f"N = {levels}, delta = {shift:g}", fontsize=9)
            axes.set_xscale("log", base=2)
            axes.set_xticks(sweep.at, [str(t) for t in sweep.at], fontsize=8)
            axes.minorticks_off()
            axes.grid(alpha=0.3)
    figure.supxlabel("time-steps T", fontsize=9)
    figure.supylabel("top-1 accuracy on test images in %", fontsize=9)
    figure.suptitle(f"{chosen.network}: with and without shift", fontsize=10)
    lines = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(lines.values()), list(lines), loc="outside right upper", fontsize=8)
    write_figure(figure, path)


def _without_shift(setting: Setting) -> Setting:
    return replace(setting, activation=replace(setting.activation, levels=1, slope=0.0, shift=0.0))


def _decades(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic scale, and the ends where there are few."""
    ticks = [step * 10.0**power for power in range(-3, 3) for step in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) > 2 else [low, high]


def _matplotlib() -> tuple[Any, Any]:
    with needs_extra("plots", "a picture"):
        from matplotlib import colormaps
        from matplotlib.figure import Figure

    return Figure, colormaps


def _colours(maps: Any, number: int) -> list[Any]:
    """Ordered colours, the brightest left out."""
    return [maps["viridis"](0.85 * index / max(1, number - 1)) for index in range(number)]
