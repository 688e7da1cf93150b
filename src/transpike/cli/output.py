"""Where the commands print."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDE = 120

out = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
"""The terminal; as wide as it is, or wide enough for every table where the output goes to a file."""


def say(text: str) -> None:
    """Prints a line as it is, however long."""
    out.print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Prints what the user should know, but did not ask for."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"note: {text}", markup=False)
