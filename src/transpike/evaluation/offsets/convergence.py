"""How far each site is from its limit, the clipped ANN."""

from __future__ import annotations

from torch import Tensor

from transpike.functional import summing_type
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import Schedule


def site_errors(
    snn: SpikingNetwork, *inputs: Tensor, steps: int, schedule: Schedule | None = None, chunk: int | None = None
) -> dict[str, float]:
    """Relative L1 error of every site's mean output against the clipped ANN, ``sum|snn - clip| / sum|clip|``.

    A network of time-linear operators and soft reset loses no current, so the error falls as 1/T unless a threshold
    clips a drive that fluctuates around it.

    Args:
        snn: the network.
        inputs: one tensor ``[N, *]`` per argument.
        steps: T.
        schedule: how the network runs; None is the plain schedule.
        chunk: steps at a time, to save memory.

    Returns:
        By site; 0 where both are silent, infinity where only the clipped ANN is.
    """
    wanted: dict[str, Tensor] = {}
    snn.clipped(*inputs, observe=lambda site, value: wanted.update({site: value}))
    counts: dict[str, Tensor] = {}
    seen: dict[str, int] = {}

    def observe(site: str, _: Tensor, events: Tensor) -> None:
        left = steps - seen.get(site, 0)
        seen[site] = seen.get(site, 0) + events.shape[0]
        if left > 0:
            counts[site] = counts.get(site, 0) + events[:left].sum(0, dtype=summing_type(events.dtype))

    snn(*inputs, steps=steps, schedule=schedule, chunk=chunk, observe=observe)
    errors = {}
    for site, value in wanted.items():
        difference = float((snn.site(site).theta * counts[site] / steps - value).abs().sum())
        size = float(value.abs().sum())
        errors[site] = difference / size if size else (0.0 if difference == 0 else float("inf"))
    return errors
