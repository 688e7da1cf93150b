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
    assert error(exact, theta, steps) <= (1.005 if steps < 100 else 1.02) * least_error(exact, steps)


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
    """Places at the edges of bins: exact numbers; the sum to half a bin of every value."""
    values = torch.rand(3, 5000, generator=torch.Generator().manual_seed(0)).square() * torch.tensor([[1], [8], [1e9]])
    values[:, 0] = torch.tensor([1.0, 8.0, 1e9])
    histogram = GrowingHistogram(3, values)
    for batch in values.split(700, dim=1):
        histogram.add(batch)
    tails, edges = Tails(histogram), histogram.edges()
    places = edges / tails.unit.unsqueeze(1)
    count, total = tails.above(places)
    for row in range(3):
        exact = values[row].double()
        some = range(0, BINS, 401)
        for column in some:
            above = exact[exact >= edges[row, column]] if edges[row, column] < exact.max() else exact[:0]
            assert int(count[row, column]) == len(above)
            found = float(total[row, column] * tails.unit[row])
            assert found == pytest.approx(float(above.sum()), rel=2.0**-histogram.precision)
        assert len({int(count[row, column]) for column in some}) > 20
    middle = tails.above((places[:, :-1] + places[:, 1:]) / 2)[0]
    inside = places[:, 1:] < 1  # the last bin ends at the largest value, which does not lie above itself
    expected = (count[:, :-1] + count[:, 1:]) / 2
    torch.testing.assert_close(middle[inside], expected[inside], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 16])
def test_rare_outliers_leave_the_search_its_range(steps: int):
    """Where outliers are rare enough, the best threshold lies below a thousandth of the largest value."""
    distinct = np.random.default_rng(3).uniform(0.5, 1.0, 1000).astype(np.float32)
    (theta,) = measured(MinimumMSE(steps), [np.append(np.tile(distinct, 3000), np.float32(1200.0)).reshape(-1, 1)])

    def total(theta: float) -> float:
        return 3000 * error(distinct.astype(np.float64), theta, steps) + error(np.array([1200.0]), theta, steps)

    assert theta < 1.5
    assert total(theta) <= 1.005 * min(map(total, np.geomspace(0.2, 3000.0, 2000)))
