"""The compiled form of a schedule."""

from __future__ import annotations

from typing import NamedTuple

LARGEST_COUNT = 255  # of spikes that a neuron tells the next layer in one byte


class Rule(NamedTuple):
    """How a stage's neurons turn currents into spikes: the compiled form of a schedule.

    Attributes:
        kind: ``"plain"``, ``"residual"``, ``"offset"`` (COS), ``"exact"`` or ``"accumulate"``.
        soft_reset: or to zero.
        probe: steps looked at.
        iterations: of COS.
        epsilon: of COS.
    """

    kind: str
    soft_reset: bool = True
    probe: int = 0
    iterations: int = 0
    epsilon: float = 0.0

    @property
    def counted(self) -> int:
        """rho, if a count of spikes in rho steps is all that a neuron tells others; else 0."""
        return self.probe if self.kind == "accumulate" else 0
