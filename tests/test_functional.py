"""The stateless mathematics against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike import functional


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ramp_clips_to_the_unit_interval():
    assert torch.equal(functional.ramp(tensor(-1, -0.25, 0, 0.5, 1, 3)), tensor(0, 0, 0, 0.5, 1, 1))
    assert torch.equal(functional.ramp(tensor(-1, -0.25, 0, 0.5, 1), 0.5), tensor(0, 0.25, 0.5, 1, 1))
    assert torch.equal(functional.ramp(tensor(0, 0.25, 0.5, 1.25), -0.25), tensor(0, 0, 0.25, 1))


def test_clip_floor_rounds_down_without_a_shift_and_to_the_nearest_with_a_half():
    x = tensor(-0.2, -0.125, 0, 0.124, 0.125, 0.25, 0.374, 0.375, 0.874, 0.875, 1, 1.2)
    assert torch.equal(functional.clip_floor(x, 4), tensor(0, 0, 0, 0, 0, 1, 1, 1, 3, 3, 4, 4) / 4)
    assert torch.equal(functional.clip_floor(x, 4, 0.5), tensor(0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 4) / 4)


def test_slip_relu_by_hand():
    # theta = 2, N = 4, c = 1/4, delta = 1/2, delta1 = 1/8; x = z / 2
    z = tensor(-0.5, -0.25, 0.25, 1.0, 1.75, 2.0)
    ramp = tensor(0, 0, 0.25, 0.625, 1.0, 1.0)
    stair = tensor(0, 0, 0.25, 0.5, 1.0, 1.0)
    expected = 2 * (0.25 * ramp + 0.75 * stair)
    assert torch.equal(functional.slip_relu(z, torch.tensor(2.0, dtype=torch.float64), 4, 0.25, 0.5, 0.125), expected)


def test_slip_relu_takes_one_threshold_per_channel():
    z = tensor(1.0, 1.0).view(1, 2, 1)
    theta = tensor(1.0, 4.0).view(2, 1)
    # x = 1 and 1/4; N = 2, delta = 1/2: stairs 1 and floor(1)/2 = 1/2
    assert torch.equal(functional.slip_relu(z, theta, 2, 0.0), tensor(1.0, 2.0).view(1, 2, 1))


def test_expected_count_by_hand():
    total = tensor(-1, 0, 0.75, 1.0, 4.25, 100)
    # (total + 1/2) / 1.5 = -0.33, 0.33, 0.83, 1, 3.17, 67
    assert torch.equal(functional.expected_count(total, 1.5, 0.5, 4), tensor(0, 0, 0, 1, 3, 4))
    assert torch.equal(functional.expected_count(tensor(3, 3), tensor(1, 2), tensor(0, 1), 8), tensor(3, 2))


def test_rate_activation_by_hand():
    # theta = 2, T = 4, v(0) = 1: 2/4 * clip(floor((4 z + 1) / 2), 0, 4)
    z = tensor(-1, 0, 0.24, 0.25, 0.75, 1.74, 1.75, 2, 9)
    assert torch.equal(functional.rate_activation(z, 2.0, 4, 0.5), tensor(0, 0, 0, 1, 2, 3, 4, 4, 4) / 2)
    assert torch.equal(functional.rate_activation(z, 2.0, 4, 0.0), tensor(0, 0, 0, 0, 1, 3, 3, 4, 4) / 2)


@given(theta=st.integers(1, 256), steps=st.sampled_from([1, 2, 4, 8, 16]), half=st.booleans(), seed=st.integers(0, 99))
def test_rate_activation_is_the_staircase_of_slip_relu_with_as_many_levels_as_steps(theta, steps, half, seed):
    """Eq. 7 equals eq. 8 with c = 0 and N = T; here in whole multiples of 1/128, so without rounding."""
    z = np.random.default_rng(seed).integers(-300, 600, 50)
    start = theta if half else 0  # v(0) in units of 1/256
    count = np.clip((2 * steps * z + start) // (2 * theta), 0, steps)
    expected = torch.from_numpy(theta / 128 / steps * count)
    z = torch.from_numpy(z / 128)
    shift = 0.5 if half else 0.0
    assert torch.equal(functional.rate_activation(z, theta / 128, steps, shift), expected)
    stairs = functional.slip_relu(z, torch.tensor(theta / 128, dtype=torch.float64), steps, 0.0, shift)
    torch.testing.assert_close(stairs, expected, rtol=1e-14, atol=0)


def test_conversion_error_bound_is_that_of_theorem_2():
    assert functional.conversion_error_bound(2.0, 0.5, 4) == 0.125
    assert functional.conversion_error_bound(3.0, 0.0, 4) == 0.0
    assert functional.conversion_error_bound(4.0, 1.0, 1) == 4.0


@pytest.mark.parametrize("theta", [0.5, 2.0])
@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_theorem_2_holds_for_a_half_shift_where_levels_equal_steps(theta, slope, steps):
    """For delta = 1/2 (so delta1 = 0) and N = T the absolute error, integrated over 0 <= z <= theta, is the bound."""
    cells = 4096  # midpoint rule; the steps fall on borders of cells, the integrand is linear in each
    z = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells * theta
    ann = functional.slip_relu(z, torch.tensor(theta, dtype=torch.float64), steps, slope)
    snn = functional.rate_activation(z, theta, steps, 0.5)
    integral = float((ann - snn).abs().mean()) * theta
    assert integral == pytest.approx(functional.conversion_error_bound(theta, slope, steps), rel=1e-9)


def test_unified_objective_by_hand():
    relu, ann, snn = tensor(1, 2), tensor(2, 2), tensor(2, 5)  # E|relu - ann| = 1/2, E|ann - snn| = 3/2
    assert functional.unified_objective(relu, ann, snn, 0.25).item() == 0.25 * 0.5 + 0.75 * 1.5
    assert functional.unified_objective(relu, ann, snn, 1.0).item() == 0.5
    assert functional.unified_objective(relu, ann, snn, 0.0).item() == 1.5


@pytest.mark.parametrize("weight", [-0.01, 1.01, float("nan")])
def test_unified_objective_refuses_other_weights(weight):
    one = torch.ones(1)
    with pytest.raises(ValueError, match="weight"):
        functional.unified_objective(one, one, one, weight)


def test_selection_criterion_by_hand():
    assert functional.selection_criterion(96.0, 94.0, 93.0) == 1.5
    assert functional.selection_criterion(90.0, 94.0, 95.0) == 2.5


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize(
    ("slope", "shift", "ramp_shift"), [(0.0, 0.5, 0.0), (0.3, 0.5, 0.0), (0.6, 0.2, -0.15), (1.0, 0.0, 0.1)]
)
def test_uniform_error_is_the_mean_over_a_fine_grid(levels, steps, slope, shift, ramp_shift):
    x = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    ann = functional.slip_relu(x, torch.ones((), dtype=torch.float64), levels, slope, shift, ramp_shift)
    difference = ann - functional.rate_activation(x, 1.0, steps, shift)
    signed, absolute = functional.uniform_error(levels, slope, steps, shift=shift, ramp_shift=ramp_shift)
    assert signed == pytest.approx(difference.mean().item(), abs=1e-5)
    assert absolute == pytest.approx(difference.abs().mean().item(), abs=1e-5)


def test_theorem_2_holds_where_levels_are_steps_and_the_shift_is_a_half():
    for steps in (1, 2, 4, 8):
        for slope in (0.0, 0.3, 1.0):
            exact = functional.uniform_error(steps, slope, steps)[1]
            assert exact == pytest.approx(functional.conversion_error_bound(1.0, slope, steps), abs=1e-12)
    assert functional.uniform_error(4, 0.0, 2)[1] == pytest.approx(0.125)  # where the theorem says 0
