"""Where the commands print."""

from __future__ import annotations

import sys

from rich.console import Console

_WIDE = 120

out = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False)
"""The terminal; as wide as it is, or wide enough for every table where the output goes to a file."""
