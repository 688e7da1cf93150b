"""What a look at the first steps of a neuron tells: the basis of the COS paper's calibration."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Probe(NamedTuple):
    """Summary of a soft-reset trajectory over rho steps, all ``[N, *]``.

    Attributes:
        fired: number of spikes.
        residual: v(rho), the potential after the last step.
        lowest_fired: the least potential after a step that fired; infinity if none did.
        highest_silent: the greatest potential after a step that did not fire; minus infinity if all did.
    """

    fired: Tensor
    residual: Tensor
    lowest_fired: Tensor
    highest_silent: Tensor


def probe(drive: Tensor, v: Tensor, theta: Tensor) -> Probe:
    """Runs integrate-and-fire with soft reset over ``drive [rho, N, *]`` from ``v [N, *]``, keeping only extremes."""
    v = v.clone(memory_format=torch.contiguous_format)
    fired_steps = torch.zeros_like(v)
    lowest = torch.full_like(v, torch.inf)
    highest = torch.full_like(v, -torch.inf)
    for current in drive:
        v += current
        fired = v >= theta
        event = fired.to(v.dtype)
        v.addcmul_(event, theta, value=-1)
        fired_steps += event
        torch.minimum(lowest, torch.where(fired, v, torch.inf), out=lowest)
        torch.maximum(highest, torch.where(fired, -torch.inf, v), out=highest)
    return Probe(fired_steps, v, lowest, highest)


def least_potentials(drive: Tensor, theta: Tensor) -> Tensor:
    """The least initial potential that gives at least j spikes, for j = 0 .. rho + 1: ``[rho + 2, N, *]``.

    k spikes are possible if and only if there are steps t1 < ... < tk with ``v0 + C(t_i) >= i theta`` (C the running
    sum of the drive), hence the dynamic programme ``D[j] = min(D[j], max(D[j-1], j theta - C(t)))`` over t. Any v0 in
    ``[D[k], D[k+1])`` gives exactly k spikes.
    """
    steps = drive.shape[0]
    least = drive.new_full((steps + 2, *drive.shape[1:]), torch.inf)
    least[0] = -torch.inf
    total = torch.zeros_like(drive[0])
    for t in range(steps):
        total = total + drive[t]
        for j in range(t + 1, 0, -1):
            torch.minimum(least[j], torch.maximum(least[j - 1], j * theta - total), out=least[j])
    return least
