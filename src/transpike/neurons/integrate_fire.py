"""The integrate-and-fire neuron (SlipReLU paper, section 2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from torch import Tensor

from transpike.kernels import KernelPreference, Surrogate, integrate_fire
from transpike.neurons.contract import EventKind, Neuron, SiteParameters


class Reset(Enum):
    """What happens to the potential of a neuron that fired."""

    SOFT = "soft"
    HARD = "hard"


@dataclass(frozen=True)
class IF(Neuron):
    """Integrate and fire: ``u = v + drive``, a spike where ``u >= theta``, then reset.

    Attributes:
        reset: ``SOFT`` subtracts theta (eq. 4) and loses nothing; ``HARD`` sets the potential to zero, as some
            hardware does, and loses what lay above theta.
        surrogate: derivative of the spike when the spiking network itself is trained.
    """

    reset: Reset = Reset.SOFT
    surrogate: Surrogate = Surrogate.TRIANGLE
    events: ClassVar[EventKind] = EventKind.BINARY

    def run(
        self, drive: Tensor, v: Tensor, parameters: SiteParameters, kernel: KernelPreference
    ) -> tuple[Tensor, Tensor]:
        """Runs all steps with the chosen kernel."""
        return integrate_fire(
            drive,
            v,
            parameters.theta,
            soft_reset=self.reset is Reset.SOFT,
            surrogate=self.surrogate,
            kernel=kernel,
        )
