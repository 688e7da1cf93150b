"""The initial potential that gives exactly the ANN's count, in one look."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from transpike.functional import expected_count
from transpike.kernels import native, runs_native
from transpike.kernels.offset_probe import least_potentials
from transpike.schedules.contract import Memory, SiteContext
from transpike.schedules.probing import Probing, need_soft_reset


@dataclass(frozen=True)
class ExactPotential(Probing):
    """Probe, find by dynamic programming an initial potential with which the rho steps give the expected count, fire.

    Ours; it removes every offset spike that COS removes with any number of iterations. The site's own initial potential
    is kept where it already is right; else the middle of the interval of right ones (theta/2 from its finite end) is
    taken. O(rho^2) comparisons per neuron. Binary, non-negative events.
    """

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Calibrates on the first rho steps, then runs all of them; the memory is the last potential."""
        need_soft_reset(self, context.neuron)
        seen, start, theta = context.drive[: self.probe_steps], context.start(), context.parameters.theta
        if runs_native(context.kernel, seen, start, theta):
            v = native.exact_potential(seen, start, theta)
        else:
            v = exact_potential(seen, start, theta, expected_count(seen.sum(0), theta, start, self.probe_steps))
        events, v = context.run(context.drive, v)
        return events, (v,)


def exact_potential(drive: Tensor, start: Tensor, theta: Tensor, wanted: Tensor) -> Tensor:
    """An initial potential that gives ``wanted`` spikes on ``drive [rho, N, *]``, ``start`` if it does.

    Args:
        drive: input current.
        start: preferred potential ``[N, *]``.
        theta: threshold.
        wanted: number of spikes in 0 .. rho, ``[N, *]``.
    """
    least = least_potentials(drive, theta)
    index = wanted.long().unsqueeze(0)
    low = least.gather(0, index).squeeze(0)
    high = least.gather(0, index + 1).squeeze(0)
    right = (start >= low) & (start < high)
    middle = (low + high) / 2
    middle = torch.where(low == -torch.inf, high - theta / 2, middle)
    middle = torch.where(high == torch.inf, low + theta / 2, middle)
    return torch.where(right, start, middle)
