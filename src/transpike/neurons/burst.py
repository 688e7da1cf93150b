"""The burst neuron (Li & Zeng, IJCAI 2022): several spikes in one time-step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transpike.kernels import KernelPreference
from transpike.kernels.scan import scan
from transpike.neurons.contract import EventKind, Neuron, SiteParameters, check_scan


@dataclass(frozen=True)
class Burst(Neuron):
    """Integrate and burst: ``u = v + drive``, ``k = clip(floor(u / theta), 0, gamma)`` events, ``v = u - k theta``.

    What a neuron could not send in one step it sends soon after, so the mean output is limited by ``gamma theta``
    instead of theta: thresholds may lie well below the largest activation. A site whose own activation stops at theta
    (trained, or a clipped ReLU) would send more than that, and `transpike.convert` refuses it. With ``gamma = 1`` it is
    `IF` with soft reset. Needs no retraining. The paper's pooling (lateral inhibition) is not part of the neuron.

    Attributes:
        gamma: the most events of one step (5 in the paper), at least 1.
    """

    gamma: int = 5
    events: ClassVar[EventKind] = EventKind.COUNT

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma < 1:
            raise ValueError(f"gamma must be a whole number of at least 1, got {self.gamma!r}")

    @property
    def most_events(self) -> int:
        """Gamma."""
        return self.gamma

    def run(
        self, drive: Tensor, v: Tensor, parameters: SiteParameters, kernel: KernelPreference
    ) -> tuple[Tensor, Tensor]:
        """Runs all steps; the events are whole numbers from 0 to gamma."""
        check_scan(self, drive, v, kernel)

        def fire(before: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
            u = before + current
            event = torch.floor(u / parameters.theta).clamp(0, self.gamma)
            return u - event * parameters.theta, event

        after, events = scan(fire, v, drive)
        return events, after
