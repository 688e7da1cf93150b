"""Staggered start: layers wait a few steps before they may send spikes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from torch import Tensor

from transpike.schedules.contract import Memory, Schedule, SiteContext


class Wait(Enum):
    """What the neurons of a site do in the steps in which it waits.

    ``INTEGRATE``: add up the drive, without firing; what was added up is sent later, so that for a constant drive the
    first T emissions stand for T + d steps of input. ``WITHHOLD``: fire and reset as always, but send nothing; what is
    left is a residual potential of a neuron that has run for d steps, and the rate is not raised.
    """

    INTEGRATE = "integrate"
    WITHHOLD = "withhold"


@dataclass(frozen=True)
class Staggered(Schedule):
    """Each site sends nothing for its first d steps, then runs plainly.

    Between "all layers together" (0) and "layer after layer". Emission j uses the drive of steps 1 .. j + d. Binary,
    non-negative events. `transpike.search_lags` finds lags for a latency.

    Attributes:
        default_lag: d, the lag of every site that ``site_lags`` does not name.
        site_lags: pairs of site name and lag.
        wait: what the neurons do while they wait.
    """

    default_lag: int = 1
    site_lags: tuple[tuple[str, int], ...] = ()
    wait: Wait = Wait.INTEGRATE
    streamable: ClassVar[bool] = False
    prefix_consistent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if min([self.default_lag, *(lag for _, lag in self.site_lags)]) < 0:
            raise ValueError(f"lags must not be negative, got {self}")

    def lag(self, site: str) -> int:
        """Lag of a site in steps."""
        return dict(self.site_lags).get(site, self.default_lag)

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Emits ``S_in - d`` steps; the memory is the last potential."""
        lag = self.lag(context.site)
        if self.wait is Wait.WITHHOLD:
            events, v = context.run(context.drive, context.start())
            return events[lag:], (v,)
        charged = context.neuron.charge(context.start(), context.drive[:lag].sum(0))
        events, v = context.run(context.drive[lag:], charged)
        return events, (v,)
