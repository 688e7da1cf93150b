"""SRP: optimisation based on residual membrane potential (Hao et al., AAAI 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from transpike.schedules.contract import MOST_STEPS, Memory, Schedule, SiteContext
from transpike.schedules.probing import need_soft_reset
from transpike.serialization.fields import check_count


@dataclass(frozen=True)
class TwoPasses(Schedule):
    """Run the whole network tau steps; run it again, and silence the neurons whose residual potential was not positive.

    A neuron that fired although the ANN's output is zero ends the first pass with a residual of at most zero. In the
    second pass the membrane still resets on the spikes that are not sent. Binary, non-negative events; the spikes of
    both passes cost energy.

    Attributes:
        probe_steps: tau, steps of the first pass (4 for CIFAR in the paper).
        margin: the residual must exceed this many thresholds (0.001 in the released code).
    """

    probe_steps: int = 4
    margin: float = 1e-3
    streamable: ClassVar[bool] = False
    prefix_consistent: ClassVar[bool] = True
    passes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("probe_steps", self.probe_steps, most=MOST_STEPS)

    def pass_steps(self, steps: int, number: int) -> int:
        """tau, then T."""
        return self.probe_steps if number == 0 else steps

    def claimed_steps(self, steps: int) -> int:
        """``tau + T``, which is also what a pipelined device needs."""
        return self.probe_steps + steps

    def interval(self, steps: int) -> int:
        """Both passes."""
        return self.probe_steps + steps

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """First pass: plain, the memory is the residual. Second pass: plain, masked by it."""
        need_soft_reset(self, context.neuron)
        events, v = context.run(context.drive, context.start())
        if context.number == 0:
            return events, (v,)
        assert context.memory is not None
        return events * (context.memory[0] > self.margin * context.parameters.theta), context.memory
