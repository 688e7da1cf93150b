"""How tables look."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table


class _Text(Table):
    """A table whose cells are text: what looks like markup in names of files and sites stays as it is."""

    def add_row(self, *cells: Any, **settings: Any) -> None:
        super().add_row(*(escape(cell) if isinstance(cell, str) else cell for cell in cells), **settings)


def plain_table(title: str, *columns: str) -> Table:
    """A plain table whose first column is text and the others are numbers."""
    table = _Text(title=escape(title), box=box.SIMPLE, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index > 0, min_width=2)
    return table


def text_table(title: str, *columns: str) -> Table:
    """A plain table of text whose first column is never cut."""
    table = _Text(title=escape(title), box=box.SIMPLE, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table
