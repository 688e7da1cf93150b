"""The lightweight variant of COS: start where the probe ended (appendix A.5 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transpike.kernels import Rule
from transpike.schedules.contract import Memory, Visit
from transpike.schedules.probing import Probing, need_soft_reset


@dataclass(frozen=True)
class Residual(Probing):
    """Probe rho steps, keep the residual potential as the initial one, replay and fire. Binary, non-negative events."""

    def compiled(self) -> Rule | None:
        """Probe, then fire."""
        return Rule("residual", probe=self.probe_steps)

    def emit(self, visit: Visit) -> tuple[Tensor, Memory]:
        """Two runs of the neuron; the memory is the last potential."""
        need_soft_reset(self, visit.neuron)
        _, v = visit.run(visit.drive[: self.probe_steps], visit.start())
        events, v = visit.run(visit.drive, v)
        return events, (v,)
