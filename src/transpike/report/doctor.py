"""The table of ``transpike doctor``."""

from __future__ import annotations

from rich import box
from rich.markup import escape
from rich.table import Table

from transpike.testing.doctor import Diagnosis, Status

_MARKS = {Status.OK: "[green]ok[/]", Status.ABSENT: "[yellow]absent[/]", Status.BROKEN: "[bold red]BROKEN[/]"}


def doctor_table(diagnosis: Diagnosis) -> Table:
    """What was found, topic by topic, and under it how to mend what is not there."""
    table = Table(title="transpike doctor", box=box.SIMPLE, title_justify="left")
    table.add_column("topic", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    topic = ""
    for finding in diagnosis.findings:
        value = escape(finding.value) + (f"\n[dim]fix: {escape(finding.fix)}[/]" if finding.fix else "")
        head = "" if finding.topic == topic else finding.topic
        table.add_row(head, finding.name, _MARKS[finding.status], value)
        topic = finding.topic
    return table
