"""Measures which stages torch operators compute faster than the event-driven kernel, on the user's machine and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from transpike.engine.engine import Engine


def faster_dense(
    make: Callable[[frozenset[str]], Engine], inputs: Sequence[Tensor], batch: int, steps: int, repeats: int
) -> frozenset[str]:
    """The sites whose stages are faster dense; none if the whole network then is slower.

    Every stage is timed in a network that runs event by event and in one that runs dense; the mixture that follows is
    timed against the first, since a dense stage must unpack the spikes of its sources.

    Args:
        make: packs an engine in which torch operators compute the drive of some sites.
        inputs: real data; time depends on how many neurons spike.
        batch: N.
        steps: S.
        repeats: runs of each; the fastest counts.
    """

    def total(engine: Engine) -> float:
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            engine.run(inputs, batch, steps)
            seconds.append(time.perf_counter() - begin)
        return min(seconds)

    engine = make(frozenset())
    by_events, all_events = time_stages(engine, inputs, batch, steps, repeats), total(engine)
    spiking = frozenset(name for name, value in engine.values.items() if value.terms)
    dense = time_stages(make(spiking), inputs, batch, steps, repeats)
    faster = frozenset(name for name in spiking if dense.get(name, 0.0) < by_events.get(name, 0.0))
    mixed = make(faster)
    time_stages(mixed, inputs, batch, steps, 1)  # warms up
    return faster if total(mixed) < all_events else frozenset()


def time_stages(engine: Engine, inputs: Sequence[Tensor], batch: int, steps: int, repeats: int) -> dict[str, float]:
    """Seconds of each stage by site and of `READOUT`, the fastest of several runs after one that warms up."""
    fastest: dict[str, float] = {}
    for run in range(repeats + 1):
        seconds: dict[str, float] = {}
        engine.run(inputs, batch, steps, seconds=seconds)
        if run:
            fastest = {name: min(value, fastest.get(name, value)) for name, value in seconds.items()}
    return fastest
