"""What the machine does at most, and the work of spikes, counted by torch's own convolution of ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from transpike.bench import Peaks, count_additions, measure_peaks
from transpike.bench.limits import packed_bytes, weight_bytes
from transpike.engine.spike_map import Source, Tap


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 99)
)
def test_additions_are_the_sum_of_a_convolution_of_ones(inside, outside, kernel, stride, padding, seed) -> None:
    generator = torch.Generator().manual_seed(seed)
    spikes = torch.randint(0, 4, (inside, 6, 5), generator=generator)
    weight = torch.randint(0, 2, (outside, inside, kernel, kernel), generator=generator).float()  # half of them zero
    places = [(dy, dx) for dy in range(kernel) for dx in range(kernel)]
    source = Source(
        "in",
        (stride, stride),
        tuple(Tap(dy - padding, dx - padding, index) for index, (dy, dx) in enumerate(places)),
        tuple(weight[:, :, dy, dx].T for dy, dx in places),
    )
    currents = F.conv2d(spikes.double().unsqueeze(0), weight.double(), stride=stride, padding=padding)[0]
    assert count_additions(source, spikes, tuple(currents.shape)) == int(currents.sum())


def test_additions_of_a_channel_wise_map() -> None:
    spikes = torch.tensor([[[1, 0], [2, 0]], [[0, 0], [0, 3]], [[5, 0], [0, 0]]])
    shortcut = Source("in", (1, 1), (Tap(0, 0, 0),), (torch.tensor([1.0, 0.5, 0.0]),))
    assert count_additions(shortcut, spikes, (3, 2, 2)) == 1 + 2 + 3
    pool = Source("in", (2, 2), tuple(Tap(dy, dx, 0) for dy in (0, 1) for dx in (0, 1)), (torch.full((3,), 0.25),))
    assert count_additions(pool, spikes, (3, 1, 1)) == 1 + 2 + 3 + 5
    assert weight_bytes(pool) == 12


def test_packed_bytes() -> None:
    assert packed_bytes((9, 3, 5), 2, 4) == 2 * 4 * 15 * 2


def test_the_least_time_is_the_longer_one() -> None:
    peaks = Peaks(additions=100.0, reading=((64, 80.0), (256, 8.0)))
    assert peaks.seconds(200, 64) == 2.0
    assert peaks.seconds(10, 64) == 0.8
    assert peaks.seconds(10, 65) == 65 / 8  # does not fit the smaller buffer
    assert peaks.seconds(10, 1000) == 125.0


@pytest.mark.parametrize(("additions", "reading"), [(0.0, ((1, 1.0),)), (1.0, ()), (1.0, ((2, 1.0), (1, 1.0)))])
def test_peaks_are_checked(additions, reading) -> None:
    with pytest.raises(ValueError, match="must"):
        Peaks(additions, reading)


def test_peaks_are_measured_with_every_instruction_set() -> None:
    module = pytest.importorskip("transpike.kernels._native")
    before = module.instruction_set()
    peaks = measure_peaks(sizes=(4096, 8192), repeats=1)
    assert module.instruction_set() == before
    assert [size for size, _ in peaks.reading] == [module.threads() * 4096, module.threads() * 8192]
    assert 1e7 < peaks.additions < 1e13
