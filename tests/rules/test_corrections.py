"""Corrections of means: by hand on a grid, and never worse on networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike.rules import Correction, StageView
from transpike.schedules import AccumulateThenFire, ExactPotential, OffsetSpike, Plain, Residual, Staggered
from transpike.testing import TOPOLOGIES, record

CONV = next(topology for topology in TOPOLOGIES if topology.name == "conv_batchnorm")


def identity(samples: list[list[float]], parts: list[Any]) -> tp.SpikingNetwork:
    """One layer that passes two numbers on, with thresholds 1 and initial potentials 1/2."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    x = torch.tensor(samples).T.contiguous()
    return tp.convert(
        model, tp.Conversion.of(tp.rules.Maximum(), *parts), example_inputs=x, calibration=list(x.split(3))
    )


# ---- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("iterations", "first"), [(1, 0.0), (2, 0.0), (3, 0.0625), (4, 0.0625)])
def test_bias_by_hand_at_one_step(iterations, first):
    """A neuron fires from 1/2 on.

    Channel 0: mean 0.5, output 0.25. Bias 0.25 makes it 0.75, which is no better, and so does 0.125; 0.0625 lifts
    0.4375 only, and the mean is right. Channel 1: mean 0.421875, output 0.25; bias 0.171875 makes it 0.5, and the way
    back changes nothing.
    """
    samples = [[1.0, 0.4375, 0.375, 0.1875], [1.0, 0.4375, 0.125, 0.125]]
    snn = identity(samples, [tp.rules.BiasCorrection(1, iterations=iterations)])
    assert snn.site("1").bias.flatten().tolist() == [first, 0.171875]
    assert snn.site("1").bias.shape == (1, 2)


def test_potential_by_hand_at_two_steps():
    """Channel 0: mean 0.359375, output 0.25; v(0) = 1/2 + 2 * 0.109375 lets 0.1875 fire once in two steps: 0.375.

    Channel 1 is right from the start: 1, 0.5 and 0 are answered with 1, 0.5 and 0.
    """
    samples = [[1.0, 0.1875, 0.125, 0.125], [1.0, 0.5, 0.0, 0.5]]
    snn = identity(samples, [tp.rules.PotentialCorrection(2)])
    assert snn.site("1").v_init.tolist() == [0.71875, 0.5]


def test_the_means_of_currents_are_made_equal_at_once():
    """NumPy: the second layer's bias is W2 (mean activation - mean output of the first), spikes of the first known."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    weights = np.array([[1.0, -0.5], [0.25, 0.75], [-1.0, 0.5]])
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.copy_(torch.tensor(weights))
    x = torch.tensor([[1.0, 0.75], [0.25, 0.75], [0.375, 0.5], [-0.5, 0.25]])
    part = tp.rules.BiasCorrection(1, iterations=1, compare=tp.rules.Compare.CURRENTS)
    snn = tp.convert(model, tp.Conversion.of(tp.rules.Maximum(), part), example_inputs=x, calibration=[x[:1], x[1:]])
    assert snn.site("1").bias.flatten().tolist() == [0.0, 0.0]  # its drive is the ANN's
    lost = np.clip(x.numpy(), 0, None).mean(0) - (x.numpy() >= 0.5).mean(0)
    np.testing.assert_allclose(snn.site("3").bias.numpy(), [weights @ lost], atol=1e-7)


# ---- on networks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched(Correction):
    """Another calibration, with what it does to the error of each entry."""

    part: Any
    errors: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def steps(self) -> int:  # type: ignore[override]
        return self.part.steps

    def update(self, stage: StageView) -> None:
        before = self.measure(stage)
        self.part.update(stage)
        self.errors[stage.site] = before, self.measure(stage)

    def measure(self, stage: StageView) -> np.ndarray:
        """|mean activation - mean output| per neuron or channel, by NumPy."""
        wanted = np.concatenate([z.numpy() for z in stage.wanted]).astype(float).mean(0)
        found = [
            stage.module.theta.numpy() * stage.emit(currents).numpy().astype(float).mean(0)
            for currents in stage.currents
        ]
        error = wanted - np.concatenate(found).mean(0)
        per_neuron = isinstance(getattr(self.part, "granularity", None), tp.rules.PerNeuron)
        return np.abs(error if per_neuron else error.reshape(len(error), -1).mean(1))


PARTS = [
    tp.rules.BiasCorrection(3),
    tp.rules.PotentialCorrection(3),
    tp.rules.PotentialCorrection(3, granularity=tp.PerChannel()),
]
SCHEDULES = [Plain(), Staggered(2), AccumulateThenFire(4), OffsetSpike(4), Residual(2), ExactPotential(4)]


@pytest.mark.parametrize("part", PARTS, ids=["bias", "potential", "potential-channel"])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: type(schedule).__name__)
def test_no_entry_ends_worse_and_the_whole_better(part, schedule):
    watched = Watched(part)
    x = CONV.random_inputs(24)[0]
    snn = tp.convert(
        CONV.model(),
        tp.Conversion(tp.rules.Percentile(99.0, tp.PerChannel()), corrections=[watched], schedule=schedule),
        example_inputs=x,
        calibration=list(x.split(7)),
    )
    assert list(watched.errors) == [site.name for site in snn.sites]
    for before, after in watched.errors.values():
        assert (after <= before + 1e-6).all()
        assert after.mean() < 0.8 * before.mean()


@pytest.mark.parametrize("part", PARTS, ids=["bias", "potential", "potential-channel"])
def test_the_answer_comes_nearer_on_other_samples(part):
    """Thresholds are too small on purpose: the answer's mean is far off, and the ANN itself stays what it was."""
    model, (x, new) = CONV.model(), CONV.random_inputs(400)[0].split(200)
    rules = [tp.rules.Percentile(80.0), tp.rules.ZeroPotential()]
    plain = tp.convert(model, tp.Conversion.of(*rules), example_inputs=x, calibration=x)
    better = tp.convert(model, tp.Conversion.of(*rules, part), example_inputs=x, calibration=x)
    with torch.no_grad():
        wanted = model(new)
        torch.testing.assert_close(better.ann(new), plain.ann(new), rtol=0, atol=0)
        torch.testing.assert_close(better.ann(new), wanted)
    errors = [float((snn(new, steps=3)[-1] - wanted).mean(0).abs().mean()) for snn in (plain, better)]
    assert errors[1] < 0.7 * errors[0]


def test_corrections_add_to_what_was_set_before():
    """A bias per step set by an earlier part moves as a whole."""

    @dataclass(frozen=True)
    class Ramp(Correction):
        steps: int = 2

        def update(self, stage: StageView) -> None:
            shape = (2, stage.module.population[0], *[1] * (len(stage.module.population) - 1))
            stage.module.set_bias(torch.tensor([0.0, 0.5]).view(2, *[1] * (len(shape) - 1)).expand(shape))

    x = CONV.random_inputs(16)[0]
    snn = tp.convert(
        CONV.model(),
        tp.Conversion.of(tp.rules.Maximum(), Ramp(), tp.rules.BiasCorrection(4)),
        example_inputs=x,
        calibration=x,
    )
    for site in snn.sites:
        bias = snn.site(site.name).bias
        assert bias.shape[0] == 2
        torch.testing.assert_close(bias[1] - bias[0], torch.full_like(bias[0], 0.5))
        assert bias[0].abs().max() > 0
    assert torch.isfinite(record(snn, x, steps=4).answer).all()


@pytest.mark.parametrize("make", [tp.rules.BiasCorrection, tp.rules.PotentialCorrection])
def test_counts_below_one_are_refused(make):
    for wrong in ({"steps": 0}, {"steps": 2, "iterations": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            make(**wrong)
