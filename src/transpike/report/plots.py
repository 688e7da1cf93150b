"""Matplotlib pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from transpike.evaluation.report import Report
from transpike.serialization.json_records import write_atomically


def plot_latency(reports: Mapping[str, Report], path: Path, title: str) -> None:
    """Draws top-1 accuracy against *pipeline* steps, so that schedules that look before they fire pay for it.

    Args:
        reports: by label, all of one network.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    axes = figure.subplots()
    for index, (label, report) in enumerate(reports.items()):
        steps = [row.latency.pipeline_steps for row in report.rows]
        axes.plot(steps, [row.top1 for row in report.rows], color=f"C{index}", marker="o", markersize=3, label=label)
    axes.axhline(next(iter(reports.values())).ann_top1, color="black", linestyle="--", linewidth=1, label="ANN")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("time-steps from the first input to the answer, all layers stepping at once (pipeline)")
    axes.set_ylabel("top-1 accuracy in %")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.set_title("\n".join(textwrap.wrap(title, 80)), fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".")))


def plot_accuracy(reports: Mapping[str, Report], path: Path, title: str) -> None:
    """Draws top-1 accuracy against T, one line per run, the ANN as a dashed line of the same colour.

    Args:
        reports: by label.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
        title: above the picture.
    """
    from matplotlib.figure import Figure  # takes a while to import

    figure = Figure(figsize=(7.5, 5.4), layout="constrained")
    axes = figure.subplots()
    longest = 1
    for index, (label, report) in enumerate(reports.items()):
        steps = [row.steps for row in report.rows]
        longest = max(longest, steps[-1])
        colour = f"C{index}"
        axes.plot(steps, [row.top1 for row in report.rows], color=colour, marker="o", markersize=3, label=label)
        axes.axhline(report.ann_top1, color=colour, linestyle="--", linewidth=1, alpha=0.7)
    axes.set_xscale("log", base=2)
    ticks = [2**k for k in range(longest.bit_length()) if 2**k <= longest]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlabel("time-steps T (all layers step together)")
    axes.set_ylabel("top-1 accuracy in %")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.set_title("\n".join(textwrap.wrap(title, 80)), fontsize=10)
    figure.legend(title="dashed: the ANN", fontsize=8, title_fontsize=8, loc="outside lower center", ncols=2)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=150, format=path.suffix.lstrip(".")))
