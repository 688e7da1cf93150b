"""Event-driven stages that read spike maps and write one, alone or in a chain (compiled; ``native/stage.hpp``)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from transpike.engine.image import ImageSource
from transpike.engine.rules import Rule
from transpike.engine.spike_map import MOST_ROWS, MapShape, Pooling, Source, pooled
from transpike.kernels.native import module

_WEIGHT_BYTES = 640 * 1024  # of one tile of channels: what a usual second-level cache holds beside the lists of inputs
_COLUMN_BYTES = 640 * 1024  # of all weights of a convolution by columns
_TABLE_BYTES = 320 * 1024  # of one table of sums


class EventStage:
    """Currents from spike maps, then neurons: one population, all steps at once.

    Args:
        shape: of the population's own map.
        sources: the maps it reads, with the shapes of those maps.
        bias: ``[C_out]``.
        theta: scalar or ``[C_out]``.
        image: a convolution of an image, which then is what a run takes as further currents.

    Raises:
        ValueError: more weight rows than can be numbered.
    """

    def __init__(
        self,
        shape: MapShape,
        sources: Sequence[tuple[Source, MapShape]],
        bias: Tensor,
        theta: Tensor,
        image: ImageSource | None = None,
    ) -> None:
        sources = [
            (each, found.as_bits)
            for source, found in sources
            for each in (source.of_digits(found) if found.places else [source])
        ]
        windowed = [_Windowed.of(*pair, shape) for pair in sources if not pair[0].diagonal]
        columns = next((found for found in windowed if _in_columns(found, shape)), None)
        gathers = [found for found in windowed if found is not columns]
        self.columns, self.gathers = columns, gathers
        self.diagonals = [source.site for source, _ in sources if source.diagonal]
        self.shape = shape
        rows = sum(len(found.source.weights) * found.shape.padded_channels for found in gathers)
        if rows > MOST_ROWS:
            raise ValueError(f"{rows} weight rows are more than {MOST_ROWS}")
        channels = shape.channels
        widths = (32,) if shape.probe else (32, 64)  # few vectors at once suffice where inputs are listed but once
        lanes = max([16, *(n for n in widths if n < channels + 16 and (rows + 1) * n * 4 <= _WEIGHT_BYTES)])
        self.padded = math.ceil(channels / lanes) * lanes
        table, runs = _table(gathers, rows, channels, self.padded)
        infinite = torch.full((self.padded,), torch.inf)
        infinite[:channels] = theta.detach().reshape(-1)
        self.compiled = module().EventStage(
            *(shape.rows, shape.columns, channels, lanes, _tiles(table, lanes)),
            *(self.pad(bias.detach()), infinite, shape.form),
            (shape.padded_rows, shape.padded_columns, shape.halo.top, shape.halo.left),
        )
        if image is not None:
            image.add_to(self.compiled, self.padded)
        if columns is not None:
            self._set_columns(columns.source, columns.shape, lanes)
        for each, listed in zip(gathers, runs, strict=True):
            self.compiled.add_gather(_geometry(each.source, each.shape), listed, each.shape.probe > 0)
        if gathers and all(_narrow(each.shape) for each in gathers) and rows * 4 * lanes * 4 <= _TABLE_BYTES:
            self.compiled.set_table(_sums_by_bits(_tiles(table[:-1], lanes), 4))
        for source, found in sources:
            if source.diagonal:
                factors = torch.stack([source.weights[tap.weights].detach() for tap in source.taps])
                weights = self.pad(torch.nn.functional.pad(factors, (max(0, source.shift), 0)))
                places = [(tap.dy, tap.dx) for tap in source.taps]
                self.compiled.add_diagonal(_geometry(source, found), places, weights, source.shift)

    def _set_columns(self, source: Source, found: MapShape, lanes: int) -> None:
        """Packs windows three columns wide by column, the three weight rows of an input side by side."""
        first = min(tap.dx for tap in source.taps)
        heights = sorted({tap.dy for tap in source.taps})
        bits = found.padded_channels
        rows = torch.zeros(len(heights) * bits + 1, 3, self.padded)
        for tap in source.taps:
            weights = source.weights[tap.weights].detach()
            begin = heights.index(tap.dy) * bits
            # the column moves right: seen as first column (tap dx = first) by the newest of the three pixels
            rows[begin : begin + weights.shape[0], tap.dx - first, : self.shape.channels] = weights
        tiled = rows.view(rows.shape[0], 3, -1, lanes).permute(2, 0, 1, 3).contiguous()
        table = None
        if _narrow(found) and len(heights) * found.bytes * 256 * 3 * lanes * 4 <= _TABLE_BYTES:
            sums = _sums_by_bits(tiled[:, :-1].flatten(2), 8)
            table = sums.view(*sums.shape[:3], 3, lanes)
        places = [(dy, first) for dy in heights]
        self.compiled.set_columns(_geometry(source, found), places, tiled, table, found.probe > 0)

    def pad(self, values: Tensor) -> Tensor:
        """``[..., C_out]`` with zeros up to whole tiles, contiguous float32."""
        missing = self.padded - values.shape[-1]
        padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
        return padded.float().contiguous()

    def set_potential(self, v_init: Tensor) -> None:
        """Sets the initial potentials of later runs, ``[1 or N, 1 or H * W, padded]`` (`pad`); not during a run."""
        self.compiled.set_potential(v_init)

    def set_lag(self, lag: int) -> None:
        """Sets the steps that digits of later runs wait; not during a run."""
        self.compiled.set_lag(lag)

    def run(
        self, maps: Mapping[str, Any], currents: Tensor | None, rule: Rule, batch: int, steps: int
    ) -> tuple[Any, list[int]]:
        """Runs all steps: a chain of this stage alone (`Chain.run`); returns its map and the spikes of each step."""
        alone = Chain({"": self}, {""})
        found, spikes = alone.run(maps, {"": currents}, rule, batch, steps)
        return found[""], spikes[""]

    def means(self, maps: Mapping[str, Any], batch: int, steps: int) -> Tensor:
        """Running means of what arrives at its neurons, ``[S, N, C_out, H, W]``; none of them fires.

        Args:
            maps: spike maps by site.
            batch: N.
            steps: S.
        """
        found = torch.empty(steps, batch, self.shape.channels, self.shape.rows, self.shape.columns)
        self.compiled.means(*self._read(maps, batch, steps), found)
        return found

    def _read(self, maps: Mapping[str, Any], batch: int, steps: int) -> tuple[Any, list[Any], list[Any]]:
        columns = None if self.columns is None else self.columns.read(maps, batch, steps)
        gathers = [found.read(maps, batch, steps) for found in self.gathers]
        return columns, gathers, [maps[site] for site in self.diagonals]

    @property
    def sites(self) -> list[str]:
        """Whose maps it reads."""
        windowed = self.gathers if self.columns is None else [self.columns, *self.gathers]
        return [*(found.source.site for found in windowed), *self.diagonals]

    def link(self, chain: Any, numbers: Mapping[str, int], wanted: bool) -> int:
        """Adds itself to a compiled chain, after pools that it reads; returns the number of its map.

        Args:
            chain: the compiled chain.
            numbers: of the maps that it reads, by site.
            wanted: whether the chain returns its map.
        """
        columns = None if self.columns is None else self.columns.link(chain, numbers)
        gathers = [found.link(chain, numbers) for found in self.gathers]
        diagonals = [numbers[site] for site in self.diagonals]
        return int(chain.add_stage(self.compiled, columns, gathers, diagonals, wanted))


class Chain:
    """Stages that run one after the other in one call, in which a thread waits only for the samples that it reads.

    Args:
        stages: by site, in order; they read maps of stages before them, and others.
        wanted: sites whose maps are returned. The others' take each other's place in memory that stays with the chain.
    """

    def __init__(self, stages: Mapping[str, EventStage], wanted: Collection[str]) -> None:
        read = (site for stage in stages.values() for site in stage.sites)
        self.sites = list(stages)
        self.given = list(dict.fromkeys(site for site in read if site not in stages))
        self.wanted = [site for site in stages if site in wanted]
        self.compiled = module().Chain(len(self.given))
        numbers = {site: number for number, site in enumerate(self.given)}
        for site, stage in stages.items():
            numbers[site] = stage.link(self.compiled, numbers, site in wanted)
        self.links = [numbers[site] - len(self.given) for site in stages]  # pools are links, too

    def run(
        self,
        maps: Mapping[str, Any],
        currents: Mapping[str, Tensor | None],
        rule: Rule,
        batch: int,
        steps: int,
        *,
        counted: bool = True,
    ) -> tuple[dict[str, Any], dict[str, list[int]]]:
        """Runs all steps.

        Args:
            maps: spike maps by site.
            currents: further currents of some sites, ``[N, 1 or S, H * W, padded]`` (`EventStage.pad`), or the image
                that they convolve ``[N, C, H, W]``, contiguous float32. Under digits they are increments, those of a
                single step first.
            rule: the schedule.
            batch: N.
            steps: S; of digits, T.
            counted: whether spikes are counted, which takes time.

        Returns:
            The wanted spike maps by site, and for every site the number of spikes of each step; none of counts.

        Raises:
            ValueError: potentials are not set, or belong to another number of samples; wrong sizes.
        """
        dense: list[Tensor | None] = [None] * (self.links[-1] + 1)
        for site, link in zip(self.sites, self.links, strict=True):
            dense[link] = currents.get(site)
        given = [maps[site] for site in self.given]
        found, spikes = self.compiled.run(given, dense, rule.numbers, batch, steps, counted)
        sent = {site: spikes[link] for site, link in zip(self.sites, self.links, strict=True)}
        return dict(zip(self.wanted, found, strict=True)), sent


class _Windowed(NamedTuple):
    """A source with windows, and how the map that it reads is made of the site's."""

    source: Source
    shape: MapShape
    pooling: Pooling | None

    @classmethod
    def of(cls, source: Source, found: MapShape, reader: MapShape) -> _Windowed:
        counts = pooled(source, found, (reader.rows, reader.columns))
        return cls(source, found, None) if counts is None else cls(counts[0], counts[1].shape, counts[1])

    def read(self, maps: Mapping[str, Any], batch: int, steps: int) -> Any:
        spikes = maps[self.source.site]
        return spikes if self.pooling is None else self.pooling.counts(spikes, batch, steps)

    def link(self, chain: Any, numbers: Mapping[str, int]) -> int:
        number = numbers[self.source.site]
        return number if self.pooling is None else self.pooling.link(chain, number, wanted=False)


def _in_columns(found: _Windowed, reader: MapShape) -> bool:
    """Whether its windows are three columns wide, move by one pixel, and have weights that stay in the cache."""
    source = found.source
    heights, widths = {tap.dy for tap in source.taps}, {tap.dx for tap in source.taps}
    grid = {(dy, dx) for dy in heights for dx in widths} == {(tap.dy, tap.dx) for tap in source.taps}
    whole = grid and len(source.taps) == 3 * len(heights) and max(widths) - min(widths) == 2 and len(widths) == 3
    size = len(source.taps) * found.shape.padded_channels * 4 * 16 * math.ceil(reader.channels / 16)
    return whole and source.stride == (1, 1) and size <= _COLUMN_BYTES


def _table(
    gathers: Sequence[_Windowed], rows: int, channels: int, padded: int
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
            begin += found.padded_channels
        runs.append(_runs(source, numbered, found.padded_channels))
    return table, runs


def _narrow(found: MapShape) -> bool:
    """Whether sums of weights are looked up by the bits of a pixel: of more channels, active ones are listed faster."""
    return not found.probe and found.bytes <= 2


def _sums_by_bits(rows: Tensor, bits: int) -> Tensor:
    """``[tiles, rows, lanes] -> [tiles, rows / bits, 2 ** bits, lanes]``: the sums of every choice of so many rows."""
    chosen = (torch.arange(2**bits).unsqueeze(1) >> torch.arange(bits)) & 1
    grouped = rows.reshape(rows.shape[0], -1, bits, rows.shape[2])
    return torch.einsum("pb,trbl->trpl", chosen.float(), grouped).contiguous()


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
