"""Initial potentials."""

from __future__ import annotations

import math

import pytest
import torch

from transpike.methods import HalfThreshold, ShiftedPotential, ZeroPotential

THETA = torch.tensor([0.5, 2.0, 3.0]).view(3, 1, 1)


@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        (ZeroPotential(), 0.0),
        (HalfThreshold(), 0.5),
        (ShiftedPotential(-0.5), -0.5),
        (ShiftedPotential(0.25), 0.25),
        (ShiftedPotential(0.5), 0.5),
    ],
)
@pytest.mark.parametrize("theta", [THETA, torch.tensor(2.0), torch.tensor(2.0, dtype=torch.float64)])
def test_potential_is_a_fraction_of_each_threshold(rule, factor, theta):
    potential = rule.potential(theta)
    assert potential.shape == theta.shape
    assert potential.dtype == theta.dtype
    assert potential.flatten().tolist() == [factor * value for value in theta.flatten().tolist()]
    assert potential.data_ptr() != theta.data_ptr()


@pytest.mark.parametrize("shift", [-0.51, 0.51, math.nan, math.inf])
def test_a_shift_outside_its_range_is_refused(shift):
    with pytest.raises(ValueError, match="shift"):
        ShiftedPotential(shift)
