"""The threshold of least squared error against brute force on the raw values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transpike.rules import MinimumMSE, PerChannel, PerLayer
from transpike.rules.thresholds.histogram import BINS, GrowingHistogram, Tails


def error(values: np.ndarray, theta: float, steps: int) -> float:
    """The definition, in float64."""
    levels = np.clip(np.floor(steps * values / theta + 0.5), 0, steps)
    return float(np.sum((np.maximum(values, 0.0) - theta / steps * levels) ** 2))


def least_error(values: np.ndarray, steps: int) -> float:
    """Of 3000 thresholds up to the one from which on the highest level is never reached."""
    largest = values.max() * steps / (steps - 0.5)
    return min(error(values, theta, steps) for theta in np.geomspace(largest / 1000, largest, 3000))


def measured(rule: MinimumMSE, batches: list[np.ndarray]) -> np.ndarray:
    statistic = rule.statistic()
    for batch in batches:
        statistic.update(rule.granularity.rows(torch.from_numpy(batch)))
    return statistic.result().double().numpy()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 32, 256])
@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "sparse"])
def test_no_threshold_is_better(steps: int, kind: str):
    generator = np.random.default_rng(steps)
    values = {
        "normal": generator.normal(0.3, 2.0, 4000),
        "laplace": generator.laplace(-0.5, 1.0, 4000),
        "uniform": generator.uniform(-1.0, 3.0, 4000),
        "sparse": generator.lognormal(0.0, 1.0, 4000) * (generator.random(4000) < 0.05) - 0.01,
    }[kind].astype(np.float32)
    (theta,) = measured(MinimumMSE(steps), [values[:1000].reshape(-1, 1), values[1000:].reshape(-1, 1)])
    exact = values.astype(np.float64)
    assert error(exact, theta, steps) <= 1.005 * least_error(exact, steps)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), steps=st.integers(1, 16), count=st.integers(1, 30), scale=st.floats(1e-6, 1e6))
def test_few_values_at_any_scale(seed: int, steps: int, count: int, scale: float):
    """With few values the error has many local minima. A bin more or less of every value is its own error."""
    values = np.random.default_rng(seed).normal(0.2, 1.0, count).astype(np.float32) * np.float32(scale)
    values[0] = abs(values[0]) + np.float32(scale)
    (theta,) = measured(MinimumMSE(steps), [values.reshape(-1, 1)])
    values = values.astype(np.float64)
    slack = np.sqrt(len(values)) * values.max() / 2000
    assert error(values, theta, steps) ** 0.5 <= 1.03 * least_error(values, steps) ** 0.5 + slack


@pytest.mark.parametrize(("steps", "theta"), [(1, 3.0), (2, 3.0), (7, 3.0)])
def test_a_single_value_is_said_exactly(steps: int, theta: float):
    (ours,) = measured(MinimumMSE(steps), [np.array([[3.0], [-5.0], [0.0]], dtype=np.float32)])
    assert ours == pytest.approx(theta, rel=2e-3)


def test_one_spike_by_hand():
    """T = 1, values 1, 1, 4: theta = 4 says 0, 0, 4 with error 2; theta = 2 says 2, 2, 2 with error 6."""
    (ours,) = measured(MinimumMSE(1), [np.array([[1.0], [1.0], [4.0]])])
    assert ours == pytest.approx(4.0, rel=2e-3)
    (ours,) = measured(MinimumMSE(1), [np.array([[1.0], [1.0], [1.0], [1.6]])])
    assert ours == pytest.approx(1.15, rel=2e-3)  # the mean: all of them fire


def test_channels_are_searched_apart_and_silent_ones_have_none():
    generator = np.random.default_rng(0)
    scales = np.array([1e-3, 1.0, 1e4]).reshape(3, 1)
    z = generator.normal(0.1, 1.0, (50, 3, 20)) * scales
    z = np.concatenate([z, -np.abs(z[:, :1])], 1)
    together = measured(MinimumMSE(4, PerChannel()), [z[:20], z[20:]])
    assert together[3] == 0
    for channel in range(3):
        (alone,) = measured(MinimumMSE(4, PerLayer()), [z[:20, channel], z[20:, channel]])
        assert together[channel] == pytest.approx(alone, rel=1e-12)


def test_the_threshold_grows_with_the_steps():
    z = np.random.default_rng(1).normal(0.0, 1.0, (20000, 1))
    found = [measured(MinimumMSE(steps), [z])[0] for steps in (1, 4, 16, 64, 1024)]
    assert found == sorted(found)
    assert 0.9 * z.max() < found[-1] <= 1.001 * z.max()


@pytest.mark.parametrize("steps", [0, -1, 1025])
def test_steps_outside_their_range_are_refused(steps: int):
    with pytest.raises(ValueError, match="steps must lie in 1 to 1024"):
        MinimumMSE(steps)


def test_tails_count_and_sum_what_lies_above():
    """Places at the edges of bins: exact numbers; the sum to half a bin per value."""
    values = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, 0] = 1.0
    histogram = GrowingHistogram(3, values)
    histogram.add(values)
    tails = Tails(histogram)
    places = torch.tensor([[0, 17, 4096, 8191]]).expand(3, -1).double()
    count, total = tails.above(places)
    for row in range(3):
        for column, place in enumerate(places[row].tolist()):
            above = values[row][values[row] * BINS >= place]
            assert int(count[row, column]) == len(above)
            assert float(total[row, column]) == pytest.approx(float(above.sum()) * BINS, abs=0.5 * len(above))
    halves, _ = tails.above(places[:, :3] + 0.5)
    nexts, _ = tails.above(places[:, :3] + 1)
    torch.testing.assert_close(halves, (count[:, :3] + nexts) / 2)
