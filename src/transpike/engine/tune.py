"""Measures which stages torch operators compute faster than the event-driven kernel, on the user's machine and data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from torch import Tensor

from transpike.engine.cache import Engines
from transpike.engine.engine import Engine
from transpike.kernels import Rule


def tune(
    engines: Engines,
    find: Callable[[], tuple[Engine, Rule]],
    inputs: Sequence[Tensor],
    batch: int,
    steps: int,
    repeats: int,
) -> None:
    """Sets ``engines.dense`` to the stages that are faster dense, unless the whole network then is slower.

    Every stage is timed in a network that runs event by event and in one that runs dense; the mixture that follows is
    timed against the first, since a dense stage must unpack the spikes of its sources.

    Args:
        engines: the engines of the network.
        find: gives the engine for the present choice.
        inputs: real data; time depends on how many neurons spike.
        batch: N.
        steps: S.
        repeats: runs of each; the fastest counts.
    """

    def measure(dense: frozenset[str]) -> tuple[dict[str, float], float]:
        engines.dense = dense
        engines.clear()
        engine, rule = find()
        stages = time_stages(engine, rule, inputs, batch, steps, repeats)
        total = float("inf")
        for _ in range(repeats):
            begin = time.perf_counter()
            engine.run(inputs, batch, steps, rule, None)
            total = min(total, time.perf_counter() - begin)
        return stages, total

    chosen: frozenset[str] = frozenset()
    try:
        by_events, all_events = measure(frozenset())
        engine, _ = find()
        spiking = frozenset(name for name, value in engine.values.items() if value.terms)
        dense, _ = measure(spiking)
        faster = frozenset(name for name in spiking if dense.get(name, 0.0) < by_events.get(name, 0.0))
        _, mixed = measure(faster)
        if mixed < all_events:
            chosen = faster
    finally:  # also when a run was interrupted
        engines.dense = chosen
        engines.clear()


def time_stages(
    engine: Engine, rule: Rule, inputs: Sequence[Tensor], batch: int, steps: int, repeats: int
) -> dict[str, float]:
    """Seconds of each stage by site and of `READOUT`, the fastest of several runs after one that warms up."""
    fastest: dict[str, float] = {}
    for run in range(repeats + 1):
        seconds: dict[str, float] = {}
        engine.run(inputs, batch, steps, rule, None, seconds)
        if run:
            fastest = {name: min(value, fastest.get(name, value)) for name, value in seconds.items()}
    return fastest
