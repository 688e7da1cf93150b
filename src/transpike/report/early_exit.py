"""Tables of early exit."""

from __future__ import annotations

from rich.table import Table

from transpike.evaluation.early_exit import EarlyReport
from transpike.report.layout import plain_table


def early_exit_table(report: EarlyReport) -> Table:
    """Accuracy and mean latency at every threshold, and of all steps in the last row."""
    title = f"early exit, {report.images:,} images, {report.schedule}"
    if not report.stops:
        title += " (cannot stream: what stopping would give, nothing is saved here)"
    columns = ("top-1 %", f"to T = {report.steps}", "other answer %", "mean T", "mean pipeline")
    table = plain_table(title, "confidence", *columns)
    for row in report.rows:
        table.add_row(
            f"{row.confidence:.6g}",
            f"{row.top1:.2f}",
            f"{row.top1 - report.full_top1:+.2f}",
            f"{100 * row.disagreement:.2f}",
            f"{row.mean_steps:.3f}",
            f"{row.mean_pipeline_steps:.3f}",
        )
    full = (f"{report.full_top1:.2f}", "", "", str(report.steps), str(report.full_pipeline_steps))
    table.add_row("never", *full)
    return table


def steps_used_table(report: EarlyReport) -> Table:
    """How many images stopped after each step, one column per threshold."""
    table = plain_table("images that stop after T steps", "T", *(f"at {row.confidence:.6g}" for row in report.rows))
    for t in range(report.steps):
        table.add_row(str(t + 1), *(f"{row.steps_used[t]:,}" for row in report.rows))
    return table
