"""RTS (Deng & Gu 2021): the shift of the spiking network by hand, and what a half-full start has to do with it."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.testing import record


def one_layer(activation: tp.activations.SlipReLU, *parts) -> tp.SpikingNetwork:
    """One neuron whose drive is the input; theta = 1."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU()).double()
    nn.init.ones_(model[0].weight)
    ann = tp.tailor(model, activation).eval()
    return tp.convert(ann, tp.Conversion.of(*parts), example_inputs=torch.rand(4, 1).double())


def shifted_spikes(z: Fraction, steps: int) -> list[int]:
    """Integrate and fire from zero, with theta / (2T) in every step, in fractions."""
    v, spikes = Fraction(0), []
    for _ in range(steps):
        v += z + Fraction(1, 2 * steps)
        spikes.append(int(v >= 1))
        v -= spikes[-1]
    return spikes


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_half_a_threshold_to_start_with_is_the_papers_shift(steps):
    grid = [Fraction(k, 64) for k in range(-40, 110)]
    x = torch.tensor([[float(z)] for z in grid], dtype=torch.float64)
    by_hand = torch.tensor([shifted_spikes(z, steps) for z in grid], dtype=torch.float64).T
    half = one_layer(tp.activations.ThresholdReLU(theta_init=1.0), tp.rules.HalfThreshold())
    found = record(half, x, steps=steps).events["1"].squeeze(-1)
    assert torch.equal(found.sum(0), by_hand.sum(0))
    assert bool((found.cumsum(0) >= by_hand.cumsum(0)).all())  # never a spike later
    exact = torch.tensor([float(min(max(z, 0), 1)) for z in grid], dtype=torch.float64)
    assert float((by_hand.mean(0) - exact).abs().max()) <= 1 / (2 * steps)  # rounded, not rounded down
    biased = one_layer(tp.activations.ThresholdReLU(theta_init=1.0))
    biased.site("1").set_bias(torch.tensor(1 / (2 * steps)))
    assert torch.equal(record(biased, x, steps=steps).events["1"].squeeze(-1), by_hand)


def test_without_a_rule_it_starts_empty_and_rounds_down():
    snn = one_layer(tp.activations.ThresholdReLU(theta_init=1.0))
    assert float(snn.site("1").v_init) == 0.0
    x = torch.arange(0, 64, dtype=torch.float64).unsqueeze(1) / 64
    assert torch.equal(snn(x, steps=4)[-1], torch.floor(4 * x) / 4)


def test_the_shifted_ann_is_on_average_what_the_unshifted_neuron_sends():
    """On every level but the lowest, where the ANN's ramp is cut off at zero, and for T = N."""
    levels = 4
    x = (torch.arange(16, 64, dtype=torch.float64).unsqueeze(1) + 0.5) / 64
    snn = one_layer(tp.activations.ShiftThresholdReLU(levels, theta_init=1.0))
    assert float(snn.site("1").v_init) == 0.0
    ann, sent = snn.ann(x).reshape(3, 16), snn(x, steps=levels)[-1].reshape(3, 16)
    torch.testing.assert_close(ann.mean(1), sent.mean(1), rtol=1e-12, atol=1e-12)
    assert sent.mean(1).tolist() == [0.25, 0.5, 0.75]
    assert not torch.equal(ann, sent)
