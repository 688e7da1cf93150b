"""How a network's numbers are put on grids of whole numbers, so that its sums are exact in any order."""

from __future__ import annotations

from dataclasses import dataclass

from transpike.schedules import DigitCode, Schedule, SignedDigits
from transpike.serialization.fields import check_fields

EXACT = 2**24
"""float32 holds every whole number up to this one."""


@dataclass(frozen=True)
class Quantisation:
    """Weights, biases, potentials and inputs as whole numbers times powers of two; every threshold becomes one.

    A neuron's numbers are divided by its threshold, which the weights behind it take over. What is left is rounded:
    weights to ``n 2^-k`` with a k of each output channel of a layer, biases and potentials to ``n 2^-(k + f)``, inputs
    to a grid of their own. Sums of such numbers below ``2^24`` grid steps are exact in float32, whatever their order.

    Where sums could reach more, the channels in question get wider steps; with less than half of the bits left, the
    site is refused.

    Attributes:
        bits: of a weight, sign included, from 2 to 8.
        fraction: f, at most: the bits that biases and potentials are finer than weights, from 0 to 8. Where sums would
            become inexact it is smaller.
        input_bits: of the magnitude of an input value, from 1 to 12; the sign comes on top.
        steps: T up to which sums over time are exact; longer runs are refused.
    """

    bits: int = 8
    fraction: int = 4
    input_bits: int = 8
    steps: int = 16

    def __post_init__(self) -> None:
        check_fields(self)
        for name, low, high in (("bits", 2, 8), ("fraction", 0, 8), ("input_bits", 1, 12), ("steps", 1, 4096)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, got {getattr(self, name)}")

    def __str__(self) -> str:
        return f"int{self.bits}" + (f" for up to {self.steps} steps" if self.steps != 16 else "")

    @property
    def most(self) -> int:
        """The largest whole number of a weight."""
        return (1 << (self.bits - 1)) - 1


def threshold_on_grid(schedule: Schedule) -> float:
    """What a threshold is in a quantised network, so that an event of the schedule is worth a power of two.

    Raises:
        ValueError: there is no such number.
    """
    if isinstance(schedule, DigitCode):
        if isinstance(schedule, SignedDigits) and schedule.base != 2.0:
            raise ValueError(
                f"{schedule} cannot run on a grid: digits of base {schedule.base:g} are worth no powers of two; take "
                "base 2"
            )
        return float(sum(schedule.places))
    if type(schedule).values is not Schedule.values:
        raise ValueError(f"{schedule} cannot run on a grid: it decides by itself what an event is worth")
    return 1.0


def smallest_event(schedule: Schedule) -> float:
    """The smallest worth of an event where a threshold is `threshold_on_grid`."""
    return float(min(schedule.places)) if isinstance(schedule, DigitCode) else 1.0


def unsupported_run(settings: Quantisation, own: Schedule, schedule: Schedule, length: int) -> str | None:
    """Why a network quantised for its own schedule cannot run so many steps of another one; None if it can."""
    try:
        wanted = threshold_on_grid(schedule)
    except ValueError as error:
        return str(error)
    if wanted != threshold_on_grid(own):
        return (
            f"the network was quantised for {own}, where an event is worth a power of two; under {schedule} it is not: "
            "convert it for that schedule"
        )
    if not schedule.incremental and length > settings.steps:
        return (
            f"sums of {length} steps may be inexact, the network was quantised for up to {settings.steps}: convert it "
            f"with Quantisation(steps={length})"
        )
    return None
