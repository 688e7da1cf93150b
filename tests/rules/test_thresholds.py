"""Threshold rules against NumPy on the same data."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transpike.rules import POTENTIAL_RULES, THRESHOLD_RULES, Maximum, Percentile, PerChannel, PerLayer
from transpike.rules.contract import Part, PotentialRule, ThresholdRule, fill_silent
from transpike.rules.thresholds.histogram import BINS


def measured(rule: ThresholdRule, batches: list[np.ndarray]) -> np.ndarray:
    """What the rule makes of pre-activations ``[N, C, *]`` that come batch by batch."""
    statistic = rule.statistic()
    for batch in batches:
        before = torch.from_numpy(batch.copy())
        z = before.clone()
        statistic.update(rule.granularity.rows(z))
        assert torch.equal(z, before)
    return statistic.result().double().numpy()


def rows_of(granularity: PerLayer | PerChannel, batches: list[np.ndarray]) -> list[np.ndarray]:
    """All ReLU outputs in float64, one array per threshold."""
    everything = np.maximum(np.concatenate(batches).astype(np.float64), 0)
    if isinstance(granularity, PerLayer):
        return [everything.ravel()]
    return [everything[:, channel].ravel() for channel in range(everything.shape[1])]


def exact(percentile: float, values: np.ndarray) -> float:
    """numpy's linear percentile of the ReLU outputs; the largest where it falls on zeros."""
    if np.percentile(values, percentile, method="lower") == 0:
        return values.max()
    return np.percentile(values, percentile, method="linear")


def assert_within_a_bin(ours: np.ndarray, percentile: float, rows: list[np.ndarray], precision: int = 9) -> None:
    assert len(ours) == len(rows)
    for value, row in zip(ours, rows, strict=True):
        assert abs(value - exact(percentile, row)) <= 2.0**-precision * exact(percentile, row) * (1 + 1e-6)


def growing(seed: int, dtype: type = np.float32) -> list[np.ndarray]:
    """Five batches whose range grows by 1000, with channels of different scales."""
    generator = np.random.default_rng(seed)
    scales = np.array([1.0, 0.01, 30.0, 5.0]).reshape(4, 1, 1)
    return [(generator.normal(0.2, 1.0, (6, 4, 5, 3)) * scales * 1000.0 ** (i / 4)).astype(dtype) for i in range(5)]


GRANULARITIES = [PerLayer(), PerChannel()]


# ---- maximum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("order", [1, -1])
def test_maximum_is_the_largest_relu_output(granularity, order):
    batches = growing(0)[::order]
    expected = [row.max() for row in rows_of(granularity, batches)]
    np.testing.assert_array_equal(measured(Maximum(granularity), batches), expected)


def test_maximum_of_silent_channels_is_zero():
    batch = np.array([[-1.0, 0.0, 2.0], [-3.0, 0.0, -1.0]], dtype=np.float32)
    np.testing.assert_array_equal(measured(Maximum(PerChannel()), [batch, batch - 1]), [0, 0, 2])


# ---- percentile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("percentile", [0.5, 25.0, 50.0, 90.0, 99.0, 99.9, 99.99, 100.0])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("order", [1, -1])
def test_percentile_equals_numpy_within_a_bin_while_the_range_grows(dtype, percentile, granularity, order):
    batches = growing(1, dtype)[::order]
    ours = measured(Percentile(percentile, granularity), batches)
    assert_within_a_bin(ours, percentile, rows_of(granularity, batches))


@given(
    seed=st.integers(0, 2**16),
    percentile=st.floats(0.1, 100),
    count=st.integers(1, 40),
    batches=st.integers(1, 4),
    sparsity=st.floats(0, 1),
)
def test_percentile_of_few_values_interpolates_like_numpy(seed, percentile, count, batches, sparsity):
    """With few values the two neighbours of the percentile lie many bins apart."""
    generator = np.random.default_rng(seed)
    data = [
        (
            generator.exponential(10.0 ** generator.integers(-2, 3), (count, 2))
            * (generator.random((count, 2)) > sparsity)
        )
        for _ in range(batches)
    ]
    rank = percentile / 100 * (count * batches - 1)
    if abs(rank - round(rank)) < 1e-9:  # then rounding decides on which side of a jump from zero it falls
        percentile = min(percentile + 1e-4, 100.0)
    assert_within_a_bin(measured(Percentile(percentile, PerChannel()), data), percentile, rows_of(PerChannel(), data))


@pytest.mark.parametrize("outlier", [1e3, 1e6, 1e30])
@pytest.mark.parametrize("percentile", [0.01, 50.0, 90.0, 99.9])
def test_an_outlier_of_any_size_leaves_the_percentile_as_fine(outlier, percentile):
    values = np.concatenate([np.random.default_rng(0).uniform(0.5, 1.0, 9999), [outlier]]).astype(np.float32)
    for batches in ([values], np.split(values, 10), np.split(values[::-1], 10)):
        ours = measured(Percentile(percentile), [batch.reshape(-1, 1) for batch in batches])
        assert_within_a_bin(ours, percentile, [values.astype(np.float64)], precision=7)


@st.composite
def hostile_batches(draw: st.DrawFn) -> list[np.ndarray]:
    """Batches ``[N, 3]``: values of all sizes, many zeros, sorted so that maxima or minima grow, or channels apart."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 400))
    exponents = generator.uniform(*sorted(draw(st.tuples(st.floats(-30, 30), st.floats(-30, 30)))), (count, 3))
    values = 10.0**exponents * 10.0 ** (draw(st.floats(-3, 3)) * np.array([0.0, 1.0, -1.0]))
    values *= generator.random((count, 3)) >= draw(st.sampled_from([0.0, 0.5, 0.99]))
    values = values.clip(0, 3e38).astype(draw(st.sampled_from([np.float32, np.float64])))
    order = draw(st.sampled_from(["any", "growing", "falling"]))
    values = values if order == "any" else np.sort(values, 0)[:: 1 if order == "growing" else -1]
    return np.array_split(values.copy(), draw(st.integers(1, 12)))


@settings(max_examples=30)
@given(hostile_batches(), st.one_of(st.floats(0.01, 100), st.sampled_from([50.0, 99.0, 99.9, 100.0])))
def test_a_percentile_of_values_of_any_size_and_order(batches: list[np.ndarray], percentile: float):
    """Float32 has at most 256 octaves, so at least 2^6 bins are left per octave."""
    for granularity in GRANULARITIES:
        rows = rows_of(granularity, batches)
        rank = percentile / 100 * (len(rows[0]) - 1)
        if abs(rank - round(rank)) < 1e-9:  # rounding decides on which side of a jump it falls
            percentile = min(percentile + 1e-4, 100.0)
        spans = [np.log2(row.max() / row[row > 0].min()) if row.any() else 0.0 for row in rows]
        precision = min(9, 14 - math.ceil(math.log2(max(spans) + 2)))
        statistic = Percentile(percentile, granularity).statistic()
        for batch in batches:
            statistic.update(granularity.rows(torch.from_numpy(batch)))
        assert statistic.histogram.precision >= precision
        assert statistic.histogram.counts.shape == (len(rows), BINS)
        counted = statistic.histogram.zeros + statistic.histogram.counts.sum(1)
        assert counted.tolist() == [len(row) for row in rows]
        assert_within_a_bin(statistic.result().double().numpy(), percentile, rows, precision)


def test_a_percentile_between_two_distant_values_by_hand():
    """Ten values: place 0.95 * 9 = 8.55 lies 55 % of the way from the ninth to the tenth."""
    values = np.array([1, 1, 1, 1, 1, 1, 1, 1, 2, 102.0]).reshape(-1, 1)
    (ours,) = measured(Percentile(95.0), [values])
    assert ours == pytest.approx(57.0, rel=2.0**-9)


def test_a_channel_active_in_less_than_a_thousandth_takes_its_largest_activation():
    z = np.full((5000, 3), -1.0, dtype=np.float32)
    z[:3, 0] = [2.0, 7.0, 3.0]  # 0.06 %: the 99.9 percentile is zero
    z[:50, 1] = np.arange(1, 51)  # 1 %: it is not
    ours = measured(Percentile(99.9, PerChannel()), [z[:100], z[100:]])
    assert ours[0] == 7.0
    assert ours[1] == pytest.approx(np.percentile(np.maximum(z[:, 1], 0), 99.9), rel=2.0**-9)
    assert ours[2] == 0.0


@pytest.mark.parametrize("percentile", [50.0, 99.9, 100.0])
def test_channels_that_never_are_positive_have_percentile_zero(percentile):
    silent = np.stack([np.zeros(20), np.linspace(-5, -1, 20), np.linspace(-5, 0, 20)], 1)
    np.testing.assert_array_equal(measured(Percentile(percentile, PerChannel()), [silent, silent]), [0, 0, 0])


def test_a_channel_that_wakes_up_late_counts_its_earlier_zeros():
    asleep, awake = np.zeros((90, 1)), np.arange(1.0, 11.0).reshape(10, 1)
    (ours,) = measured(Percentile(95.0), [asleep, awake])
    assert ours == pytest.approx(np.percentile(np.concatenate([asleep, awake]), 95.0), rel=2.0**-9)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e30])
def test_percentile_stands_extreme_ranges(scale):
    """Among them subnormal numbers, whose reciprocal is infinite."""
    values = (np.arange(1, 101) * scale).astype(np.float32).reshape(-1, 1)
    ours = measured(Percentile(90.0), [values])
    assert_within_a_bin(ours, 90.0, [values.astype(np.float64).ravel()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_percentile_of_half_precision_data_is_as_fine(dtype):
    values = torch.linspace(0.01, 1, 4000).to(dtype).view(-1, 1)
    statistic = Percentile(90.0).statistic()
    statistic.update(values.view(1, -1))
    assert float(statistic.result()) == pytest.approx(np.percentile(values.double().numpy(), 90.0), rel=2.0**-9)


@pytest.mark.parametrize("value", [0.0, -1.0, 100.001, math.nan, math.inf])
def test_percentile_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match="percentile"):
        Percentile(value)


# ---- granularity and silent channels -----------------------------------------------------------------------------


@pytest.mark.parametrize("tail", [(), (4,), (4, 5), (2, 4, 5)])
def test_per_channel_fits_populations_of_two_to_five_dimensions(tail):
    z = torch.arange(6.0 * math.prod(tail)).view(2, 3, *tail)
    rows = PerChannel().rows(z)
    assert rows.shape == (3, 2 * math.prod(tail))
    for channel in range(3):
        assert sorted(rows[channel].tolist()) == sorted(z[:, channel].flatten().tolist())
    values = torch.tensor([1.0, 2.0, 4.0])
    theta = PerChannel().shape(values, z.dim())
    assert theta.shape == (3, *[1] * len(tail))
    for channel in range(3):
        assert bool((theta.expand(z.shape[1:])[channel] == values[channel]).all())


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 4)])
def test_per_layer_takes_everything_and_gives_a_scalar(shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert sorted(PerLayer().rows(z)[0].tolist()) == sorted(z.flatten().tolist())
    theta = PerLayer().shape(torch.tensor([2.5]), len(shape))
    assert theta.shape == ()
    assert theta.item() == 2.5


def test_silent_channels_take_the_largest_threshold_of_the_others():
    assert fill_silent(torch.tensor([0.5, 0.0, 3.0, 0.0])).tolist() == [0.5, 3.0, 3.0, 3.0]
    assert fill_silent(torch.tensor([0.5, 2.0])).tolist() == [0.5, 2.0]
    assert fill_silent(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    assert fill_silent(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


def test_rules_are_frozen_records_in_the_tables():
    assert Percentile().percentile == 99.9
    assert Percentile().granularity == Maximum().granularity == PerLayer()
    for kind in (*THRESHOLD_RULES.values(), *POTENTIAL_RULES.values()):
        assert issubclass(kind, Part)
        assert (kind in THRESHOLD_RULES.values()) != issubclass(kind, PotentialRule)
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen
