"""Initial potentials."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from transpike.rules import HalfThreshold, Population, RandomPotential, ShiftedPotential, ZeroPotential

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
    potential = rule.potential(Population("relu", (3, 8, 8), theta))
    assert potential.shape == theta.shape
    assert potential.dtype == theta.dtype
    assert potential.flatten().tolist() == [factor * value for value in theta.flatten().tolist()]
    assert potential.data_ptr() != theta.data_ptr()


@pytest.mark.parametrize("shift", [-0.51, 0.51, math.nan, math.inf])
def test_a_shift_outside_its_range_is_refused(shift):
    with pytest.raises(ValueError, match="shift"):
        ShiftedPotential(shift)


# ---- random --------------------------------------------------------------------------------------------------------


def random(rule=None, site="relu", shape=(3, 8, 8), theta=THETA):
    return (rule or RandomPotential()).potential(Population(site, shape, theta))


def test_random_potentials_are_uniform_per_neuron_in_units_of_theta():
    """The empirical distribution of 30,000 draws against the uniform one (Kolmogorov-Smirnov), per channel."""
    v = random(RandomPotential(low=-0.25, high=0.75), shape=(3, 100, 100))
    assert v.shape == (3, 100, 100)
    for channel, theta in enumerate(THETA.flatten().tolist()):
        sample = np.sort(v[channel].double().numpy().ravel()) / theta
        assert sample[0] >= -0.25
        assert sample[-1] < 0.75
        assert len(np.unique(sample)) > 9_900
        distance = np.abs(sample + 0.25 - (np.arange(sample.size) + 0.5) / sample.size).max()
        assert distance < 1.95 / math.sqrt(sample.size)  # the bound that 1 in 1,000 samples exceeds
    rows = v.flatten(1)
    assert abs(float(torch.corrcoef(rows)[0, 1])) < 0.05  # channels do not repeat each other


def test_random_potentials_depend_on_seed_and_site_only():
    torch.manual_seed(1)
    first = random()
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    random(site="other")
    assert torch.equal(random(), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # nothing was drawn from the global generator
    assert not torch.equal(random(site="relu@1"), first)
    assert not torch.equal(random(RandomPotential(1)), first)
    half, double = (random(theta=THETA.to(dtype)) for dtype in (torch.float16, torch.float64))
    assert (half.dtype, double.dtype) == (torch.float16, torch.float64)
    assert float((double - first).abs().max()) < 1e-6
    assert float((half.double() - double).abs().max()) < 3e-3  # half an ulp of 3.0, twice


@pytest.mark.parametrize("shape", [(5,), (2, 7), ()])
def test_random_potentials_of_populations_without_images(shape):
    v = random(shape=shape, theta=torch.tensor(2.0))
    assert v.shape == shape
    assert bool(((v >= 0) & (v < 2)).all())


def test_an_empty_range_is_one_value():
    assert torch.equal(random(RandomPotential(low=0.5, high=0.5)), (THETA / 2).expand(3, 8, 8))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((0.6, 0.5), "low at most high"),
        *(((value, 1.0), "low must be a finite number") for value in (math.nan, -math.inf)),
        *(((0.0, value), "high must be a finite number") for value in (math.nan, math.inf)),
    ],
)
def test_limits_that_are_none_are_refused(limits, message):
    with pytest.raises(ValueError, match=message):
        RandomPotential(0, *limits)
