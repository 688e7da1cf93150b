"""Times of functions whose ratios shall mean something on a machine that is not always equally fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_PAUSE = 0.01
"""Seconds before a contender: the threads of the one before it wait for more work in a loop, on the same cores."""


def fastest(calls: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Seconds of the fastest call each: rounds of all contenders, each of which waits, warms up and then runs twice."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            time.sleep(_PAUSE)
            call()
            for _ in range(2):
                begin = time.perf_counter()
                call()
                found[name] = min(found[name], time.perf_counter() - begin)
    return found
