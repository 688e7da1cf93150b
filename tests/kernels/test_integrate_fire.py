"""The integrate-and-fire kernels: trajectories by hand, the released code, and every invariant of the neuron."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike.kernels import KernelPreference, integrate_fire, native, triton
from transpike.kernels.reference import fire

KERNELS = [KernelPreference.REFERENCE, KernelPreference.EAGER]
if native.load()[0] is not None:
    KERNELS.append(KernelPreference.NATIVE)
if triton.interpreted():  # test_triton.py runs this file so
    KERNELS.append(KernelPreference.TRITON)
ALL = [*KERNELS, KernelPreference.AUTO]


def column(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype).unsqueeze(1)


# ---- trajectories by hand ----------------------------------------------------------------------------------------
# theta, soft reset, then per step: drive, u before reset, event, v after reset

TRAJECTORIES = {
    "soft, v(0) = 1/2": (
        1.0,
        True,
        0.5,
        [
            (0.25, 0.75, 0, 0.75),
            (0.25, 1.0, 1, 0.0),  # fires on equality
            (1.5, 1.5, 1, 0.5),
            (0.5, 1.0, 1, 0.0),
            (-1.0, -1.0, 0, -1.0),  # may go below zero
            (1.0, 0.0, 0, 0.0),
        ],
    ),
    "hard, v(0) = 1/2": (
        1.0,
        False,
        0.5,
        [
            (0.25, 0.75, 0, 0.75),
            (0.25, 1.0, 1, 0.0),
            (1.5, 1.5, 1, 0.0),  # what lay above theta is lost
            (0.5, 0.5, 0, 0.5),
            (-1.0, -0.5, 0, -0.5),
            (1.0, 0.5, 0, 0.5),
        ],
    ),
    "soft, one event per step however large the drive": (
        2.0,
        True,
        0.0,
        [(7.0, 7.0, 1, 5.0), (0.0, 5.0, 1, 3.0), (0.0, 3.0, 1, 1.0), (0.5, 1.5, 0, 1.5), (0.5, 2.0, 1, 0.0)],
    ),
    "hard, negative potentials stay": (
        2.0,
        False,
        -1.0,
        [(2.5, 1.5, 0, 1.5), (0.75, 2.25, 1, 0.0), (-0.25, -0.25, 0, -0.25), (2.25, 2.0, 1, 0.0)],
    ),
}


@pytest.mark.parametrize("name", TRAJECTORIES)
@pytest.mark.parametrize("kernel", ALL)
def test_trajectory_by_hand(name, kernel):
    theta, soft, start, steps = TRAJECTORIES[name]
    drive, _, events, potentials = (column(*values) for values in zip(*steps, strict=True))
    v = column(start)[0]
    for length in range(1, len(steps) + 1):
        s, last = integrate_fire(drive[:length], v, torch.tensor(theta).double(), soft_reset=soft, kernel=kernel)
        assert torch.equal(s, events[:length])
        assert torch.equal(last, potentials[length - 1])


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_the_step_of_the_specification_by_hand(name):
    theta, soft, start, steps = TRAJECTORIES[name]
    v = torch.tensor(start).double()
    for drive, u, event, after in steps:
        assert v.item() + drive == u
        v, s = fire(v, torch.tensor(drive).double(), torch.tensor(theta).double(), soft)
        assert (s.item(), v.item()) == (event, after)


@pytest.mark.parametrize("kernel", KERNELS)
def test_thresholds_per_channel_by_hand(kernel):
    drive = torch.ones(4, 1, 3, 1)  # one sample, three channels, one pixel
    theta = torch.tensor([1.0, 2.0, 4.0]).view(3, 1)
    events, v = integrate_fire(drive, torch.zeros(1, 3, 1), theta, kernel=kernel)
    assert events[:, 0, :, 0].T.tolist() == [[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    assert v.flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("kernel", ALL)
def test_spikes_equal_the_released_code(kernel, released_code):
    drive = torch.from_numpy(released_code["if_drive"])
    events, _ = integrate_fire(drive, torch.full(drive.shape[1:], 0.5), torch.tensor(1.0), kernel=kernel)
    assert torch.equal(events, torch.from_numpy(released_code["if_spikes"]).to(events.dtype))
    assert 0 < events.mean() < 1


# ---- drawn cases -------------------------------------------------------------------------------------------------


def numbers(generator: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
    """Multiples of 1/64 as float64."""
    return torch.from_numpy(np.asarray(generator.integers(low, high, shape) / 64))


LAYOUTS = ("contiguous", "time last", "reversed dimensions", "every other", "constant in time", "one sample")


@st.composite
def cases(draw, layouts=LAYOUTS):
    """A drive with an odd shape and layout, with theta and v(0) of every legal shape; all numbers dyadic."""
    steps = draw(st.integers(1, 64))
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5, 7]), min_size=1, max_size=4)))
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    layout = draw(st.sampled_from(layouts))
    full = (steps, *shape)
    if layout == "contiguous":
        drive = numbers(generator, full, -96, 160)
    elif layout == "time last":
        drive = numbers(generator, (*shape, steps), -96, 160).movedim(-1, 0)
    elif layout == "reversed dimensions":
        drive = numbers(generator, full[::-1], -96, 160).permute(*reversed(range(len(full))))
    elif layout == "every other":
        drive = numbers(generator, (2 * steps, *shape), -96, 160)[::2]
    elif layout == "constant in time":
        drive = numbers(generator, (1, *shape), -96, 160).expand(full)
    else:
        drive = numbers(generator, (steps, 1, *shape[1:]), -96, 160).expand(full)
    channels = shape[1] if len(shape) > 1 else 1
    per_channel = (channels, *[1] * (len(shape) - 2)) if len(shape) > 1 else ()
    theta = numbers(generator, draw(st.sampled_from([(), per_channel])), 1, 128)
    v_shape = draw(st.sampled_from([(), per_channel, shape[1:], shape]))
    v = numbers(generator, v_shape, -64, 128).expand(shape)
    return drive, v, theta


def both_dtypes(*tensors: torch.Tensor):
    return (tuple(tensor.to(dtype) for tensor in tensors) for dtype in (torch.float64, torch.float32))


@given(case=cases(), soft=st.booleans())
def test_eager_equals_the_reference_on_dyadic_numbers(case, soft):
    for drive, v, theta in (case, *both_dtypes(*case)):
        before = [tensor.clone() for tensor in (drive, v, theta)]
        expected = integrate_fire(drive, v, theta, soft_reset=soft, kernel=KernelPreference.REFERENCE)
        actual = integrate_fire(drive, v, theta, soft_reset=soft, kernel=KernelPreference.EAGER)
        for a, b in zip(actual, expected, strict=True):
            assert torch.equal(a, b)
            assert a.dtype == b.dtype == drive.dtype
            assert a.is_contiguous()
            assert b.is_contiguous()
        for tensor, old in zip((drive, v, theta), before, strict=True):
            assert torch.equal(tensor, old)  # inputs are left alone


def in_whole_numbers(drive: torch.Tensor, v: torch.Tensor, theta: torch.Tensor, soft: bool):
    """The neuron in integers (units of 1/64), neuron by neuron, in plain Python."""
    units = [np.broadcast_to(np.rint(64 * x.numpy()).astype(int), drive.shape[1:]).ravel() for x in (v, theta)]
    currents = np.rint(64 * drive.numpy()).astype(int).reshape(drive.shape[0], -1)
    events = np.zeros_like(currents)
    last = []
    for i, (u, threshold) in enumerate(zip(*units, strict=True)):
        for t, current in enumerate(currents[:, i]):
            u = u + current
            if u >= threshold:
                events[t, i] = 1
                u = u - threshold if soft else 0
        last.append(u / 64)
    return events.reshape(drive.shape), np.array(last).reshape(drive.shape[1:])


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases(), soft=st.booleans())
def test_kernels_equal_whole_number_arithmetic(kernel, case, soft):
    events, v = integrate_fire(*case, soft_reset=soft, kernel=kernel)
    expected_events, expected_v = in_whole_numbers(*case, soft)
    np.testing.assert_array_equal(events.numpy(), expected_events)
    np.testing.assert_array_equal(v.numpy(), expected_v)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("soft", [True, False])
def test_kernels_agree_in_half_precision(dtype, soft):
    generator = np.random.default_rng(5)
    drive = numbers(generator, (9, 3, 5), -32, 64).to(dtype)
    v, theta = torch.full((3, 5), 0.5, dtype=dtype), torch.tensor(1.0, dtype=dtype)
    a = integrate_fire(drive, v, theta, soft_reset=soft, kernel=KernelPreference.REFERENCE)
    b = integrate_fire(drive, v, theta, soft_reset=soft, kernel=KernelPreference.EAGER)
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert a[0].dtype == b[0].dtype == dtype


# ---- invariants --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases())
def test_soft_reset_loses_nothing(kernel, case):
    """v(T) = v(0) + sum of the drive - theta * count, and 0 <= count <= T with events of 0 and 1."""
    drive, v, theta = case
    events, last = integrate_fire(drive, v, theta, kernel=kernel)
    count = events.sum(0)
    assert torch.equal(last, v + drive.sum(0) - theta * count)
    assert bool(((events == 0) | (events == 1)).all())
    assert bool(((count >= 0) & (count <= len(drive))).all())


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    steps=st.integers(1, 64),
    theta=st.integers(1, 200),
    start=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**16),
)
def test_constant_drive_gives_the_expected_count(kernel, steps, theta, start, seed):
    """count = clip(floor((v0 + T x) / theta), 0, T) for v0 in [0, theta), in whole numbers."""
    x = np.random.default_rng(seed).integers(-theta, 2 * theta + 1, 40)
    v0 = int(start * theta)
    drive = torch.from_numpy(x / 64).expand(steps, 40)
    v = torch.full((40,), v0 / 64, dtype=torch.float64)
    events, _ = integrate_fire(drive, v, torch.tensor(theta / 64, dtype=torch.float64), kernel=kernel)
    np.testing.assert_array_equal(events.sum(0).numpy(), np.clip((v0 + steps * x) // theta, 0, steps))


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases())
def test_count_recursion(kernel, case):
    """N(t) = max(N(t-1), min(N(t-1) + 1, floor((v0 + C(t)) / theta))) with C the running sum of the drive."""
    drive, v, theta = case
    events, _ = integrate_fire(drive, v, theta, kernel=kernel)
    counts = events.cumsum(0).numpy().astype(int)
    currents, start, threshold = (np.rint(64 * x.numpy()).astype(int) for x in (drive, v, theta))
    total, before = start, np.zeros(drive.shape[1:], dtype=int)
    for t, current in enumerate(currents):
        total = total + current
        before = np.maximum(before, np.minimum(before + 1, total // threshold))
        np.testing.assert_array_equal(counts[t], before)


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases(), soft=st.booleans(), exponent=st.integers(-12, 12))
def test_scaling_by_a_power_of_two_changes_no_spike(kernel, case, soft, exponent):
    drive, v, theta = case
    scale = 2.0**exponent
    events, last = integrate_fire(drive, v, theta, soft_reset=soft, kernel=kernel)
    scaled = integrate_fire(drive * scale, v * scale, theta * scale, soft_reset=soft, kernel=kernel)
    assert torch.equal(scaled[0], events)
    assert torch.equal(scaled[1], last * scale)


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases(), soft=st.booleans(), cuts=st.lists(st.integers(1, 63), max_size=5))
def test_cutting_time_into_chunks_changes_nothing(kernel, case, soft, cuts):
    drive, v, theta = case
    events, last = integrate_fire(drive, v, theta, soft_reset=soft, kernel=kernel)
    borders = sorted({0, len(drive), *(cut for cut in cuts if cut < len(drive))})
    parts = []
    for begin, end in itertools.pairwise(borders):
        part, v = integrate_fire(drive[begin:end], v, theta, soft_reset=soft, kernel=kernel)
        parts.append(part)
    assert torch.equal(torch.cat(parts), events)
    assert torch.equal(v, last)


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases(), more=st.integers(0, 256))
def test_counts_grow_with_the_initial_potential(kernel, case, more):
    drive, v, theta = case
    low, _ = integrate_fire(drive, v, theta, kernel=kernel)
    high, _ = integrate_fire(drive, v + more / 64, theta, kernel=kernel)
    assert bool((high.cumsum(0) >= low.cumsum(0)).all())


@pytest.mark.parametrize("kernel", KERNELS)
@given(case=cases(), soft=st.booleans(), seed=st.integers(0, 99))
def test_permuting_the_batch_permutes_the_answer(kernel, case, soft, seed):
    drive, v, theta = case
    order = torch.randperm(drive.shape[1], generator=torch.Generator().manual_seed(seed))
    events, last = integrate_fire(drive, v, theta, soft_reset=soft, kernel=kernel)
    permuted = integrate_fire(drive[:, order], v[order], theta, soft_reset=soft, kernel=kernel)
    assert torch.equal(permuted[0], events[:, order])
    assert torch.equal(permuted[1], last[order])
