"""What the schedules that look before they fire have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from transpike.neurons import IF, Neuron, Reset
from transpike.schedules.contract import MOST_STEPS, Schedule
from transpike.serialization.fields import check_count


@dataclass(frozen=True)
class Probing(Schedule):
    """Each site sees ``probe_steps`` steps of its input before it fires; layer after layer.

    The papers count this as ``probe_steps + T`` for the whole network. But a layer's first input is the first
    *calibrated* output of the layer before it, so a pipelined device answers after
    ``depth * probe_steps + T`` steps.

    Attributes:
        probe_steps: rho, at least 1; it may be longer or shorter than the run.
    """

    probe_steps: int = 4
    streamable: ClassVar[bool] = False
    prefix_consistent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("probe_steps", self.probe_steps, most=MOST_STEPS)

    def delay(self, site: str) -> int:
        """rho: the first spike comes after the probe."""
        return self.probe_steps

    def site_steps(self, steps: int) -> int:
        """The probe's or the run's length, whichever is longer: currents are computed once."""
        return max(self.probe_steps, steps)

    def claimed_steps(self, steps: int) -> int:
        """``rho + T``, as the papers count."""
        return self.probe_steps + steps

    def interval(self, steps: int) -> int:
        """Steps that a layer is busy with one sample: the probe, then what the next layer's probe needs, or T."""
        return self.probe_steps + self.site_steps(steps)


def need_soft_reset(schedule: Schedule, neuron: Neuron) -> None:
    """Refuses neurons whose counts the theory does not cover.

    Raises:
        ValueError: another neuron than integrate-and-fire with soft reset.
    """
    if not isinstance(neuron, IF) or neuron.reset is not Reset.SOFT:
        raise ValueError(f"{schedule} is derived for integrate-and-fire with soft reset, not for {neuron}")
