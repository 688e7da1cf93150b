"""Initial membrane potentials."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from transpike.rules.contract import Population, PotentialRule


@dataclass(frozen=True)
class ZeroPotential(PotentialRule):
    """Start at 0: counts are rounded down."""

    def potential(self, population: Population) -> Tensor:
        """Zeros."""
        return population.theta * 0.0


@dataclass(frozen=True)
class HalfThreshold(PotentialRule):
    """Start at theta/2, optimal in expectation for a uniform residue (OPI, Bu et al. 2022): counts are rounded."""

    def potential(self, population: Population) -> Tensor:
        """Half of theta."""
        return population.theta / 2


@dataclass(frozen=True)
class ShiftedPotential(PotentialRule):
    """Start at ``shift * theta``, as SlipReLU converts a network trained with that shift (section 4.2).

    Attributes:
        shift: delta in [-1/2, 1/2].
    """

    shift: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not -0.5 <= self.shift <= 0.5:
            raise ValueError(f"shift must lie in [-0.5, 0.5], got {self.shift}")

    def potential(self, population: Population) -> Tensor:
        """A fraction of theta."""
        return self.shift * population.theta


@dataclass(frozen=True)
class RandomPotential(PotentialRule):
    """Every neuron starts at its own random fraction of theta, uniform in [low, high): the weakest row of Table S3.

    The COS paper (appendix A.5) compares its method with "random initialization" and says neither from which
    distribution nor whether the numbers are drawn again for every image. Here they are drawn once, when the network is
    converted, and are part of it: the same for every sample, stored with it, and fitting only inputs of the size it
    was converted with. They depend on the seed and the site's name alone, so neither the order of the sites nor
    torch's global generator nor the device matters.

    Attributes:
        seed: of the random numbers.
        low: smallest potential, in units of theta.
        high: largest potential, in units of theta; a neuron that starts at theta or above fires without input.
    """

    seed: int = 0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"low and high must be finite, low at most high; got low={self.low}, high={self.high}")

    def potential(self, population: Population) -> Tensor:
        """One value per neuron, ``[C, *]``."""
        name = f"{self.seed} {population.site}".encode()
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:8]) >> 1)
        draws = torch.rand(population.shape, generator=generator, dtype=torch.float64)
        fractions = self.low + (self.high - self.low) * draws
        return fractions.to(population.theta) * population.theta
