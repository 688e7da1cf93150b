"""COS: calibrating offset spikes (Hao et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from transpike.kernels import native, runs_native
from transpike.kernels.offset_probe import Probe, probe
from transpike.schedules.contract import Memory, SiteContext
from transpike.schedules.probing import Probing, need_soft_reset


class Decision(Enum):
    """How a neuron finds out whether it sent too much or too little.

    ``THEOREM_1``: from the signs of its residual and its count, as the released code does. ``THEOREM_3``: from the
    whole offset ``clip(floor(v(rho) / theta), -n, rho - n)``. Both decide alike, so the compiled kernels know one.
    """

    THEOREM_1 = "theorem 1"
    THEOREM_3 = "theorem 3"


@dataclass(frozen=True)
class OffsetSpike(Probing):
    """Probe, shift the initial potential so that the count moves by one spike towards the ANN's, then replay and fire.

    Decision: by Theorem 1 or 3 on the residual that the spikes sent would leave from the target's potential: that of
    the first probe, less theta for each spike more than it sent. So epsilon, which float32 rounds, decides nothing.
    Neurons that fired at every probe step are left alone (the released code throws them to about a thousand
    thresholds). Shift: Theorem 2; line 20 of the paper's Algorithm 1 is a misprint. Every further iteration removes one
    more offset spike and needs no further convolution, but another replay on a device.

    Binary, non-negative events; needs no data, labels or retraining.

    Attributes:
        iterations: how often to probe and shift, at least 1 (the released code: 1).
        epsilon: in units of theta, in (0, 1); 0.001 in the released code.
        decision: which theorem decides; the spikes are the same.
    """

    iterations: int = 1
    epsilon: float = 1e-3
    decision: Decision = Decision.THEOREM_1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if not 0.0 < self.epsilon < 1.0:
            raise ValueError(f"epsilon must lie in (0, 1), got {self.epsilon}")

    def delay(self, site: str) -> int:
        """Rho per iteration."""
        return self.probe_steps * self.iterations

    def claimed_steps(self, steps: int) -> int:
        """``rho * iterations + T`` (Algorithm 1)."""
        return self.probe_steps * self.iterations + steps

    def interval(self, steps: int) -> int:
        """Steps that a layer is busy with one sample."""
        return self.probe_steps * self.iterations + self.site_steps(steps)

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Calibrates on the first rho steps, then runs all of them; the memory is the last potential."""
        need_soft_reset(self, context.neuron)
        theta = context.parameters.theta
        start = v = context.start()
        look = context.drive[: self.probe_steps]
        if runs_native(context.kernel, look, start, theta):
            v = native.offset_potential(look, start, theta, self.iterations, self.epsilon)
        else:
            first = None
            for _ in range(self.iterations):
                seen = probe(look, v, theta)
                first = first or seen
                residual = first.residual + (first.fired - seen.fired) * theta
                v = v + shift(seen, residual, theta, self.probe_steps, self.epsilon, self.decision)
        events, v = context.run(context.drive, v)
        return events, (v,)


def offset(seen: Probe, residual: Tensor, theta: Tensor, steps: int) -> Tensor:
    """Theorem 3: the whole offset, expected minus sent spikes: ``clip(floor(v(rho) / theta), -n, rho - n)``.

    Arguments as for `shift`.
    """
    whole = torch.floor(residual / theta)
    return torch.minimum(torch.maximum(whole, -seen.fired), steps - seen.fired)


def shift(
    seen: Probe,
    residual: Tensor,
    theta: Tensor,
    steps: int,
    epsilon: float,
    decision: Decision = Decision.THEOREM_1,
) -> Tensor:
    """Theorem 2: how far to move the initial potential so that the count changes by one; 0 where it is right.

    Args:
        seen: the probe.
        residual: v(rho) as it would be had the neuron started at the target's potential.
        theta: threshold.
        steps: rho.
        epsilon: in units of theta.
        decision: which theorem says in which direction.
    """
    if decision is Decision.THEOREM_1:
        down = (residual < 0) & (seen.fired > 0)
        up = (residual >= theta) & (seen.fired < steps)
    else:
        missing = offset(seen, residual, theta, steps)
        down, up = missing < 0, missing > 0
    lower = torch.maximum(theta, seen.lowest_fired + epsilon * theta)
    raise_by = torch.maximum(theta, theta + epsilon * theta - seen.highest_silent)
    return torch.where(up, raise_by, 0.0) - torch.where(down, lower, 0.0)
