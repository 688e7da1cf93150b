"""The search for initial potentials against brute force in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike.schedules import AccumulateThenFire
from transpike.testing import dyadic_batch, make_dyadic


def mean_output(currents: np.ndarray, theta: float, start: float) -> np.ndarray:
    """Mean output of integrate-and-fire neurons over ``currents [T, N]``."""
    v, count = np.full(currents.shape[1], start), np.zeros(currents.shape[1])
    for current in currents:
        v = v + current
        fired = v >= theta
        v, count = v - theta * fired, count + fired
    return theta * count / len(currents)


def network() -> nn.Module:
    torch.manual_seed(0)
    return make_dyadic(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double())


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("granularity", [tp.PerChannel(), tp.PerLayer()], ids=["channel", "layer"])
def test_no_combination_of_fractions_is_better(steps, granularity):
    """All fractions of both layers: channels of one layer do not meet, and layers come one after the other."""
    model, x = network(), dyadic_batch((40, 3), 1, torch.float64)
    part = tp.rules.OptimalPotential(steps, candidates=4, granularity=granularity)
    snn = tp.convert(model, tp.Conversion.of(tp.rules.Maximum(), part), example_inputs=x, calibration=list(x.split(11)))
    sites = [snn.site("1"), snn.site("3")]
    theta = [float(site.theta) for site in sites]
    first = model[0](x).detach().numpy()
    second = model[2](model[1](model[0](x))).detach().numpy()
    currents, ends = np.stack([first] * steps), (first, second)
    for layer, site in enumerate(sites):
        wanted, width = np.maximum(ends[layer], 0), ends[layer].shape[1]
        losses = np.empty((4, width))
        for number, channel in itertools.product(range(4), range(width)):
            found = mean_output(currents[:, :, channel], theta[layer], number / 4 * theta[layer])
            losses[number, channel] = ((wanted[:, channel] - found) ** 2).mean()
        chosen = site.v_init.numpy() / theta[layer] * 4
        if isinstance(granularity, tp.PerLayer):
            assert losses[int(chosen)].mean() == pytest.approx(losses.mean(1).min(), abs=1e-12)
        else:
            picked = losses[chosen.astype(int), np.arange(width)]
            np.testing.assert_allclose(picked, losses.min(0), atol=1e-12)
        v = np.broadcast_to(site.v_init.numpy(), (len(x), width)).copy()
        spikes = []
        for current in currents:
            v += current
            spikes.append(theta[layer] * (v >= theta[layer]))
            v -= spikes[-1]
        if layer == 0:
            weight, bias = (p.detach().numpy() for p in model[2].parameters())
            currents = np.stack(spikes) @ weight.T + bias
    assert len(set(sites[0].v_init.flatten().tolist() + sites[1].v_init.flatten().tolist())) > 1


def test_what_is_right_already_stays():
    """Accumulate-then-fire with theta/2 rounds to the nearest value: no fraction is better, but some are as good."""
    x = torch.tensor([[1.0], [0.5], [0.25], [0.75], [0.3125]])
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    nn.init.ones_(model[0].weight)
    part = tp.rules.OptimalPotential(4)
    snn = tp.convert(
        model,
        tp.Conversion(tp.rules.Maximum(), corrections=[part], schedule=AccumulateThenFire(4)),
        example_inputs=x,
        calibration=x,
    )
    assert snn.site("1").v_init == 0.5


def test_counts_below_one_are_refused():
    for wrong in ({"steps": 0}, {"steps": 2, "candidates": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            tp.rules.OptimalPotential(**wrong)
