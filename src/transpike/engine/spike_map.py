"""Bit-packed spike maps, and the windows in which a stage reads them.

A map is ``[N, S, rows, columns, bytes]`` of uint8; bit ``c % 8`` of byte ``c // 8`` is channel c. A
halo of zeros around each image is as wide as any reader's window needs. Under accumulate-then-fire a map is
``[N, rows, columns, bytes]``: byte c is how many spikes channel c sends in rho steps (``native/counts.hpp``).
Under signed digits a pixel has the bits of positive digits, then those of negative ones (``native/digits.hpp``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transpike.engine.rules import LARGEST_COUNT, Rule, RuleKind
from transpike.functional import spread_evenly
from transpike.kernels.digits import at_their_places, bits
from transpike.kernels.native import module

MOST_ROWS = 65_535  # numbers of 16 bits
_MOST_INPUTS = 1 << 17  # the lists of active ones take 2 T bytes each, or 6 T with counts, per thread


class Halo(NamedTuple):
    """Rows and columns of zeros around a map."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class MapShape:
    """Where the spikes of one site lie.

    Attributes:
        channels: C.
        rows: H; 1 for a population without space.
        columns: W.
        halo: zeros around it.
        probe: rho, if the map holds counts, of spikes in rho steps; 0 if it holds the spikes of every step.
        digits: T, if counts are sent as their T bits, the highest first; 0 if as evenly as possible.
        places: weights of signed digits 1 .. T, if the map holds those.
    """

    channels: int
    rows: int
    columns: int
    halo: Halo
    probe: int = 0
    digits: int = 0
    places: tuple[float, ...] = ()

    @cached_property
    def padded_channels(self) -> int:
        """Channels rounded up to a multiple of 8."""
        return (self.channels + 7) // 8 * 8

    @cached_property
    def bytes(self) -> int:
        """Bytes of one pixel."""
        if self.probe:
            return self.padded_channels
        return self.padded_channels // 8 * (2 if self.places else 1)

    @property
    def form(self) -> int:
        """``EventStage::Form`` of ``native/event_stage.hpp``."""
        return 1 if self.probe else 2 if self.places else 0

    @cached_property
    def as_bits(self) -> MapShape:
        """The same map to those who read signs as further channels."""
        return replace(self, channels=2 * self.padded_channels, places=()) if self.places else self

    @cached_property
    def padded_rows(self) -> int:
        """Rows with the halo."""
        return self.rows + self.halo.top + self.halo.bottom

    @cached_property
    def padded_columns(self) -> int:
        """Columns with the halo."""
        return self.columns + self.halo.left + self.halo.right

    def empty(self, batch: int, steps: int) -> Any:
        """A compiled map without spikes; its ``bytes`` are a tensor."""
        kept = 1 if self.probe else len(self.places) or steps
        return module().SpikeMap(batch * kept * self.padded_rows * self.padded_columns * self.bytes)

    def unpack(self, spikes: Any, batch: int, steps: int, theta: Tensor) -> Tensor:
        """Output ``theta * events`` as ``[S, N, C, H, W]``, float32; ``theta`` is a scalar or per channel.

        Counts and digits give as many steps as asked for, spikes those that they have. A digit is worth its place.
        """
        if self.places:
            found = self.as_bits.unpack(spikes, batch, len(self.places), torch.ones(()))
            digits = found[:, :, : self.channels] - found[:, :, self.padded_channels :][:, :, : self.channels]
            digits = digits[:steps]
            missing = digits.new_zeros(max(0, steps - len(digits)), *digits.shape[1:])
            unit = theta.detach().reshape(-1, 1, 1).expand(self.channels, 1, 1) / sum(self.places)
            return torch.cat([at_their_places(digits, self.places) * unit, missing])
        if self.digits:
            digits = bits(self._counts(spikes).int(), self.digits, steps).float()
            unit = theta.detach().reshape(-1, 1, 1).expand(self.channels, 1, 1) / self.probe
            return at_their_places(digits, [2.0**place for place in reversed(range(self.digits))]) * unit
        found = torch.empty(steps, batch, self.channels, self.rows, self.columns)
        factors = theta.detach().reshape(-1).expand(self.channels).contiguous()
        place = (self.padded_rows, self.padded_columns, self.halo.top, self.halo.left)
        if found.numel() and self.probe:
            module().unpack_counts(spikes, *place, self.probe, factors, found)
        elif found.numel():
            module().unpack(spikes, *place, factors, found)
        return found

    def spikes_sent(self, counts: Any, steps: int) -> Tensor:
        """Spikes of all neurons at each step ``[S]``, from a map of counts: ``k`` per rho steps, or its digits."""
        inner = self._counts(counts)
        if self.digits:
            neurons = torch.bincount(inner.flatten(), minlength=self.probe + 1)
            return (neurons * bits(torch.arange(self.probe + 1), self.digits, steps)).sum(1)
        total = torch.zeros(steps, dtype=torch.int64)
        number = torch.arange(self.probe + 1, dtype=torch.float64).unsqueeze(1)
        for odd in (0, 1):  # neurons of a sample in turn
            neurons = torch.bincount(inner.flatten(1)[:, odd::2].flatten(), minlength=self.probe + 1)
            sent = spread_evenly(number, torch.arange(steps + 1), self.probe, odd)
            total += (neurons.unsqueeze(1) * sent.diff(dim=1).long()).sum(0)
        return total

    def _counts(self, counts: Any) -> Tensor:
        """``[N, C, H, W]`` of a map of counts."""
        maps = counts.bytes.view(-1, self.padded_rows, self.padded_columns, self.bytes)
        top, left = self.halo.top, self.halo.left
        inner: Tensor = maps[:, top : top + self.rows, left : left + self.columns, : self.channels]
        return inner.permute(0, 3, 1, 2)


class Tap(NamedTuple):
    """One pixel of a window: its place relative to the window's origin, and which weights it has."""

    dy: int
    dx: int
    weights: int


@dataclass(frozen=True, eq=False)
class Source:
    """One map that a stage reads.

    Attributes:
        site: whose spikes.
        stride: rows and columns of the map from one output pixel to the next.
        taps: pixels of the window.
        weights: channel by channel ``[C]`` (``diagonal``), or ``[C, C_out]``; scaled by the site's threshold.
        shift: of a diagonal, by how many channels, whole eights, those that it feeds come later than their inputs.
    """

    site: str
    stride: tuple[int, int]
    taps: tuple[Tap, ...]
    weights: tuple[Tensor, ...]
    shift: int = 0

    @property
    def diagonal(self) -> bool:
        """Whether each channel feeds only one channel, all in order."""
        return self.weights[0].dim() == 1

    def of_digits(self, shape: MapShape) -> list[Source]:
        """The same, of a digit at a place of weight 1, from the bits of a map of signed digits (`MapShape.as_bits`)."""
        inputs, weights = shape.padded_channels, [each / sum(shape.places) for each in self.weights]
        if self.diagonal:
            shift = self.shift - inputs
            front = self.shift - max(0, shift)  # channels that are fed come no earlier
            negative = tuple(-torch.nn.functional.pad(each, (front, 0)) for each in weights)
            return [replace(self, weights=tuple(weights)), replace(self, weights=negative, shift=shift)]
        padded = [torch.nn.functional.pad(each, (0, 0, 0, inputs - each.shape[0])) for each in weights]
        return [replace(self, weights=tuple(torch.cat([each, -each]) for each in padded))]

    def needs(self, shape: tuple[int, int, int], out: tuple[int, int]) -> Halo:
        """The halo that its windows need around a map of ``(C, H, W)``, for ``out`` rows and columns."""
        top = -min(0, *(tap.dy for tap in self.taps), 0)
        left = -min(0, *(tap.dx for tap in self.taps), 0)
        last_row = (out[0] - 1) * self.stride[0] + max(tap.dy for tap in self.taps)
        last_column = (out[1] - 1) * self.stride[1] + max(tap.dx for tap in self.taps)
        return Halo(top, max(0, last_row - shape[1] + 1), left, max(0, last_column - shape[2] + 1))


def unsupported_reason(sources: Sequence[Source], channels: Mapping[str, int], *, signed: bool = False) -> str | None:
    """Why a stage cannot read these sources, given the channels of their sites; None if it can."""
    bytes_ = {site: math.ceil(number / 8) * (2 if signed else 1) for site, number in channels.items()}
    windowed = [(source, 8 * bytes_[source.site]) for source in sources if not source.diagonal]
    rows = sum(len(source.weights) * bits for source, bits in windowed)
    if rows > MOST_ROWS:
        return f"its windows have {rows:,} weight rows, more than {MOST_ROWS:,}"
    inputs = sum(len(source.taps) * bits for source, bits in windowed)
    return f"its windows have {inputs:,} inputs, more than {_MOST_INPUTS:,}" if inputs > _MOST_INPUTS else None


@dataclass(frozen=True)
class Pooling:
    """Counts how many spikes a window of pixels has in each channel, so that its pixels share their weight rows.

    Attributes:
        places: row and column of the window's pixels, for the first window, from the first pixel of the map's halo on.
        stride: rows and columns from one window to the next.
        source: the map that is read.
        shape: the map of counts, one for each step of the map that is read.
    """

    places: tuple[tuple[int, int], ...]
    stride: tuple[int, int]
    source: MapShape
    shape: MapShape

    def counts(self, spikes: Any, batch: int, steps: int) -> Any:
        """The compiled map of counts."""
        alone = module().Chain(1)
        self.link(alone, 0, wanted=True)
        kept = 1 if self.source.probe else steps
        plain = Rule(RuleKind.PLAIN).numbers  # a chain takes a rule, though no neurons fire here
        (found,), _ = alone.run([spikes], [None], plain, batch, kept)
        return found

    def link(self, chain: Any, source: int, *, wanted: bool) -> int:
        """Adds itself to a compiled chain, given the number of the map that it reads; returns the number of its own."""
        found = self.source
        shape = (found.padded_rows, found.padded_columns, found.bytes, found.probe)
        out = self.shape.rows, self.shape.columns
        return int(chain.add_pool(source, shape, self.places, self.stride, out, wanted))


def pooled(source: Source, found: MapShape, out: tuple[int, int]) -> tuple[Source, Pooling] | None:
    """A source whose weights each belong to a window of the same form, as windows of counts; None for others.

    Average pooling in front of a convolution makes such windows.

    Args:
        source: moving windows of spikes.
        found: the map it reads.
        out: rows and columns of the population that reads it.
    """
    windows: dict[int, list[tuple[int, int]]] = {}
    for tap in sorted(source.taps):
        windows.setdefault(tap.weights, []).append((tap.dy, tap.dx))
    origins = {weights: places[0] for weights, places in windows.items()}
    forms = {
        tuple((y - origins[weights][0], x - origins[weights][1]) for y, x in places)
        for weights, places in windows.items()
    }
    form = next(iter(forms))
    largest = len(form) * max(1, found.probe)
    if source.diagonal or len(forms) > 1 or len(form) == 1 or largest > LARGEST_COUNT:
        return None
    first = tuple(min(origin[axis] for origin in origins.values()) for axis in (0, 1))
    steps = [
        math.gcd(source.stride[axis], *(origin[axis] - first[axis] for origin in origins.values())) for axis in (0, 1)
    ]
    taps = tuple(
        Tap((y - first[0]) // steps[0], (x - first[1]) // steps[1], weights) for weights, (y, x) in origins.items()
    )
    stride = (source.stride[0] // steps[0], source.stride[1] // steps[1])
    rows, columns = (1 + max(tap[axis] for tap in taps) + (out[axis] - 1) * stride[axis] for axis in (0, 1))
    places = tuple((found.halo.top + first[0] + y, found.halo.left + first[1] + x) for y, x in form)
    shape = MapShape(found.channels, rows, columns, Halo(0, 0, 0, 0), largest)
    return Source(source.site, stride, taps, source.weights), Pooling(places, (steps[0], steps[1]), found, shape)
