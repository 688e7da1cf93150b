"""The signed neuron with memory (SNM; Wang et al., IJCAI 2022): takes back spikes that were too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transpike.kernels import KernelPreference
from transpike.kernels.scan import scan
from transpike.neurons.contract import EventKind, Neuron, SiteParameters, check_scan


@dataclass(frozen=True)
class SignedIF(Neuron):
    """Integrate and fire with events +1, 0, -1: ``u = v + drive``, soft reset, and a memory M of the events' sum.

    ``+1`` where ``u >= theta``; ``-1`` where ``u < -depth theta`` and ``M > 0``, so that the sum of all events never
    falls below zero, as the ReLU it stands for. Then ``v = u - theta s`` and ``M = M + s``. Needs no retraining.

    Where it differs: the released code has the symmetric threshold, ``u <= -theta`` (``depth = 1``), with which a
    neuron keeps one spike too many whenever ``-theta < v < 0``. The default is zero, as in later comparisons with
    this neuron: with ``v(0)`` in [0, theta) the sum of the drive entitles to ``floor((v(0) + C) / theta)`` spikes, and
    M is larger than that exactly if ``u < 0``. ``u = 0`` is entitled to what was sent, so the comparison is strict.

    The state is ``[N, *, 2]``: potential and memory.

    Attributes:
        depth: how far below zero the potential must be for a negative event, in thresholds, at least 0.
    """

    depth: float = 0.0
    events: ClassVar[EventKind] = EventKind.SIGNED

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            isinstance(self.depth, bool)
            or not isinstance(self.depth, int | float)
            or not 0 <= self.depth < float("inf")
        ):
            raise ValueError(f"depth must be a finite number of at least 0, got {self.depth!r}")
        object.__setattr__(self, "depth", float(self.depth))

    def start(self, parameters: SiteParameters, drive: Tensor) -> Tensor:
        """The initial potential, and an empty memory."""
        v = super().start(parameters, drive)
        return torch.stack((v, torch.zeros_like(v)), -1)

    def charge(self, state: Tensor, current: Tensor) -> Tensor:
        """Adds ``current [N, *]`` to the potential; the memory stays."""
        v, memory = state.unbind(-1)
        return torch.stack((v + current, memory), -1)

    def run(
        self, drive: Tensor, v: Tensor, parameters: SiteParameters, kernel: KernelPreference
    ) -> tuple[Tensor, Tensor]:
        """Runs all steps from the state ``v [N, *, 2]``."""
        check_scan(self, drive, v[..., 0], kernel)
        theta, lower = parameters.theta, -self.depth * parameters.theta

        def fire(state: tuple[Tensor, Tensor], current: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
            before, memory = state
            u = before + current
            event = (u >= theta).to(u.dtype) - ((u < lower) & (memory > 0)).to(u.dtype)
            return (u - theta * event, memory + event), event

        (after, memory), events = scan(fire, (v[..., 0], v[..., 1]), drive)
        return events, torch.stack((after, memory), -1)
