"""Spike-Norm on a network of two layers, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.errors import CalibrationError


def two_layers(*, ceiling: bool = False) -> nn.Module:
    """z1 = (x1, x2), z2 = (r1 + r2, r1 - 2 r2)."""
    activation = nn.ReLU6() if ceiling else nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), activation, nn.Linear(2, 1))
    weights = (torch.eye(2), torch.tensor([[1.0, 1.0], [1.0, -2.0]]), torch.ones(1, 2))
    for layer, weight in zip((model[0], model[2], model[4]), weights, strict=True):
        layer.weight.data = weight
        layer.bias.data.zero_()
    return model.eval()


X = torch.tensor([[4.0, 2.0], [1.0, 2.5]])


def thresholds(rule: tp.rules.SpikeNorm, *parts: object, ceiling: bool = False) -> list[list[float]]:
    snn = tp.convert(
        two_layers(ceiling=ceiling), tp.Conversion.of(rule, *parts), example_inputs=X, calibration=[X[:1], X[1:]]
    )
    return [snn.site(site.name).theta.flatten().tolist() for site in snn.sites]


def test_the_largest_drive_of_spikes():
    """Layer 1: max x = 4. From v(0) = 0, sample 1 fires 4 at t = 1 and (4, 4) at t = 2: a drive of 8 on layer 2.

    The source's largest activation there is 6; one step would have seen only the drive 4.
    """
    zero = tp.rules.ZeroPotential()
    assert thresholds(tp.rules.SpikeNorm(2), zero) == [[4.0], [8.0]]
    assert thresholds(tp.rules.SpikeNorm(1), zero) == [[4.0], [4.0]]


def test_potentials_of_earlier_layers_count():
    """From v(0) = theta/2 = 2, both neurons fire at t = 1 already."""
    assert thresholds(tp.rules.SpikeNorm(1)) == [[4.0], [8.0]]


def test_a_fraction_of_it():
    """RMP: layer 1 has 2, fires (2, 2) in sample 1 at t = 1: layer 2 has half of 4."""
    assert thresholds(tp.rules.SpikeNorm(2, 0.5), tp.rules.ZeroPotential()) == [[2.0], [2.0]]


def test_per_channel():
    """Thresholds 4 and 2.5, v(0) = 0. Sample 1: (4, 0), then (4, 2.5); sample 2: (0, 2.5) twice.

    Drives of layer 2: 4, 6.5, 2.5 and 4, -1, -5.
    """
    assert thresholds(tp.rules.SpikeNorm(2, granularity=tp.PerChannel()), tp.rules.ZeroPotential()) == [
        [4.0, 2.5],
        [6.5, 4.0],
    ]


def test_a_ceiling_bounds_the_threshold():
    assert thresholds(tp.rules.SpikeNorm(2), tp.rules.ZeroPotential(), ceiling=True) == [[4.0], [6.0]]


def test_mistakes_are_named():
    with pytest.raises(CalibrationError, match="needs data"):
        tp.convert(two_layers(), tp.Conversion(tp.rules.SpikeNorm(2)), example_inputs=X)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        tp.rules.SpikeNorm(0)
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="fraction must lie in"):
            tp.rules.SpikeNorm(2, fraction)
    with pytest.raises(ValueError, match="fraction must be a finite number"):
        tp.rules.SpikeNorm(2, math.nan)
