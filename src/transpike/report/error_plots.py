"""Pictures of the causes of error."""

from __future__ import annotations

import textwrap
from pathlib import Path

from transpike.errors import needs_extra
from transpike.evaluation.causes import CAUSES, ErrorCauses
from transpike.report.offset_plots import write_figure

_COLOURS = ("#8c8c8c", "#c9b037", "#b03a2e", "#2e6da4", "#3d8b5f")


def plot_causes(causes: ErrorCauses, path: Path, title: str) -> None:
    """Draws the mean size of every cause at every site, in percent of its mean ReLU value.

    Args:
        causes: of one network under one schedule.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        title: above the picture.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 2.5 + 0.42 * len(causes.sites)), 5.2), layout="constrained")
    axes = figure.subplots()
    places = range(len(causes.sites))
    below = [0.0] * len(causes.sites)
    for name, colour in zip(CAUSES, _COLOURS, strict=True):
        sizes = [100 * site.cause(name).size / (site.scale or 1.0) for site in causes.sites]
        axes.bar(places, sizes, bottom=below, color=colour, label=name, width=0.75)
        below = [low + size for low, size in zip(below, sizes, strict=True)]
    errors = [100 * site.error / (site.scale or 1.0) for site in causes.sites]
    axes.plot(places, errors, "k_", markersize=10, label="error (causes may cancel)")
    axes.set_xticks(places, [site.site for site in causes.sites], rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("mean size in % of the mean ReLU value")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, ncols=3, loc="upper left")
    axes.margins(y=0.18)
    figure.suptitle("\n".join(textwrap.wrap(title, 90)), fontsize=10)
    write_figure(figure, path)
