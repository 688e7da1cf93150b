"""The rule of each target on trajectories worked out by hand, theta = 1; all numbers are exact in float32."""

from __future__ import annotations

import re

import pytest
import torch

from transpike.interop import NIR_TARGETS, FiringRule, NirReset, Start
from transpike.interop.simulate_nir import fire

# target: drive of four steps, then spikes and potentials after each step
BY_HAND = {
    # u = 0.5, 1.5, 0.75, 1 -> fires at theta
    "plain": ([0.5, 1.0, 0.25, 0.25], [0, 1, 0, 1], [0.5, 0.5, 0.75, 0.0]),
    # u = 2.5 sends two; u = -2.5 stays at -1; u = 0, then 1 sends one
    "sinabs": ([2.5, -3.0, 1.0, 1.0], [2, 0, 0, 1], [0.5, -1.0, 0.0, 0.0]),
    "spinnaker2": ([0.5, 1.0, 0.25, 0.25], [0, 1, 0, 1], [0.5, 0.5, 0.75, 0.0]),
    # by the potential before: 0, 1.5 -> a spike while 0.5 comes, 1 is not above 1, then 1.25
    "spyx": ([1.5, 0.5, 0.25, 0.25], [0, 1, 0, 1], [1.5, 1.0, 1.25, 0.5]),
    # 1 is not above 1; 1.5 is, and all of it goes
    "norse": ([1.0, 0.5, 0.75, 0.5], [0, 1, 0, 1], [1.0, 0.0, 0.75, 0.0]),
    "spikingjelly": ([1.0, 0.5, 0.75, 0.25], [1, 0, 1, 0], [0.0, 0.5, 0.0, 0.25]),
}


@pytest.mark.parametrize("target", BY_HAND)
def test_by_hand(target: str) -> None:
    drive, spikes, potentials = BY_HAND[target]
    v, one = torch.zeros(1), torch.ones(1)
    for current, wanted, after in zip(drive, spikes, potentials, strict=True):
        v, count = fire(v, torch.tensor([current]), one, NIR_TARGETS[target].rule)
        assert (count.item(), v.item()) == (wanted, after)


def test_snntorch_by_hand() -> None:
    """Leak 0.9: u = 2.5 fires and keeps 1.5; then 1.35 + 0.5 - 1 = 0.85 is looked at, no spike, 1.85 is kept.

    Then 1.665 + 0.5 - 1 = 1.165 fires, and 1.165 remains.
    """
    rule, v, one = NIR_TARGETS["snntorch"].rule, torch.zeros(1), torch.ones(1)
    for current, wanted, after in ((2.5, 1, 1.5), (0.5, 0, 1.85), (0.5, 1, 1.165)):
        v, count = fire(v, torch.tensor([current]), one, rule)
        assert count.item() == wanted
        assert v.item() == pytest.approx(after, abs=1e-6)


def test_every_target_is_worked_out() -> None:
    assert set(BY_HAND) | {"snntorch"} == set(NIR_TARGETS)


def test_a_rule_says_what_it_does() -> None:
    assert str(FiringRule()) == "subtracts theta, fires at theta"
    assert str(NIR_TARGETS["sinabs"].rule) == (
        "subtracts theta, fires at theta, several spikes per step, potential at least -theta"
    )
    assert str(NIR_TARGETS["spyx"].rule) == "subtracts theta, fires above theta, one step late"


def test_rows_are_consistent() -> None:
    for name, target in NIR_TARGETS.items():
        assert name == target.name
        assert re.fullmatch(r"|[a-z]+ \d+\.\d+\.\d+", target.package)
        assert target.checked is bool(target.package) or name == "plain"
        hard = target.rule.reset is NirReset.ZERO
        assert (target.start is Start.THRESHOLD) is hard, "only hard reset can count potentials from v(0)"
