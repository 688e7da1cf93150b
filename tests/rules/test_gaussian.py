"""The Gaussian threshold against numerical integration of the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from transpike.rules import GaussianMSE, MinimumMSE, PerChannel, PerLayer


def spoken(z: np.ndarray, theta: float, steps: int) -> np.ndarray:
    return theta / steps * np.clip(np.floor(steps * z / theta + 0.5), 0, steps)


def grid(mean: float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Values and their weights."""
    z = mean + deviation * np.linspace(-9, 9, 20001)
    weight = np.exp(-(((z - mean) / deviation) ** 2) / 2)
    return z, weight / weight.sum()


def normal_rows(moments: list[tuple[float, float]], count: int = 4000) -> torch.Tensor:
    """Rows with exactly these means and deviations."""
    rows = torch.randn(len(moments), count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)
    mean, deviation = torch.tensor(moments, dtype=torch.float64).T.unsqueeze(2)
    return mean + deviation * rows


def thresholds(steps: int, *batches: torch.Tensor) -> torch.Tensor:
    statistic = GaussianMSE(steps, PerChannel()).statistic()
    for batch in batches:
        statistic.update(batch)
    return statistic.result()


MOMENTS = [(0.0, 1.0), (-1.5, 1.0), (0.7, 0.5), (-40.0, 20.0), (3e-4, 2e-4), (5.0, 1.0)]


@pytest.mark.parametrize("steps", [1, 2, 4, 16, 128])
def test_no_threshold_is_better_under_the_normal_distribution(steps: int):
    found = thresholds(steps, normal_rows(MOMENTS))
    for (mean, deviation), theta in zip(MOMENTS, found.tolist(), strict=True):
        z, weight = grid(mean, deviation)

        def error(theta: float, z: np.ndarray = z, weight: np.ndarray = weight) -> float:
            return float(weight @ (np.maximum(z, 0) - spoken(z, theta, steps)) ** 2)

        top = (mean + 8 * deviation) * steps / (steps - 0.5)
        least = min(error(theta) for theta in np.geomspace(top / 500, top, 200))
        assert error(theta) <= 1.003 * least


@pytest.mark.parametrize("steps", [1, 2, 4, 16, 128])
def test_it_is_the_fixed_point(steps: int):
    """``k = E[z q]/E[q^2] = 1``, by sums over a fine grid."""
    for (mean, deviation), theta in zip(MOMENTS, thresholds(steps, normal_rows(MOMENTS)).tolist(), strict=True):
        z, weight = grid(mean, deviation)
        q = spoken(z, theta, steps)
        assert weight @ (z * q) / (weight @ (q * q)) == pytest.approx(1.0, abs=1e-3)


def test_one_spike_and_a_standard_normal_by_hand():
    """``theta = E[z | z > theta/2]``, so ``theta = density(theta/2) / probability(theta/2)``: theta is 1.2240."""
    (theta,) = thresholds(1, normal_rows([(0.0, 1.0)])).tolist()
    assert theta == pytest.approx(1.2240, abs=2e-3)


def test_moments_come_in_batches_of_any_size_and_with_large_means():
    rows = normal_rows([(0.5, 1.0), (1e6, 1.0)])
    whole = thresholds(4, rows)
    torch.testing.assert_close(thresholds(4, rows[:, :1], rows[:, 1:7], rows[:, 7:]), whole)
    assert thresholds(4, rows.float()).dtype == torch.float32


def test_agrees_with_the_histogram_on_normal_data():
    z = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(1))
    for steps in (1, 4, 16):
        statistic = MinimumMSE(steps).statistic()
        statistic.update(PerLayer().rows(z))
        assert float(thresholds(steps, z.T)) == pytest.approx(float(statistic.result()), rel=0.03)


def test_silent_and_constant_rows():
    constant = torch.tensor([[2.5, 2.5], [-1.0, -1.0], [0.0, 0.0], [-9.0, -8.0]])
    assert thresholds(4, constant).tolist() == [2.5, 0.0, 0.0, 0.0]


def test_steps_outside_their_range_are_refused():
    with pytest.raises(ValueError, match="steps must lie in 1 to 1024"):
        GaussianMSE(0)
