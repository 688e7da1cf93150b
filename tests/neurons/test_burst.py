"""The burst neuron: by hand, against whole numbers, and what it has in common with integrate-and-fire."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transpike.kernels import KernelPreference
from transpike.neurons import IF, Burst, EventKind, Neuron, SiteParameters

AUTO = KernelPreference.AUTO


def run(neuron: Neuron, drive: list[float], v_init: float = 0.0, theta: float = 1.0):
    """Events as numbers, and the last potential."""
    currents = torch.tensor(drive, dtype=torch.float64).unsqueeze(1)
    parameters = SiteParameters(torch.tensor(theta).double(), torch.tensor(v_init).double())
    events, v = neuron.run(currents, neuron.start(parameters, currents), parameters, AUTO)
    return events.flatten().tolist(), v.item()


def test_by_hand():
    # theta = 1/2; u / theta = 5/2 | 7, of which 3 go | 4, of which 3 go | 1/2 | -1/2
    assert run(Burst(3), [1.25, 3.25, 0.0, -0.25, -0.5], 0.0, 0.5) == ([2, 3, 3, 0, 0], -0.25)
    assert run(Burst(), [7.5, 0.0, 0.0]) == ([5, 2, 0], 0.5)


@given(
    drive=st.lists(st.integers(-200, 400), min_size=1, max_size=24),
    theta=st.sampled_from([16, 32, 64, 128]),
    start=st.integers(-64, 64),
    gamma=st.integers(1, 6),
)
def test_against_whole_numbers(drive, theta, start, gamma):
    """In units of 1/64, where ``u / theta`` is exact; the balance v(T) = v(0) + sum(drive) - theta * sum(events)."""
    v, expected = start, []
    for current in drive:
        k = min(max((v + current) // theta, 0), gamma)
        v += current - k * theta
        expected.append(k)
    events, last = run(Burst(gamma), [c / 64 for c in drive], start / 64, theta / 64)
    assert events == expected
    assert last * 64 == v == start + sum(drive) - theta * sum(events)


@given(drive=st.lists(st.integers(0, 300), min_size=1, max_size=16))
def test_it_is_never_late_with_few_enough_events(drive):
    """Non-negative drives of at most 300/64 < gamma theta: at every step all that the drive entitles to was sent."""
    events, v = run(Burst(5), [c / 64 for c in drive], 0.5)
    assert sum(events) == (32 + sum(drive)) // 64
    assert 0 <= v < 1


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16))
def test_with_gamma_one_it_is_the_integrate_and_fire_neuron(seed):
    """On any numbers: u / theta is never rounded up to 1."""
    drive = torch.randn(9, 4, 7, generator=torch.Generator().manual_seed(seed))
    parameters = SiteParameters(torch.rand(7, generator=torch.Generator().manual_seed(seed)) + 0.3, torch.tensor(0.1))
    runs = [
        neuron.run(drive, neuron.start(parameters, drive), parameters, KernelPreference.REFERENCE)
        for neuron in (Burst(1), IF())
    ]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])


def test_settings():
    assert Burst() == Burst(5)
    assert Burst.events is EventKind.COUNT
    assert Burst(7).most_events == 7
    for gamma in (0, -1, 1.5, True, "many"):
        with pytest.raises(ValueError, match="gamma"):
            Burst(gamma)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Burst().gamma = 1
