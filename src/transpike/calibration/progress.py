"""How far a long job is: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY = 10.0
"""Seconds between two lines."""


class ProgressBar:
    """Counts steps of a job on standard error.

    Args:
        what: the job, one or two words.
        total: how many steps, None if nobody knows.
        shown: False says nothing.
    """

    def __init__(self, what: str, total: int | None, shown: bool) -> None:
        self.what = what
        self.total = total
        self.shown = shown
        self.done = 0
        self.printed = time.monotonic()
        self.spoke = False
        self.bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(what, total=total)

    def __enter__(self) -> ProgressBar:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def rename(self, what: str) -> None:
        """Says what comes next."""
        self.what = what
        if self.bar is not None:
            self.bar.update(self.task, description=what)

    def advance(self) -> None:
        """Counts one step."""
        self.done += 1
        if self.bar is not None:
            self.bar.advance(self.task)
        elif self.shown and (time.monotonic() - self.printed >= _EVERY or (self.spoke and self.done == self.total)):
            self.printed, self.spoke = time.monotonic(), True
            print(f"{self.what}: {self.done}" + (f" of {self.total}" if self.total else ""), file=sys.stderr)


def track(items: Iterable[Any], what: str, shown: bool) -> Iterator[Any]:
    """Goes through ``items`` and counts them."""
    with ProgressBar(what, len(items) if isinstance(items, Sized) else None, shown) as bar:
        for item in items:
            yield item
            bar.advance()
