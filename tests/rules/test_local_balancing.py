"""Local threshold balancing against a hand-computed trajectory and the iteration on raw values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from transpike.rules import LocalThresholdBalancing, PerLayer


def measured(rule: LocalThresholdBalancing, *rows: np.ndarray) -> np.ndarray:
    statistic = rule.statistic()
    for batch in rows:
        statistic.update(torch.from_numpy(batch))
    return statistic.result().double().numpy()


def test_two_iterations_by_hand():
    """Values -1, 0, 1, 4 at rate 1/4: theta is 0, then 0.5 * 5/4 = 0.625, then 0.625 + 0.5 * 3.75/4 = 1.09375."""
    values = np.array([[-1.0, 0.0, 1.0, 4.0]])
    for iterations, theta in ((1, 0.625), (2, 1.09375)):
        (ours,) = measured(LocalThresholdBalancing(iterations, 0.25), values)
        assert ours == pytest.approx(theta, abs=4.0 / 4096)


@pytest.mark.parametrize("iterations", [1, 10, 300])
def test_equals_the_iteration_on_raw_values(iterations: int):
    generator = np.random.default_rng(iterations)
    z = generator.normal(0.0, 1.0, (3, 5000)) * np.array([[1e-3], [1.0], [50.0]])
    theta = np.zeros((3, 1))
    for _ in range(iterations):
        theta = theta + 2 * np.maximum(z - theta, 0).mean(1, keepdims=True)
    ours = measured(LocalThresholdBalancing(iterations), z[:, :100], z[:, 100:])
    np.testing.assert_allclose(ours, theta[:, 0], atol=0, rtol=2e-3)


def test_the_fixed_point_clips_nothing():
    """``mean(max(z - theta, 0)) = 0``: theta comes to the maximum from below, and never exceeds it."""
    z = np.random.default_rng(0).uniform(-1.0, 3.0, (1, 2000))
    found = [measured(LocalThresholdBalancing(n), z)[0] for n in (1, 10, 100, 1000, 8000)]
    assert found == sorted(found)
    assert found[-1] <= z.max() < found[-1] * 1.002
    always = np.full((1, 10), 2.0)
    assert measured(LocalThresholdBalancing(5), always)[0] == pytest.approx(2.0)


def test_silent_rows_have_no_threshold():
    assert measured(LocalThresholdBalancing(5), np.array([[-1.0, 0.0], [1.0, 1.0]]))[0] == 0


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"rate": 0.0}, {"rate": math.nan}, {"rate": math.inf}])
def test_settings_outside_their_range_are_refused(settings: dict[str, float]):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LocalThresholdBalancing(granularity=PerLayer(), **settings)
