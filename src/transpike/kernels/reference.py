"""The specification of the integrate-and-fire neuron: plain, short, any floating type, never optimised.

Eq. 2 to 4 of the SlipReLU paper: ``u = v + drive; s = [u >= theta]``; soft reset ``v = u - theta s``, hard
reset ``v = 0 where it fired``. Every other kernel must give the same spikes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transpike.kernels.scan import scan


def fire(v: Tensor, drive: Tensor, theta: Tensor, soft_reset: bool) -> tuple[Tensor, Tensor]:
    """One time-step. Returns the potential after reset and the event (0 or 1, in the type of ``v``)."""
    u = v + drive
    event = (u >= theta).to(u.dtype)
    return (u - theta * event if soft_reset else torch.where(event > 0, 0.0, u)), event


def integrate_fire(drive: Tensor, v: Tensor, theta: Tensor, soft_reset: bool) -> tuple[Tensor, Tensor]:
    """All time-steps: ``drive [S, N, *]``, ``v [N, *]`` -> ``(events [S, N, *], v [N, *])``."""
    v, events = scan(lambda state, current: fire(state, current, theta, soft_reset), v, drive)
    return events, v
