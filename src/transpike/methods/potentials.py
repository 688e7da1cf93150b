"""Initial membrane potentials."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transpike.methods.contract import PotentialRule


@dataclass(frozen=True)
class ZeroPotential(PotentialRule):
    """Start at 0: counts are rounded down."""

    def potential(self, theta: Tensor) -> Tensor:
        """Zeros."""
        return theta * 0.0


@dataclass(frozen=True)
class HalfThreshold(PotentialRule):
    """Start at theta/2, optimal in expectation for a uniform residue (OPI, Bu et al. 2022): counts are rounded."""

    def potential(self, theta: Tensor) -> Tensor:
        """Half of theta."""
        return theta / 2


@dataclass(frozen=True)
class ShiftedPotential(PotentialRule):
    """Start at ``shift * theta``, as SlipReLU converts a network trained with that shift (section 4.2).

    Attributes:
        shift: delta in [-1/2, 1/2].
    """

    shift: float

    def __post_init__(self) -> None:
        if not -0.5 <= self.shift <= 0.5:
            raise ValueError(f"shift must lie in [-0.5, 0.5], got {self.shift}")

    def potential(self, theta: Tensor) -> Tensor:
        """A fraction of theta."""
        return self.shift * theta
