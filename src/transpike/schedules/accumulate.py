"""Accumulate, then fire: integrate without spiking, then emit the count evenly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from transpike.functional import expected_count, spread_evenly, summing_type
from transpike.kernels import native, runs_native
from transpike.schedules.contract import Memory, SiteContext
from transpike.schedules.probing import Probing, need_soft_reset


@dataclass(frozen=True)
class AccumulateThenFire(Probing):
    """Sum the drive of rho steps, round to a count k, then emit k spikes per rho steps as evenly as possible.

    With rho = L and v(0) = theta/2 every site computes the QCFS activation with L levels exactly, so after rho steps
    the answer is the QCFS network's. The emission is an integrate-and-fire neuron with the constant current
    ``k theta / rho`` from theta/2, computed in whole numbers. Every second neuron of a sample starts just below
    theta/2, so that where k t / rho ends in one half it is rounded up in one and down in the next, and answers after
    fewer than rho steps have no offset on the average of many neurons. Ours in this form; of the family of two-phase
    schemes (TPP, PASCAL), without negative spikes. Nothing is emitted in the first phase. Binary, non-negative events.
    """

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Emits as many steps as the drive has; there is no memory."""
        need_soft_reset(self, context.neuron)
        rho, drive = self.probe_steps, context.drive
        start, theta = context.start(), context.parameters.theta
        if runs_native(context.kernel, drive, start, theta):
            return native.accumulate(drive[:rho], start, theta, drive.shape[0]), ()
        dtype = summing_type(drive.dtype)
        count = expected_count(drive[:rho].sum(0, dtype=dtype), theta, start, rho)
        steps = torch.arange(drive.shape[0] + 1, device=drive.device, dtype=dtype)
        steps = steps.view(-1, *[1] * count.dim())
        later = torch.arange(math.prod(count.shape[1:]), device=drive.device).view(count.shape[1:]) % 2
        sent = spread_evenly(count, steps, rho, later)
        return (sent[1:] - sent[:-1]).to(drive.dtype), ()
