"""What this machine could do at most, and what spikes ask of it: the share of the limit that a stage reaches.

The limit of a stage is the longer of two times (a roofline): that of its additions, at the rate at which all threads
add up numbers in their first caches, and that of the bytes that it must move, at the rate at which all threads read a
buffer of that size again and again. Its share of the limit is that time over the measured one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from transpike.engine.spike_map import Source
from transpike.kernels import native

_SIZES = (2**14, 2**17, 2**19, 2**22, 2**23, 2**26)
"""Bytes per thread: in the first cache of usual CPUs, the second, at its end, twice in the third, in memory."""

_CALL = 3e-3
"""Seconds that one measurement shall take: far more than the start of the threads."""


@dataclass(frozen=True)
class Peaks:
    """What all threads did at most.

    Attributes:
        additions: float32 additions per second, each with an operand from the first cache: the best of all instruction
            sets of this CPU.
        reading: pairs of the size of a buffer in bytes, all threads together, and bytes per second, by size.
    """

    additions: float
    reading: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        if self.additions <= 0 or not self.reading or any(rate <= 0 for _, rate in self.reading):
            raise ValueError("peaks must be positive, and there must be one for reading")
        if [size for size, _ in self.reading] != sorted({size for size, _ in self.reading}):
            raise ValueError("sizes of buffers must rise")

    def bandwidth(self, size: int) -> float:
        """Bytes per second of the smallest measured buffer that holds ``size`` bytes, else of the largest."""
        return next((rate for held, rate in self.reading if held >= size), self.reading[-1][1])

    def seconds(self, additions: int, size: int) -> float:
        """The least time for these additions and bytes: the longer of both, since a CPU does them side by side."""
        return max(additions / self.additions, size / self.bandwidth(size))


def measure_peaks(sizes: Sequence[int] = _SIZES, repeats: int = 7) -> Peaks:
    """Measures what this machine does at most, in about a second.

    Args:
        sizes: bytes per thread, multiples of 512; the first stays in the first cache.
        repeats: measurements, of which the fastest counts.

    Raises:
        RuntimeError: the native kernels are not there.
    """
    module = native.module()
    threads, chosen = module.threads(), module.instruction_set()
    first = torch.ones(threads, sizes[0] // 4)
    additions = 0.0
    try:
        for name in module.instruction_sets():
            module.use_instruction_set(name)
            additions = max(additions, _rate(first, repeats))
    finally:
        module.use_instruction_set(chosen)
    reading = [(threads * size, 4 * _rate(torch.ones(threads, size // 4), repeats)) for size in sizes]
    return Peaks(additions, tuple(reading))


def _rate(rows: Tensor, repeats: int) -> float:
    """Numbers per second that all threads add up."""
    module = native.module()
    passes, best = 1, _seconds(rows, 1)
    while best < _CALL:
        passes *= 2
        best = _seconds(rows, passes)
    for _ in range(repeats):
        best = min(best, _seconds(rows, passes))
    assert module.threads() == rows.shape[0], "the number of threads changed"
    return passes * rows.numel() / best


def _seconds(rows: Tensor, passes: int) -> float:
    begin = time.perf_counter()
    native.module().add_up(rows, passes)
    return time.perf_counter() - begin


def count_additions(source: Source, spikes: Tensor, population: tuple[int, int, int]) -> int:
    """Additions that spikes ask for: each adds one weight, unless it is zero, to every neuron whose window it is in.

    Spikes near a border are in fewer windows. A kernel may need fewer additions, where it looks up
    sums, shares those of two steps, or counts the spikes of a pooled window.

    Args:
        source: the window.
        spikes: how often each neuron of the source's site spiked ``[C, H, W]``, all samples and steps.
        population: (C, H, W) of the neurons that read it.
    """
    fans = [(weights != 0).reshape(weights.shape[0], -1).sum(1, dtype=torch.float64) for weights in source.weights]
    total = 0.0
    for tap in source.taps:
        rows, columns = (
            torch.arange(out) * stride + shift
            for out, stride, shift in zip(population[1:], source.stride, (tap.dy, tap.dx), strict=True)
        )
        rows = rows[(rows >= 0) & (rows < spikes.shape[1])]
        columns = columns[(columns >= 0) & (columns < spikes.shape[2])]
        fan = fans[tap.weights]
        seen = spikes[: fan.shape[0]].double()[:, rows][:, :, columns].sum((1, 2))
        total += float(seen @ fan[: seen.shape[0]])
    return round(total)


def packed_bytes(shape: tuple[int, int, int], batch: int, steps: int) -> int:
    """Bytes of the spikes of (C, H, W) neurons, one bit each, a pixel's channels in whole bytes, without any halo."""
    channels, rows, columns = shape
    return batch * steps * rows * columns * ((channels + 7) // 8)


def weight_bytes(source: Source) -> int:
    """Bytes of a window's weights, each read once."""
    return sum(4 * weights.numel() for weights in source.weights)
