"""The signed neuron with memory: by hand, against whole numbers and fractions, and what its memory guarantees."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike.kernels import KernelPreference
from transpike.neurons import IF, EventKind, Neuron, SignedIF, SiteParameters

AUTO = KernelPreference.AUTO
BY_HAND = [1.5, -1.0, -0.75, 0.25, -0.5, 1.5, 0.0, -0.25]
grid = st.integers(-200, 200)


def run(neuron: Neuron, drive: list[float], v_init: float = 0.0, theta: float = 1.0):
    """Events as numbers, and the last state."""
    currents = torch.tensor(drive, dtype=torch.float64).unsqueeze(1)
    parameters = SiteParameters(torch.tensor(theta).double(), torch.tensor(v_init).double())
    events, state = neuron.run(currents, neuron.start(parameters, currents), parameters, AUTO)
    return events.flatten().tolist(), state.flatten().tolist()


def test_by_hand():
    # u = 3/2 | -1/2 | -1/4, but nothing to take back | 0 | -1/2, the same | 1 | 0 is not below 0 | -1/4
    assert run(SignedIF(), BY_HAND) == ([1, -1, 0, 0, 0, 1, 0, -1], [0.75, 0])


def test_the_symmetric_threshold_by_hand():
    # u = 3/2 | -1/2 | -5/4 | 0 | -1/2 | 1 | 0 | -1/4: one spike too many stays
    assert run(SignedIF(depth=1.0), BY_HAND) == ([1, 0, -1, 0, 0, 1, 0, 0], [-0.25, 1])
    assert run(SignedIF(depth=1.0), [1.0, -1.0])[0] == [1, 0]  # exactly -theta is not below it


@given(drive=st.lists(grid, min_size=1, max_size=24), theta=st.integers(16, 96), start=st.integers(0, 15))
def test_it_follows_the_count_that_the_drive_entitles_to(drive, theta, start):
    """N(t) goes one towards floor((v(0) + C(t)) / theta), and never below zero; in units of 1/64."""
    count, total, expected = 0, start, []
    for current in drive:
        total += current
        wanted = max(total // theta, 0)
        step = (wanted > count) - (wanted < count)
        count += step
        expected.append(step)
    events, (v, memory) = run(SignedIF(), [c / 64 for c in drive], start / 64, theta / 64)
    assert events == expected
    assert memory == count
    assert v == (total - theta * count) / 64


@given(
    drive=st.lists(grid, min_size=1, max_size=24),
    theta=st.integers(16, 96),
    start=st.integers(-64, 64),
    depth=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_any_depth_against_fractions(drive, theta, start, depth):
    unit, v, memory, expected = Fraction(theta, 64), Fraction(start, 64), 0, []
    for current in drive:
        u = v + Fraction(current, 64)
        event = 1 if u >= unit else -1 if u < -Fraction(depth) * unit and memory > 0 else 0
        v, memory = u - event * unit, memory + event
        expected.append(event)
    events, state = run(SignedIF(depth), [c / 64 for c in drive], start / 64, theta / 64)
    assert events == expected
    assert state == [v, memory]


@given(drive=st.lists(st.integers(-64, 64), min_size=1, max_size=16))
def test_after_a_pause_the_sum_of_the_events_is_exact(drive):
    """Whatever the order in which the drive came: no offset spikes are left once it has stopped."""
    events, _ = run(SignedIF(), [c / 64 for c in drive] + [0.0] * len(drive), 0.5)
    assert sum(events) == max((sum(drive) + 32) // 64, 0)


@given(drive=st.lists(st.integers(0, 200), min_size=1, max_size=16))
def test_without_negative_drive_it_is_the_integrate_and_fire_neuron(drive):
    drive = [c / 64 for c in drive]
    assert run(SignedIF(), drive, 0.5)[0] == run(IF(), drive, 0.5)[0]


def test_the_state_charges_and_goes_on():
    drive = torch.linspace(-2, 3, 2 * 3 * 5, dtype=torch.float64).reshape(2, 3, 5)
    parameters = SiteParameters(torch.tensor(0.75).double(), torch.full((5,), 0.25).double())
    neuron = SignedIF()
    start = neuron.start(parameters, drive)
    assert start.shape == (3, 5, 2)
    charged = neuron.charge(start, drive[0])
    assert torch.equal(charged[..., 0], 0.25 + drive[0])
    assert torch.equal(charged[..., 1], torch.zeros(3, 5))
    whole, after = neuron.run(drive, start, parameters, AUTO)
    first, between = neuron.run(drive[:1], start, parameters, AUTO)
    second, last = neuron.run(drive[1:], between, parameters, AUTO)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(last, after)
    assert torch.equal(start, neuron.start(parameters, drive))  # not changed in place


def test_settings():
    assert SignedIF() == SignedIF(0)
    assert SignedIF.events is EventKind.SIGNED
    assert SignedIF().most_events == 1
    for depth in (-0.1, float("nan"), float("inf"), True, "deep"):
        with pytest.raises(ValueError, match="depth"):
            SignedIF(depth)
    with pytest.raises(dataclasses.FrozenInstanceError):
        SignedIF().depth = 1.0
