"""The lightweight variant of COS: start where the probe ended (appendix A.5 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transpike.kernels import KernelPreference
from transpike.neurons import Neuron, SiteParameters
from transpike.schedules.contract import Memory
from transpike.schedules.probing import Probing, need_soft_reset


@dataclass(frozen=True)
class Residual(Probing):
    """Probe rho steps, keep the residual potential as the initial one, replay and fire. Binary, non-negative events."""

    def emit(
        self,
        site: str,
        drive: Tensor,
        neuron: Neuron,
        parameters: SiteParameters,
        memory: Memory | None,
        *,
        number: int,
        kernel: KernelPreference,
    ) -> tuple[Tensor, Memory]:
        """Two runs of the neuron; the memory is the last potential."""
        need_soft_reset(self, neuron)
        _, v = neuron.run(drive[: self.probe_steps], neuron.start(parameters, drive), parameters, kernel)
        events, v = neuron.run(drive, v, parameters, kernel)
        return events, (v,)
