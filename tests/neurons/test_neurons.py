"""Parameters, start and run of the integrate-and-fire neuron."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike.kernels import KernelPreference, Surrogate, native, triton
from transpike.neurons import IF, EventKind, Reset, SiteParameters

ONE = torch.tensor(1.0)


def site(theta: torch.Tensor, v_init: torch.Tensor) -> SiteParameters:
    return SiteParameters(theta, v_init)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (3, 4, 5), (1, 3, 1, 1), (2, 3, 4, 5)])
def test_start_broadcasts_every_shape_of_initial_potential(shape):
    v_init = torch.rand(shape)
    v = IF().start(site(ONE, v_init), torch.zeros(6, 2, 3, 4, 5))
    assert torch.equal(v, v_init + torch.zeros(2, 3, 4, 5))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 3), (1, 2, 3, 4, 5), (3, 3, 4, 5)])
def test_start_refuses_potentials_that_do_not_fit_and_shows_both_shapes(shape):
    with pytest.raises(ValueError, match="v_init") as caught:
        IF().start(site(ONE, torch.zeros(shape)), torch.zeros(6, 2, 3, 4, 5))
    assert str(shape) in str(caught.value)
    assert "(2, 3, 4, 5)" in str(caught.value)


NEEDING = {
    KernelPreference.NATIVE: native.load()[0] is not None,
    KernelPreference.TRITON: triton.interpreted(),
}
"""Whether kernels that do not run everywhere run here, on a CPU."""


@pytest.mark.parametrize(
    "kernel",
    [kernel for kernel in KernelPreference if kernel not in NEEDING or NEEDING[kernel]],
)
def test_soft_and_hard_reset_by_hand(kernel):
    drive = torch.tensor([1.5, 0.25, 0.25, 1.0]).unsqueeze(1)
    parameters = site(ONE, torch.tensor(0.0))
    runs = {}
    for reset in Reset:
        neuron = IF(reset)
        runs[reset] = neuron.run(drive, neuron.start(parameters, drive), parameters, kernel)
    # soft: u = 3/2 | 3/4 | 1 | 1; hard: u = 3/2 | 1/4 | 1/2 | 3/2
    assert runs[Reset.SOFT][0].flatten().tolist() == [1, 0, 1, 1]
    assert runs[Reset.SOFT][1].item() == 0.0
    assert runs[Reset.HARD][0].flatten().tolist() == [1, 0, 0, 1]
    assert runs[Reset.HARD][1].item() == 0.0
    assert IF().run(drive, torch.zeros(1), parameters, kernel)[0].flatten().tolist() == [1, 0, 1, 1]


@pytest.mark.parametrize("reset", Reset)
def test_each_surrogate_reaches_the_kernel(reset):
    """u = 0.4 with theta = 1: the triangle's slope is 0.4, the rectangle's is 0."""
    gradients = []
    for surrogate in (Surrogate.TRIANGLE, Surrogate.RECTANGLE):
        drive = torch.tensor([[0.4]], dtype=torch.float64, requires_grad=True)
        parameters = site(ONE.double(), torch.zeros((), dtype=torch.float64))
        events, _ = IF(reset, surrogate).run(drive, torch.zeros(1).double(), parameters, KernelPreference.EAGER)
        gradients.append(torch.autograd.grad(events.sum(), drive)[0].item())
    assert gradients == [pytest.approx(0.4), 0.0]


@given(seed=st.integers(0, 2**16), steps=st.integers(1, 32), delta=st.sampled_from([0, 16, 32]))
def test_the_rate_of_one_spiking_layer_is_eq_7_exactly(seed, steps, delta):
    """theta/T clip(floor((T z + delta theta)/theta), 0, T), in units of 1/64 with theta per channel."""
    generator = torch.Generator().manual_seed(seed)
    theta = 64 * torch.randint(1, 4, (3, 1), generator=generator)
    z = torch.randint(-100, 400, (2, 3, 5), generator=generator)
    start = theta * delta // 64
    neuron = IF()
    parameters = site(theta.double() / 64, start.double() / 64)
    drive = (z.double() / 64).expand(steps, 2, 3, 5)
    events, _ = neuron.run(drive, neuron.start(parameters, drive), parameters, KernelPreference.AUTO)
    count = torch.div(steps * z + start, theta, rounding_mode="floor").clamp(0, steps)
    assert torch.equal(events.sum(0), count.double())


def test_settings_are_a_frozen_closed_choice():
    assert IF() == IF(Reset.SOFT, Surrogate.TRIANGLE)
    assert IF("hard", "rectangle") == IF(Reset.HARD, Surrogate.RECTANGLE)
    assert IF.events is EventKind.BINARY
    assert len({IF(), IF(Reset.SOFT), IF(Reset.HARD)}) == 2
    with pytest.raises(ValueError, match="reset must be one of"):
        IF("medium")
    with pytest.raises(ValueError, match="surrogate must be one of"):
        IF(Reset.SOFT, "circle")
    with pytest.raises(dataclasses.FrozenInstanceError):
        IF().reset = Reset.HARD
