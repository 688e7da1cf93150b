"""Where the commands print."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def noting_warnings() -> Iterator[None]:
    """Prints the warnings of what it encloses as notes, when that is done."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        yield
    for warning in found:
        note(str(warning.message))
