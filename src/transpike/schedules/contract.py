"""What a schedule must provide.

Time is local: index t of a sequence is the t-th step of whatever produced it, not a global clock. At each site a
schedule is a pure function from the drive of all steps at hand to the emission; where a site emits fewer steps than
it received, whatever joins its output with a longer sequence waits for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from transpike.functional import summing_type
from transpike.kernels import KernelPreference
from transpike.neurons import EventKind, Neuron, SiteParameters
from transpike.serialization.fields import check_fields
from transpike.serialization.words import in_words

Memory = tuple[Tensor, ...]
"""What a site keeps: its state between chunks of one pass, or what an earlier pass found out."""


@dataclass(frozen=True, eq=False)
class SiteContext:
    """What a schedule reads at one site.

    Attributes:
        site: its name, for schedules that treat sites differently.
        drive: input current of the steps at hand, ``[S_in, N, *]``.
        neuron: the neuron model.
        parameters: threshold and initial potential.
        memory: None at the first chunk of the first pass, else what the last call returned.
        number: the pass, from 0.
        kernel: which kernel runs the neurons.
    """

    site: str
    drive: Tensor
    neuron: Neuron
    parameters: SiteParameters
    memory: Memory | None
    number: int
    kernel: KernelPreference

    def start(self) -> Tensor:
        """The site's own initial potential, ``[N, *]``."""
        return self.neuron.start(self.parameters, self.drive)

    def run(self, drive: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Runs the neurons over ``drive [S, N, *]`` from ``v [N, *]``: the events and the last potential."""
        return self.neuron.run(drive, v, self.parameters, self.kernel)


@dataclass(frozen=True, eq=False)
class FunctionContext:
    """What a schedule reads at a site of any function f of the sums of what has arrived.

    Attributes:
        site: its name.
        values: f after each step at hand, ``[S, N, *]``: of the sums under an incremental schedule, else of the means.
        start: the number of steps before them, a tensor without dimensions.
        theta: full scale, a scalar or per channel, broadcastable to ``[N, *]``.
        limits: between which values f lies.
        memory: None at the first chunk, else what the last call returned.
    """

    site: str
    values: Tensor
    start: Tensor
    theta: Tensor
    limits: tuple[float, float]
    memory: Memory | None

    def bounds(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value that events tell."""
        low, high = self.limits
        return (-self.theta).clamp_min(low), self.theta.clamp_max(high)


MOST_STEPS = 2**20
"""The largest T of a run, and the longest probe."""


def check_schedule(schedule: Any) -> Schedule:
    """The schedule itself.

    Raises:
        ValueError: it is something else, such as a name or a class.
    """
    if not isinstance(schedule, Schedule):
        raise ValueError(f"schedule takes a schedule such as Plain() or OffsetSpike(4), not {schedule!r}")
    return schedule


class Schedule(ABC):
    """How every site turns its drive into an emission. Subclasses are frozen records.

    Attributes:
        streamable: a run may be cut into chunks of any length, and `step` works.
        prefix_consistent: the first rows of a longer run are the rows of a shorter one.
        passes: how often the whole network runs; the memory of a pass goes to the next.
        incremental: what a sequence stands for is the sum of its steps, not their mean: constant inputs and biases
            enter in the first step only, and readouts add up.
        events: what a neuron may send in one step, where the schedule decides it; None leaves it to the neuron.
    """

    streamable: ClassVar[bool]
    prefix_consistent: ClassVar[bool]
    passes: ClassVar[int] = 1
    incremental: ClassVar[bool] = False
    events: ClassVar[EventKind | None] = None

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        from transpike.schedules import SCHEDULES  # the table knows this module

        return in_words(self, SCHEDULES)

    def lag(self, site: str) -> int:
        """How many steps of drive the site takes before its first emission counts (0: none)."""
        return 0

    def delay(self, site: str) -> int:
        """Steps from the site's first input to its first emission on a device that steps all layers at once."""
        return self.lag(site)

    def site_steps(self, steps: int) -> int:
        """Steps that each site takes and sends so that ``steps`` of them can be read out, lags not counted."""
        return steps

    def pass_steps(self, steps: int, number: int) -> int:
        """How many steps the given pass (from 0) must make; by default every pass is as long as the run."""
        return self.site_steps(steps)

    def claimed_steps(self, steps: int) -> int:
        """Latency as the schedule's own paper counts it."""
        return steps

    def interval(self, steps: int) -> int:
        """Steps that a layer is busy with one sample, lags not counted."""
        return self.site_steps(steps)

    def values(self, events: Tensor, theta: Tensor) -> Tensor:
        """What the events ``[S, N, *]`` of a site's steps are worth to the next layer; a threshold each by default."""
        return theta * events

    def total(self, sequence: Tensor) -> Tensor:
        """What ``[S, N, *]`` stands for, ``[N, *]``: the mean of the steps, or their sum."""
        dtype = summing_type(sequence.dtype)
        return sequence.sum(0, dtype=dtype) if self.incremental else sequence.mean(0, dtype=dtype)

    def unsupported_function(self, neuron: Neuron) -> str | None:
        """Why sites of any function cannot run under the schedule with this neuron; None if they can."""
        return "its sites count the spikes that a ReLU is entitled to"

    def needed(self, site: str, arrived: int) -> slice:
        """Which of the steps that have arrived `follow` reads the function's values of; all by default."""
        return slice(0, arrived)

    def follow(self, context: FunctionContext) -> tuple[Tensor, Memory]:
        """The pure function of a site of any function, for schedules that have it.

        Returns:
            The events ``[S_out, N, *]``, and the memory.
        """
        raise NotImplementedError(f"{self} has no sites of any function")

    @abstractmethod
    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """The pure function of one site.

        Returns:
            The events ``[S_out, N, *]`` with ``S_out = S_in - lag(site)``, and the memory.
        """
