"""Staggered start: every layer waits a few steps before it may fire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from transpike.schedules.contract import Memory, Schedule, Visit


@dataclass(frozen=True)
class Staggered(Schedule):
    """Each site integrates its first ``lags`` steps without firing, then runs plainly.

    Between "all layers together" (0) and "layer after layer". Emission j uses the drive of steps 1 .. j + d. Binary,
    non-negative events.

    Attributes:
        waiting: d, the lag of every site that ``own`` does not name.
        own: pairs of site name and lag.
    """

    waiting: int = 1
    own: tuple[tuple[str, int], ...] = ()
    streamable: ClassVar[bool] = False
    prefix_consistent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", tuple((str(name), int(lag)) for name, lag in self.own))
        if min([self.waiting, *(lag for _, lag in self.own)]) < 0:
            raise ValueError(f"lags must not be negative, got {self}")

    def lag(self, site: str) -> int:
        """D of the site."""
        return dict(self.own).get(site, self.waiting)

    def interval(self, steps: int) -> int:
        """Waiting and firing of the site that waits longest."""
        return steps + max([self.waiting, *(lag for _, lag in self.own)])

    def emit(self, visit: Visit) -> tuple[Tensor, Memory]:
        """Emits ``S_in - d`` steps; the memory is the last potential."""
        lag = self.lag(visit.site)
        events, v = visit.run(visit.drive[lag:], visit.start() + visit.drive[:lag].sum(0))
        return events, (v,)
