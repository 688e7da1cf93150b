"""The lightweight variant of COS: start where the probe ended (appendix A.5 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transpike.schedules.contract import Memory, SiteContext
from transpike.schedules.probing import Probing, need_soft_reset


@dataclass(frozen=True)
class Residual(Probing):
    """Probe rho steps, keep the residual potential as the initial one, replay and fire. Binary, non-negative events."""

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Two runs of the neuron; the memory is the last potential."""
        need_soft_reset(self, context.neuron)
        _, v = context.run(context.drive[: self.probe_steps], context.start())
        events, v = context.run(context.drive, v)
        return events, (v,)
