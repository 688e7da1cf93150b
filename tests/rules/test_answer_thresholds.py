"""Thresholds of populations that only the answer reads: by NumPy, and never worse."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike.rules import Correction, StageView
from transpike.schedules import AccumulateThenFire, ExactPotential, Plain
from transpike.testing import TOPOLOGIES

RHO, T = 8, 2


def spikes(z: np.ndarray, theta: float, bias: float) -> np.ndarray:
    """Mean output of T steps of one channel, v(0) = theta/2, constant drive."""
    return theta / T * np.clip(np.floor(T * (z + bias) / theta + 0.5), 0, T)


def corrected(z: np.ndarray, theta: float, iterations: int) -> float:
    """The bias that makes the mean right: a step that does not help is taken back and halved."""
    wanted = np.maximum(z, 0).mean()
    bias, step = 0.0, 1.0
    best = wanted - spikes(z, theta, bias).mean()
    for _ in range(iterations):
        tried = bias + step * best
        error = wanted - spikes(z, theta, tried).mean()
        if abs(error) < abs(best):
            bias, best = tried, error
        else:
            step /= 2
    return bias


def test_each_channel_gets_the_best_of_the_thresholds_that_are_tried() -> None:
    """Two channels, the old thresholds far too large; all in float64, by trying every one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1)).double()
    x = torch.randn(200, 2, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.25]]))
    parts = [tp.rules.Percentile(100.0, tp.PerChannel()), tp.rules.HalfThreshold()]
    before = (
        tp.convert(model, tp.Conversion.of(*parts), example_inputs=x, calibration=list(x.split(64)))
        .site("1")
        .theta.numpy()
    )
    part = tp.rules.AnswerThresholds(T, iterations=3)
    site = tp.convert(model, tp.Conversion.of(*parts, part), example_inputs=x, calibration=list(x.split(64))).site("1")
    for channel, scale in enumerate((1.0, 0.25)):
        z = scale * x[:, channel].numpy()
        found = {0.0: (before[channel], 0.0)}  # as it was
        found |= {
            factor: (before[channel] * factor, corrected(z, before[channel] * factor, 3))
            for factor in 2 ** (np.arange(-12, 5) / 8)
        }
        errors = {factor: np.mean((spikes(z, *each) - np.maximum(z, 0)) ** 2) for factor, each in found.items()}
        theta, bias = found[min(errors, key=errors.__getitem__)]
        assert theta < 0.9 * before[channel]
        assert float(site.theta[channel]) == pytest.approx(theta)
        assert float(site.bias[0, channel]) == pytest.approx(bias)
        assert float(site.v_init[channel]) == pytest.approx(theta / 2)


@dataclass(frozen=True)
class Seen(Correction):
    """Looks at every stage before or after another calibration."""

    steps: int
    errors: dict[str, float] = field(default_factory=dict, compare=False)
    answers: list[str] = field(default_factory=list, compare=False)

    def update(self, stage: StageView) -> None:
        outputs = [stage.module.theta * stage.emit(currents)[:T].mean(0) for currents in stage.currents]
        errors = [(found - wanted).square().sum() for found, wanted in zip(outputs, stage.wanted, strict=True)]
        self.errors[stage.site] = float(sum(errors))
        self.answers.extend([stage.site] if stage.answers else [])


@pytest.mark.parametrize("schedule", [AccumulateThenFire(RHO), ExactPotential(RHO), Plain()], ids=repr)
@pytest.mark.parametrize("granularity", [tp.PerLayer(), tp.PerChannel()], ids=repr)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_only_the_last_populations_change_and_none_gets_worse(topology, granularity, schedule) -> None:
    inputs = topology.random_inputs(12)
    before, after = Seen(T), Seen(T)
    parts = [tp.rules.Maximum(granularity), tp.rules.HalfThreshold()]
    options = {"example_inputs": inputs, "calibration": [inputs]}
    plain = tp.convert(topology.model(), tp.Conversion.of(*parts, before, schedule=schedule), **options)
    corrected = tp.Conversion.of(*parts, tp.rules.AnswerThresholds(T), after, schedule=schedule)
    snn = tp.convert(topology.model(), corrected, **options)
    assert after.answers == before.answers
    for name, error in before.errors.items():
        same = torch.equal(snn.site(name).theta, plain.site(name).theta)
        assert name in after.answers or same
        assert after.errors[name] <= error * (1 + 1e-5) + 1e-9


class Branches(nn.Module):
    """Two populations answer; one of them also feeds a third."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        c = torch.relu(self.c(b))
        return self.d(c), self.d(b), torch.relu(self.b(a + c)).sum(1)


def test_which_populations_answer() -> None:
    x = torch.randn(8, 3)
    seen = Seen(T)
    tp.convert(Branches(), tp.Conversion.of(tp.rules.Maximum(), seen), example_inputs=x, calibration=x)
    assert len(seen.errors) == 4
    assert seen.answers == [list(seen.errors)[-1]]


def test_counts_below_one_are_refused() -> None:
    for wrong in ({"steps": 0}, {"steps": 2, "iterations": 0}):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            tp.rules.AnswerThresholds(**wrong)
