"""The plain schedule: all layers step together, as in QCFS and SlipReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from transpike.schedules.contract import Memory, Schedule, SiteContext


@dataclass(frozen=True)
class Plain(Schedule):
    """Every neuron integrates and fires at every step from the first on; the answer takes T steps."""

    streamable: ClassVar[bool] = True
    prefix_consistent: ClassVar[bool] = True

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Runs the neuron from where the last chunk left it; the memory is the membrane potential."""
        v = context.start() if context.memory is None else context.memory[0]
        events, v = context.run(context.drive, v)
        return events, (v,)
