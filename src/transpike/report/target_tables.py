"""Tables of networks in other simulators."""

from __future__ import annotations

from rich.table import Table

from transpike.interop.compare_target import TargetReport
from transpike.report.layout import plain_table


def target_table(report: TargetReport, about: str) -> Table:
    """The network here and in the target.

    Args:
        report: what was compared.
        about: on which inputs.
    """
    table = plain_table(
        f"T = {report.steps}, {about}; simulated here by the target's rule", "", "transpike", report.target
    )
    if report.top1 is not None and report.target_top1 is not None:
        table.add_row("accuracy %", f"{report.top1:.2f}", f"{report.target_top1:.2f}")
    table.add_row("steps until the answer", str(report.steps), str(report.steps + report.delay))
    table.add_row("spikes per image", f"{report.spikes:,.0f}", f"{report.target_spikes:,.0f}")
    table.add_row("same answer, % of images", "", f"{report.same_answers:.2f}")
    table.add_row("same spikes, % of neurons and steps", "", f"{report.same_events:.2f}")
    return table
