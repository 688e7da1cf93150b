"""Times of functions whose ratios shall mean something on a machine that is not always equally fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

_WARM = 0.01
"""Seconds that a contender runs first: so long, idle threads of the one before it may keep the cores busy waiting."""


def fastest(calls: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Seconds of the fastest call each: rounds of all contenders, in each of which one warms up and then runs twice."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            while time.perf_counter() - begin < _WARM:
                call()
            for _ in range(2):
                begin = time.perf_counter()
                call()
                found[name] = min(found[name], time.perf_counter() - begin)
    return found
