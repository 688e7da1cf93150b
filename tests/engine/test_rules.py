"""The compiled forms of schedules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from transpike.engine.rules import LARGEST_COUNT, RULES, Rule, RuleKind, rule_for
from transpike.engine.spike_map import Halo, MapShape
from transpike.functional import spread_evenly
from transpike.neurons import IF, Reset
from transpike.schedules import (
    SCHEDULES,
    AccumulateThenFire,
    ExactPotential,
    OffsetSpike,
    Plain,
    Radix,
    Residual,
    SignedDigits,
    Staggered,
    TwoPasses,
)

HEADER = Path(__file__).parents[2] / "native" / "kernels.hpp"


class Leaky(IF):
    """A user's neuron."""


class Renamed(Plain):
    """A user's schedule."""


def test_the_table() -> None:
    assert {type(schedule) for schedule in (Staggered(), TwoPasses())} == set(SCHEDULES.values()) - set(RULES)
    assert rule_for(Plain(), IF()) == Rule(RuleKind.PLAIN)
    assert rule_for(Residual(3), IF()) == Rule(RuleKind.RESIDUAL, probe=3)
    assert rule_for(OffsetSpike(4, 2, 0.25), IF()) == Rule(RuleKind.OFFSET, True, 4, 2, 0.25)
    assert rule_for(ExactPotential(5), IF()) == Rule(RuleKind.EXACT, probe=5)
    assert rule_for(AccumulateThenFire(LARGEST_COUNT), IF()) == Rule(RuleKind.ACCUMULATE, probe=LARGEST_COUNT)
    assert rule_for(AccumulateThenFire(LARGEST_COUNT + 1), IF()) is None
    assert rule_for(Radix(8), IF()) == Rule(RuleKind.ACCUMULATE, probe=255, digits=8)
    assert rule_for(Radix(9), IF()) is None
    digits = rule_for(SignedDigits(2, 2.0, 0.6, 1, (("a", 3),)), IF())
    assert digits == Rule(RuleKind.DIGITS, places=(0.5, 0.25), decision=0.6, default_lag=1, site_lags=(("a", 3),))
    assert [digits.run_steps(steps) for steps in (1, 2, 3)] == [2, 2, 2]
    assert rule_for(SignedDigits(2), IF(Reset.HARD)) is None
    assert rule_for(Plain(), IF(Reset.HARD)) == Rule(RuleKind.PLAIN, soft_reset=False)
    assert rule_for(ExactPotential(2), IF(Reset.HARD)) is None
    assert rule_for(Renamed(), IF()) is rule_for(Plain(), Leaky()) is rule_for(TwoPasses(2), IF()) is None


def test_kinds_are_those_of_the_kernels() -> None:
    (body,) = re.findall(r"enum Schedule \{([^}]*)\}", HEADER.read_text())
    found = {name.removeprefix("k").upper(): int(value) for name, value in re.findall(r"(k\w+) = (\d+)", body)}
    assert found == {kind.name: kind.value for kind in RuleKind}


@pytest.mark.parametrize("rho", [1, 2, 5, 8, 255])
def test_the_kernel_spreads_counts_like_python(rho: int) -> None:
    """Every count, at neurons of either kind, over more steps than rho: unpacked, and counted without unpacking."""
    pytest.importorskip("transpike.kernels._native")
    counts, steps = torch.arange(rho + 1).repeat_interleave(2), rho + 3
    shape = MapShape(len(counts), 1, 1, Halo(0, 0, 0, 0), rho)
    spikes = shape.empty(1, steps)
    spikes.bytes.view(-1)[: len(counts)] = counts.to(torch.uint8)
    time, later = torch.arange(steps + 1).unsqueeze(1), torch.arange(len(counts)) % 2
    sent = spread_evenly(counts.double(), time, rho, later).diff(dim=0)
    assert torch.equal(shape.unpack(spikes, 1, steps, torch.ones(())).flatten(1).double(), sent)
    assert torch.equal(shape.spikes_sent(spikes, steps), sent.sum(1).long())
    assert torch.equal(sent[:rho].sum(0).long(), counts)
