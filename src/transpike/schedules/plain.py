"""The plain schedule: all layers step together, as in QCFS and SlipReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from transpike.kernels import KernelPreference
from transpike.neurons import Neuron, SiteParameters
from transpike.schedules.contract import Memory, Schedule


@dataclass(frozen=True)
class Plain(Schedule):
    """Every neuron integrates and fires at every step from the first on; the answer takes T steps."""

    streamable: ClassVar[bool] = True
    prefix_consistent: ClassVar[bool] = True

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
        """Runs the neuron from where the last chunk left it; the memory is the membrane potential."""
        v = neuron.start(parameters, drive) if memory is None else memory[0]
        events, v = neuron.run(drive, v, parameters, kernel)
        return events, (v,)
