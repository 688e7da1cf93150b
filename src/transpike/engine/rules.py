"""The compiled forms of schedules: which a compiled stage runs, and with which numbers."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

from transpike.neurons import IF, Neuron, Reset
from transpike.schedules import (
    AccumulateThenFire,
    ExactPotential,
    OffsetSpike,
    Plain,
    Radix,
    Residual,
    Schedule,
    SignedDigits,
)

LARGEST_COUNT = 255  # of spikes that a neuron tells the next layer in one byte


class RuleKind(IntEnum):
    """``Rule::Schedule`` of ``native/kernels.hpp``."""

    PLAIN = 0
    RESIDUAL = 1
    OFFSET = 2
    EXACT = 3
    ACCUMULATE = 4
    DIGITS = 5


class Rule(NamedTuple):
    """How a compiled stage's neurons turn currents into spikes.

    Attributes:
        kind: what they do.
        soft_reset: or to zero.
        probe: rho, steps looked at before the first spike; 0 for none.
        iterations: how often COS probes and shifts; 0 for other kinds.
        epsilon: of COS, in units of theta.
        digits: T, if counts below ``2^T`` are sent as their bits; 0 if as evenly as possible. Kernels do not read it.
        places: weights of signed digits 1 .. T; none for other kinds.
        decision: share of its worth from which a signed digit is sent.
        default_lag: steps that signed digits wait, where ``site_lags`` says nothing else. Every stage has its own.
        site_lags: pairs of site name and lag.
    """

    kind: RuleKind
    soft_reset: bool = True
    probe: int = 0
    iterations: int = 0
    epsilon: float = 0.0
    digits: int = 0
    places: tuple[float, ...] = ()
    decision: float = 0.0
    default_lag: int = 0
    site_lags: tuple[tuple[str, int], ...] = ()

    @property
    def numbers(self) -> tuple[int, bool, int, int, float, tuple[float, ...], float, float]:
        """What kernels take."""
        own = (self.kind, self.soft_reset, self.probe, self.iterations, self.epsilon)
        return (*own, self.places, sum(self.places), self.decision)

    @property
    def signed(self) -> bool:
        """Whether events are -1, 0 and 1."""
        return self.kind is RuleKind.DIGITS

    def run_steps(self, steps: int) -> int:
        """Steps that kernels run for a run of so many: a code's digits, neither more nor less; at least a probe."""
        return len(self.places) or max(steps, self.probe)

    @property
    def counted(self) -> int:
        """rho, if a count of spikes in rho steps is all that a neuron tells others; else 0."""
        return self.probe if self.kind is RuleKind.ACCUMULATE else 0


def _accumulate(schedule: AccumulateThenFire) -> Rule | None:
    """Every site tells the next one its count, in one byte."""
    fits = schedule.probe_steps <= LARGEST_COUNT
    return Rule(RuleKind.ACCUMULATE, probe=schedule.probe_steps) if fits else None


def _radix(schedule: Radix) -> Rule | None:
    """The same counts as accumulate-then-fire with ``2^T - 1`` steps."""
    most = 2**schedule.digits - 1
    return Rule(RuleKind.ACCUMULATE, probe=most, digits=schedule.digits) if most <= LARGEST_COUNT else None


def _digits(schedule: SignedDigits) -> Rule:
    places, lags = tuple(schedule.places), (schedule.default_lag, schedule.site_lags)
    return Rule(RuleKind.DIGITS, True, 0, 0, 0.0, 0, places, schedule.decision, *lags)


def _offset(schedule: OffsetSpike) -> Rule:
    found = schedule.iterations, schedule.epsilon
    return Rule(RuleKind.OFFSET, True, schedule.probe_steps, *found)


RULES: dict[type[Schedule], Callable[[Any], Rule | None]] = {
    Plain: lambda _: Rule(RuleKind.PLAIN),
    Residual: lambda schedule: Rule(RuleKind.RESIDUAL, probe=schedule.probe_steps),
    OffsetSpike: _offset,
    ExactPotential: lambda schedule: Rule(RuleKind.EXACT, probe=schedule.probe_steps),
    AccumulateThenFire: _accumulate,
    Radix: _radix,
    SignedDigits: _digits,
}
"""By exact type: a subclass may emit in its own way, so it has no compiled form."""


def rule_for(schedule: Schedule, neuron: Neuron) -> Rule | None:
    """The compiled form of a schedule for a neuron; None where either computes what the kernels do not know."""
    form = RULES.get(type(schedule))
    rule = form(schedule) if form is not None and type(neuron) is IF else None
    if rule is None or not isinstance(neuron, IF) or neuron.reset is Reset.SOFT:
        return rule
    return rule._replace(soft_reset=False) if rule.kind is RuleKind.PLAIN else None
