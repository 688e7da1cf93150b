"""Single layers with random spikes: what a stage costs depends on its firing rate and on T, not on training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transpike.bench.compare import BenchError
from transpike.bench.limits import Peaks, count_additions, measure_peaks, packed_bytes
from transpike.bench.timing import fastest
from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage
from transpike.kernels import native, reference

LAYERS = ((16, 32), (32, 16), (64, 8), (64, 32), (128, 16), (256, 8), (512, 4), (512, 2))
"""Channels and size of the convolutions of CIFAR networks."""


@dataclass(frozen=True)
class SweepPoint:
    """One 3x3 convolution with its neurons at one firing rate and T, beside one pass of the dense convolution.

    Attributes:
        channels: in and out.
        size: rows and columns.
        rate: share of inputs that spike at a step.
        steps: T.
        spikes: that came in, all samples and steps.
        additions: what they ask for.
        bytes: that must move: packed spikes in and out, weights and initial potentials once.
        milliseconds: of all steps, event by event.
        ratio: to one dense pass.
        nanoseconds_per_addition: of one thread.
        limit: the least time for the additions and bytes (`Peaks.seconds`) over the measured one.
    """

    channels: int
    size: int
    rate: float
    steps: int
    spikes: int
    additions: int
    bytes: int
    milliseconds: float
    ratio: float
    nanoseconds_per_addition: float
    limit: float


@dataclass(frozen=True)
class Line:
    """A line of least squares through the times of one layer.

    Attributes:
        channels: of the layer.
        size: of the layer.
        start: milliseconds where the line begins, at T = 0 or without spikes.
        slope: milliseconds per time-step, or per thousand spikes.
        r2: share of the variance of the times that the line explains; small, too, where times do not change at all.
    """

    channels: int
    size: int
    start: float
    slope: float
    r2: float


@dataclass(frozen=True)
class Sweep:
    """Points and lines.

    Attributes:
        batch: samples.
        threads: of the machine, of all calls.
        instruction_set: of the kernels.
        peaks: of the machine.
        by_rate: points of all rates at one T.
        by_steps: points of all T at one rate.
        rate_lines: time against spikes, per layer.
        step_lines: time against T, per layer.
    """

    batch: int
    threads: int
    instruction_set: str
    peaks: Peaks
    by_rate: tuple[SweepPoint, ...]
    by_steps: tuple[SweepPoint, ...]
    rate_lines: tuple[Line, ...]
    step_lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def sweep(
    layers: Sequence[tuple[int, int]] = LAYERS,
    rates: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    step_counts: Sequence[int] = (1, 2, 4, 8, 16, 32),
    *,
    steps: int = 4,
    rate: float = 0.1,
    batch: int = 16,
    repeats: int = 7,
    peaks: Peaks | None = None,
) -> Sweep:
    """Times single layers with random spikes, after a check of their answers.

    Args:
        layers: channels and size.
        rates: shares of inputs that spike, at T = ``steps``.
        step_counts: numbers of steps, at ``rate``.
        steps: T of the points by rate.
        rate: of the points by T.
        batch: samples.
        repeats: calls per point.
        peaks: what the machine does at most; None measures it.

    Raises:
        BenchError: a layer's spikes are not those of the reference.
    """
    peaks = measure_peaks() if peaks is None else peaks
    generator = torch.Generator().manual_seed(0)
    wanted = list(dict.fromkeys([*((each, steps) for each in rates), *((rate, each) for each in step_counts)]))
    calls: dict[tuple[float, ...], Callable[[], Any]] = {}
    counts: dict[tuple[int, int, float, int], Tensor] = {}
    with torch.no_grad():
        for channels, size in layers:
            layer = _Layer(channels, size, batch)
            image = torch.randn(batch, channels, size, size, generator=generator)
            calls[channels, size] = partial(layer.conv, image.contiguous(memory_format=torch.channels_last))
            for each, count in wanted:
                spikes = random_map(layer.shape, batch, count, each, generator)
                counts[channels, size, each, count] = layer.check(spikes, count).double().sum((0, 1))
                calls[channels, size, each, count] = partial(layer.run, spikes, count)
        found = fastest(calls, repeats)
    points = {key: _point(key, spikes, batch, found[key], found[key[:2]], peaks) for key, spikes in counts.items()}
    by_rate = [points[channels, size, each, steps] for channels, size in layers for each in rates]
    by_steps = [points[channels, size, rate, each] for channels, size in layers for each in step_counts]
    module = native.module()
    return Sweep(
        batch,
        module.threads(),
        module.instruction_set(),
        peaks,
        tuple(by_rate),
        tuple(by_steps),
        _lines(by_rate, lambda point: point.spikes / 1000),
        _lines(by_steps, lambda point: float(point.steps)),
    )


class _Layer:
    """A 3x3 convolution and its neurons, as torch operators and as a stage."""

    def __init__(self, channels: int, size: int, batch: int) -> None:
        self.channels, self.size, self.batch = channels, size, batch
        self.conv = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
        self.shape = MapShape(channels, size, size, Halo(1, 1, 1, 1))
        assert self.conv.bias is not None
        self.theta, self.start = torch.ones(()), torch.full((1, 1, channels), 0.5)
        self.stage = EventStage(
            self.shape, [(_source(self.conv.weight.detach()), self.shape)], self.conv.bias, self.theta
        )
        self.stage.set_potential(self.stage.pad(self.start))

    def run(self, spikes: Any, steps: int) -> Any:
        """The spike map of all steps."""
        return self.stage.run({"in": spikes}, None, Rule(RuleKind.PLAIN), self.batch, steps)[0]

    def check(self, spikes: Any, steps: int, tolerance: float = 0.01) -> Tensor:
        """Refuses spikes that differ from the reference's in more than ties; returns those that came in."""
        events = self.shape.unpack(spikes, self.batch, steps, self.theta)
        drive = self.conv(events.flatten(0, 1)).unflatten(0, (steps, -1))
        expected, _ = reference.integrate_fire(drive, torch.full_like(drive[0], 0.5), self.theta, True)
        found = self.shape.unpack(self.run(spikes, steps), self.batch, steps, self.theta)
        flipped = float((found != expected).sum() / expected.sum().clamp_min(1))
        if flipped > tolerance:
            raise BenchError(f"{flipped:.1%} of the spikes of {self.channels} channels differ", fix="report this CPU")
        return events


def _point(
    place: tuple[int, int, float, int], spikes: Tensor, batch: int, seconds: float, dense: float, peaks: Peaks
) -> SweepPoint:
    channels, size, _, steps = place
    population = (channels, size, size)
    additions = count_additions(_source(torch.ones(channels, channels, 3, 3)), spikes, population)
    moved = 2 * packed_bytes(population, batch, steps) + 4 * (9 * channels**2 + channels)
    return SweepPoint(
        *place,
        spikes=int(spikes.sum()),
        additions=additions,
        bytes=moved,
        milliseconds=1e3 * seconds,
        ratio=seconds / dense,
        nanoseconds_per_addition=1e9 * seconds * native.module().threads() / max(1, additions),
        limit=peaks.seconds(additions, moved) / seconds,
    )


def _source(weight: Tensor) -> Source:
    """A 3x3 convolution with padding 1 as a window."""
    taps = tuple(Tap(index // 3 - 1, index % 3 - 1, index) for index in range(9))
    return Source("in", (1, 1), taps, tuple(weight[:, :, index // 3, index % 3].T for index in range(9)))


def _lines(points: Sequence[SweepPoint], x: Callable[[SweepPoint], float]) -> tuple[Line, ...]:
    lines = []
    for layer in dict.fromkeys((point.channels, point.size) for point in points):
        own = [point for point in points if (point.channels, point.size) == layer]
        over, up = np.array([x(point) for point in own]), np.array([point.milliseconds for point in own])
        slope, start = np.polyfit(over, up, 1)
        left, total = np.square(up - start - slope * over).sum(), np.square(up - up.mean()).sum()
        lines.append(Line(*layer, float(start), float(slope), float(1 - left / total) if total > 0 else 0.0))
    return tuple(lines)


def random_map(shape: MapShape, batch: int, steps: int, rate: float, generator: torch.Generator) -> Any:
    """A spike map in which every neuron spikes independently with probability ``rate``."""
    spikes = shape.empty(batch, steps)
    events = torch.rand(batch, steps, shape.rows, shape.columns, shape.bytes * 8, generator=generator) < rate
    events[..., shape.channels :] = False
    packed = (events.view(*events.shape[:-1], shape.bytes, 8) * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)
    whole = spikes.bytes.view(batch, steps, shape.padded_rows, shape.padded_columns, shape.bytes)
    whole[:, :, shape.halo.top :, shape.halo.left :][:, :, : shape.rows, : shape.columns] = packed
    return spikes
