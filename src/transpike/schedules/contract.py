"""What a schedule must provide.

Time is local: index t of a sequence is the t-th step of whatever produced it, not a global clock. At each site a
schedule is a pure function from the drive of all steps at hand to the emission; where a site emits fewer steps than
it received, whatever joins its output with a longer sequence waits for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from transpike.kernels import KernelPreference, Rule
from transpike.neurons import IF, Neuron, Reset, SiteParameters
from transpike.serialization.words import in_words

Memory = tuple[Tensor, ...]
"""What a site keeps: its state between chunks of one pass, or what an earlier pass found out."""


@dataclass(frozen=True, eq=False)
class SiteContext:
    """Everything a schedule knows when it comes to a site.

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


class Schedule(ABC):
    """How every site turns its drive into an emission. Subclasses are frozen records.

    Attributes:
        streamable: a run may be cut into chunks of any length, and `step` works.
        prefix_consistent: the first rows of a longer run are the rows of a shorter one.
        passes: how often the whole network runs; the memory of a pass goes to the next.
    """

    streamable: ClassVar[bool]
    prefix_consistent: ClassVar[bool]
    passes: ClassVar[int] = 1

    def __str__(self) -> str:
        from transpike.schedules import SCHEDULES  # the table knows this module

        return in_words(self, SCHEDULES)

    @property
    def tuned_for(self) -> int | None:
        """The number of steps this schedule was tuned for, or None."""
        return None

    def lag(self, site: str) -> int:
        """How many steps of drive the site takes before its first emission counts (0: none)."""
        return 0

    def delay(self, site: str) -> int:
        """Steps from the site's first input to its first emission on a device that steps all layers at once."""
        return self.lag(site)

    def input_steps(self, steps: int) -> int:
        """How many steps each site must emit so that ``steps`` of them can be read out, lags not counted."""
        return steps

    def pass_steps(self, steps: int, number: int) -> int:
        """How many steps the given pass (from 0) must make; by default every pass is as long as the run."""
        return self.input_steps(steps)

    def claimed_steps(self, steps: int) -> int:
        """Latency as the schedule's own paper counts it."""
        return steps

    def interval(self, steps: int) -> int:
        """Steps that a layer is busy with one sample, lags not counted."""
        return self.input_steps(steps)

    def compiled(self) -> Rule | None:
        """The form in which the event-driven kernel runs this schedule with soft reset, or None if it has none."""
        return None

    @final
    def rule(self, neuron: Neuron) -> Rule | None:
        """The compiled form for a neuron: None where either computes something that the kernel does not know.

        A subclass that emits in its own way must have a compiled form of its own.
        """
        emits, has_form = (next(c for c in type(self).__mro__ if name in vars(c)) for name in ("emit", "compiled"))
        form = self.compiled() if issubclass(has_form, emits) and type(neuron) is IF else None
        if form is None or not isinstance(neuron, IF) or neuron.reset is Reset.SOFT:
            return form
        return form._replace(soft_reset=False) if form.kind == "plain" else None

    @abstractmethod
    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """The pure function of one site.

        Returns:
            The events ``[S_out, N, *]`` with ``S_out = S_in - lag(site)``, and the memory.
        """
