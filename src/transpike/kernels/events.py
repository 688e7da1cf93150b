"""Bit-packed spike maps and the event-driven stage that reads and writes them (compiled; ``native/stage.hpp``).

A map is ``[N, S, rows, columns, bytes]`` of uint8; bit ``c % 8`` of byte ``c // 8`` is channel c. A
halo of zeros around each image is as wide as any reader's window needs. Under accumulate-then-fire a map is
``[N, rows, columns, bytes]``: byte c is how many spikes channel c sends in rho steps (``native/counts.hpp``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transpike.kernels.native import module

LARGEST_COUNT = 255  # one byte
_WEIGHT_BYTES = 640 * 1024  # of one tile of channels: what a usual second-level cache holds beside the lists of inputs
_COLUMN_BYTES = 640 * 1024  # of all weights of a convolution by columns
_TABLE_BYTES = 320 * 1024
_MOST_ROWS = 65_535  # numbers of 16 bits
_MOST_INPUTS = 1 << 17  # the lists of active ones take 2 T bytes each, or 6 T with counts, per thread
_KINDS = ("plain", "residual", "offset", "exact", "accumulate")  # Rule::Schedule in native/kernels.hpp


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
    """

    channels: int
    rows: int
    columns: int
    halo: Halo
    probe: int = 0

    @property
    def inputs(self) -> int:
        """Weight rows of one pixel: whole eights of channels."""
        return (self.channels + 7) // 8 * 8

    @property
    def bytes(self) -> int:
        """Bytes of one pixel."""
        return self.inputs if self.probe else self.inputs // 8

    @property
    def padded_rows(self) -> int:
        """Rows with the halo."""
        return self.rows + self.halo.top + self.halo.bottom

    @property
    def padded_columns(self) -> int:
        """Columns with the halo."""
        return self.columns + self.halo.left + self.halo.right

    def empty(self, batch: int, steps: int) -> Any:
        """A compiled map without spikes; its ``bytes`` are a tensor."""
        kept = 1 if self.probe else steps
        return module().SpikeMap(batch * kept * self.padded_rows * self.padded_columns * self.bytes)

    def unpack(self, spikes: Any, batch: int, steps: int, theta: Tensor) -> Tensor:
        """Output ``theta * events`` as ``[S, N, C, H, W]``, float32; ``theta`` is a scalar or per channel.

        Counts give as many steps as asked for, spikes those that they have.
        """
        found = torch.empty(steps, batch, self.channels, self.rows, self.columns)
        factors = theta.detach().reshape(-1).expand(self.channels).contiguous()
        place = (self.padded_rows, self.padded_columns, self.halo.top, self.halo.left)
        if found.numel() and self.probe:
            module().unpack_counts(spikes, *place, self.probe, factors, found)
        elif found.numel():
            module().unpack(spikes, *place, factors, found)
        return found

    def spikes_sent(self, counts: Any, steps: int) -> Tensor:
        """Spikes of all neurons at each step ``[S]``, from a map of counts: ``k`` per rho steps, evenly."""
        maps = counts.bytes.view(-1, self.padded_rows, self.padded_columns, self.bytes)
        top, left = self.halo.top, self.halo.left
        inner = maps[:, top : top + self.rows, left : left + self.columns, : self.channels].permute(0, 3, 1, 2)
        total = torch.zeros(steps, dtype=torch.int64)
        for odd in (0, 1):  # neurons of a sample in turn, as schedules/accumulate.py emits
            neurons = torch.bincount(inner.flatten(1)[:, odd::2].flatten(), minlength=self.probe + 1)
            number = torch.arange(self.probe + 1).unsqueeze(1)
            sent = (2 * number * torch.arange(steps + 1) + self.probe - odd) // (2 * self.probe)
            total += (neurons.unsqueeze(1) * sent.diff(dim=1)).sum(0)
        return total


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
    """

    site: str
    stride: tuple[int, int]
    taps: tuple[Tap, ...]
    weights: tuple[Tensor, ...]

    @property
    def diagonal(self) -> bool:
        """Whether each channel feeds only the channel of its own number."""
        return self.weights[0].dim() == 1

    def needs(self, shape: tuple[int, int, int], out: tuple[int, int]) -> Halo:
        """The halo that its windows need around a map of ``(C, H, W)``, for ``out`` rows and columns."""
        top = -min(0, *(tap.dy for tap in self.taps), 0)
        left = -min(0, *(tap.dx for tap in self.taps), 0)
        last_row = (out[0] - 1) * self.stride[0] + max(tap.dy for tap in self.taps)
        last_column = (out[1] - 1) * self.stride[1] + max(tap.dx for tap in self.taps)
        return Halo(top, max(0, last_row - shape[1] + 1), left, max(0, last_column - shape[2] + 1))


def excess(sources: Sequence[Source], channels: Mapping[str, int]) -> str:
    """Why a stage cannot read these sources, given the channels of their sites; empty if it can."""
    moving = [(source, 8 * math.ceil(channels[source.site] / 8)) for source in sources if not source.diagonal]
    rows = sum(len(source.weights) * bits for source, bits in moving)
    if rows > _MOST_ROWS:
        return f"its windows have {rows:,} weight rows, more than {_MOST_ROWS:,}"
    inputs = sum(len(source.taps) * bits for source, bits in moving)
    return f"its windows have {inputs:,} inputs, more than {_MOST_INPUTS:,}" if inputs > _MOST_INPUTS else ""


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
        found, images = self.source, batch * (1 if self.source.probe else steps)
        size = (self.shape.rows, self.shape.columns)
        out = module().SpikeMap(images * math.prod(size) * self.shape.bytes)
        shape = (found.padded_rows, found.padded_columns, found.bytes, found.probe)
        module().pool(spikes, shape, self.places, self.stride, (images, *size), out)
        return out


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


class Rule(NamedTuple):
    """How a stage's neurons turn currents into spikes: the compiled form of a schedule.

    Attributes:
        kind: ``"plain"``, ``"residual"``, ``"offset"`` (COS), ``"exact"`` or ``"accumulate"``.
        soft_reset: or to zero.
        probe: steps looked at.
        iterations: of COS.
        epsilon: of COS.
    """

    kind: str
    soft_reset: bool = True
    probe: int = 0
    iterations: int = 0
    epsilon: float = 0.0

    @property
    def counted(self) -> int:
        """rho, if a count of spikes in rho steps is all that a neuron tells others; else 0."""
        return self.probe if self.kind == "accumulate" else 0


class EventStage:
    """Currents from spike maps, then neurons: one population, all steps at once.

    Args:
        shape: of the population's own map.
        sources: the maps it reads, with the shapes of those maps.
        bias: ``[C_out]``.
        theta: scalar or ``[C_out]``.

    Raises:
        ValueError: more weight rows than can be numbered.
    """

    def __init__(
        self, shape: MapShape, sources: Sequence[tuple[Source, MapShape]], bias: Tensor, theta: Tensor
    ) -> None:
        moving = [_Moving.of(*pair, shape) for pair in sources if not pair[0].diagonal]
        columns = next((found for found in moving if _in_columns(found, shape)), None)
        gathers = [found for found in moving if found is not columns]
        self.columns, self.gathers = columns, gathers
        self.diagonals = [source.site for source, _ in sources if source.diagonal]
        self.shape = shape
        rows = sum(len(found.source.weights) * found.shape.inputs for found in gathers)
        if rows > _MOST_ROWS:
            raise ValueError(f"{rows} weight rows are more than {_MOST_ROWS}")
        channels = shape.channels
        widths = (32,) if shape.probe else (32, 64)  # few vectors at once suffice where inputs are listed but once
        lanes = max([16, *(n for n in widths if n < channels + 16 and (rows + 1) * n * 4 <= _WEIGHT_BYTES)])
        self.padded = math.ceil(channels / lanes) * lanes
        table, runs = _table(gathers, rows, channels, self.padded)
        infinite = torch.full((self.padded,), torch.inf)
        infinite[:channels] = theta.detach().reshape(-1)
        self.compiled = module().EventStage(
            *(shape.rows, shape.columns, channels, lanes, _tiles(table, lanes)),
            *(self.pad(bias.detach()), infinite, shape.probe > 0),
        )
        if columns is not None:
            self._set_columns(columns.source, columns.shape, lanes)
        for each, listed in zip(gathers, runs, strict=True):
            self.compiled.add_gather(_geometry(each.source, each.shape), listed, each.shape.probe > 0)
        for source, found in sources:
            if source.diagonal:
                weights = torch.stack([self.pad(source.weights[tap.weights].detach()) for tap in source.taps])
                places = [(tap.dy, tap.dx) for tap in source.taps]
                self.compiled.add_diagonal(_geometry(source, found), places, weights)

    def _set_columns(self, source: Source, found: MapShape, lanes: int) -> None:
        """Packs windows three columns wide by column, the three weight rows of an input side by side."""
        first = min(tap.dx for tap in source.taps)
        heights = sorted({tap.dy for tap in source.taps})
        bits = found.inputs
        rows = torch.zeros(len(heights) * bits + 1, 3, self.padded)
        for tap in source.taps:
            weights = source.weights[tap.weights].detach()
            begin = heights.index(tap.dy) * bits
            # the column moves right: seen as first column (tap dx = first) by the newest of the three pixels
            rows[begin : begin + weights.shape[0], tap.dx - first, : self.shape.channels] = weights
        tiled = rows.view(rows.shape[0], 3, -1, lanes).permute(2, 0, 1, 3).contiguous()
        table = None
        if not found.probe and found.bytes <= 2 and len(heights) * found.bytes * 256 * 3 * lanes * 4 <= _TABLE_BYTES:
            pattern = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
            by_byte = tiled[:, :-1].reshape(tiled.shape[0], -1, 8, 3, lanes)
            table = torch.einsum("pb,trbkl->trpkl", pattern.float(), by_byte).contiguous()
        places = [(dy, first) for dy in heights]
        self.compiled.set_columns(_geometry(source, found), places, tiled, table, found.probe > 0)

    def pad(self, values: Tensor) -> Tensor:
        """``[..., C_out]`` with zeros up to whole tiles, contiguous float32."""
        missing = self.padded - values.shape[-1]
        padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
        return padded.float().contiguous()

    def set_potential(self, v_init: Tensor) -> None:
        """Sets the initial potentials of the following runs, ``[1 or N, 1 or H * W, padded]`` (`pad`)."""
        self.compiled.set_potential(v_init)

    def run(
        self, maps: dict[str, Any], currents: Tensor | None, rule: Rule, batch: int, steps: int
    ) -> tuple[Any, list[int]]:
        """Runs all steps.

        Args:
            maps: spike maps by site.
            currents: further currents ``[N, 1 or S, H * W, padded]`` (`pad`), or None.
            rule: the schedule.
            batch: N.
            steps: S.

        Returns:
            The spike map, and the number of spikes of each step.

        Raises:
            ValueError: potentials are not set, or belong to another number of samples; wrong sizes.
        """
        out = self.shape.empty(batch, steps)
        halo = self.shape.halo
        place = (batch, steps, self.shape.padded_rows, self.shape.padded_columns, halo.top, halo.left)
        numbers = (_KINDS.index(rule.kind), *rule[1:])
        return out, self.compiled.run(*self._read(maps, batch, steps), currents, numbers, place, out)

    def currents(self, maps: Mapping[str, Any], batch: int, steps: int) -> Tensor:
        """What arrives at its neurons, ``[S, N, C_out, H, W]``; none of them fires.

        Args:
            maps: spike maps by site.
            batch: N.
            steps: S.
        """
        found = torch.empty(batch, steps, self.shape.rows * self.shape.columns, self.padded)
        self.compiled.currents(*self._read(maps, batch, steps), found)
        image = (self.shape.channels, self.shape.rows, self.shape.columns)
        return found[..., : self.shape.channels].permute(1, 0, 3, 2).reshape(steps, batch, *image)

    def _read(self, maps: Mapping[str, Any], batch: int, steps: int) -> tuple[Any, list[Any], list[Any]]:
        columns = None if self.columns is None else self.columns.read(maps, batch, steps)
        gathers = [found.read(maps, batch, steps) for found in self.gathers]
        return columns, gathers, [maps[site] for site in self.diagonals]


class _Moving(NamedTuple):
    """A source with windows, and how the map that it reads is made of the site's."""

    source: Source
    shape: MapShape
    pooling: Pooling | None

    @classmethod
    def of(cls, source: Source, found: MapShape, reader: MapShape) -> _Moving:
        counts = pooled(source, found, (reader.rows, reader.columns))
        return cls(source, found, None) if counts is None else cls(counts[0], counts[1].shape, counts[1])

    def read(self, maps: Mapping[str, Any], batch: int, steps: int) -> Any:
        spikes = maps[self.source.site]
        return spikes if self.pooling is None else self.pooling.counts(spikes, batch, steps)


def _in_columns(found: _Moving, reader: MapShape) -> bool:
    """Whether its windows are three columns wide, move by one pixel, and have weights that stay in the cache."""
    source = found.source
    heights, widths = {tap.dy for tap in source.taps}, {tap.dx for tap in source.taps}
    grid = {(dy, dx) for dy in heights for dx in widths} == {(tap.dy, tap.dx) for tap in source.taps}
    whole = grid and len(source.taps) == 3 * len(heights) and max(widths) - min(widths) == 2 and len(widths) == 3
    size = len(source.taps) * found.shape.inputs * 4 * 16 * math.ceil(reader.channels / 16)
    return whole and source.stride == (1, 1) and size <= _COLUMN_BYTES


def _table(
    gathers: Sequence[_Moving], rows: int, channels: int, padded: int
) -> tuple[Tensor, list[list[tuple[int, int, int, int]]]]:
    """One table of weight rows for all sources, the last row zero, and each source's runs into it."""
    table = torch.zeros(rows + 1, padded)
    begin = 0
    runs = []
    for source, found, _ in gathers:
        numbered = []
        for weights in source.weights:
            table[begin : begin + weights.shape[0], :channels] = weights.detach()
            numbered.append(begin)
            begin += found.inputs
        runs.append(_runs(source, numbered, found.inputs))
    return table, runs


def _tiles(table: Tensor, lanes: int) -> Tensor:
    """``[rows, channels] -> [tiles, rows, lanes]``."""
    return table.reshape(table.shape[0], -1, lanes).transpose(0, 1).contiguous()


def _geometry(source: Source, shape: MapShape) -> tuple[int, ...]:
    return (shape.padded_rows, shape.padded_columns, shape.bytes, shape.halo.top, shape.halo.left, *source.stride)


def _runs(source: Source, numbered: Sequence[int], inputs: int) -> list[tuple[int, int, int, int]]:
    """Windows as runs of neighbouring inputs whose weight rows are neighbours, too."""
    runs: list[tuple[int, int, int, int]] = []
    for tap in sorted(source.taps):
        row = numbered[tap.weights]
        if runs:
            dy, dx, length, first = runs[-1]
            if dy == tap.dy and dx + length // inputs == tap.dx and first + length == row:
                runs[-1] = (dy, dx, length + inputs, first)
                continue
        runs.append((tap.dy, tap.dx, inputs, row))
    return runs


def fits(tensors: Any) -> bool:
    """Whether all tensors are float32 on the CPU, which is what a stage computes in."""
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
