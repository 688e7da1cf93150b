"""Histograms of ReLU outputs of any size: bins are evenly spaced in the bits of a float, about as its logarithm."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from transpike.rules.contract import Statistic

BINS = 16384
"""Bins of a row."""

_FINEST = 9  # bins per octave, as a power of two
_PIECE = 256  # rows that are evaluated at once, in float64
_FORMATS = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}  # whole numbers of its size; mantissa


class GrowingHistogram:
    """One histogram per row of the positive values, whatever their size and order, in bounded memory.

    The bits of a positive float, read as a whole number, grow with its value: exponent first, then mantissa. Without
    their last ones they are the number of a bin, so that every octave ``[2^e, 2^(e+1))`` has ``2^precision`` bins, each
    at most ``2^-precision`` of its values wide. A row has `BINS` bins for the octaves around its values; where one
    row's values span more octaves, the bins of all rows are merged in pairs. So the precision is 9 while the values
    of each row span at most 32 octaves (a factor of 4e9), 8 up to 64, and at least 6 for float32. Below the least
    normal number (1e-38) bins are as wide as in the octave above.

    Attributes:
        counts: positive values per bin, ``[rows, BINS]``.
        zeros: values that are not positive, ``[rows]``.
        minimum: the least positive value so far, ``[rows]``; infinity before the first.
        maximum: the largest value so far, ``[rows]``; 0 before the first positive one.
        precision: binary logarithm of the number of bins per octave.
    """

    def __init__(self, rows: int, like: Tensor) -> None:
        self._integer, self._mantissa = _FORMATS[like.dtype]
        self.precision = _FINEST
        self.counts = torch.zeros(rows, BINS, dtype=torch.int32, device=like.device)
        self.zeros = torch.zeros(rows, dtype=torch.int64, device=like.device)
        self.minimum = like.new_full((rows,), torch.inf)
        self.maximum = like.new_zeros(rows)
        self._low = torch.zeros_like(self.zeros)  # the octave of a row's first bin
        self._values = 0

    def add(self, rows: Tensor) -> None:
        """Adds finite ReLU outputs ``[rows, values]``."""
        if not rows.numel():
            return
        positive, empty = rows > 0, self.maximum == 0
        self.zeros += (~positive).sum(1)
        self.minimum = torch.minimum(self.minimum, rows.masked_fill(~positive, torch.inf).amin(1))
        self.maximum = torch.maximum(self.maximum, rows.amax(1))
        self._values += rows.shape[1]
        if self._values > torch.iinfo(torch.int32).max:
            self.counts = self.counts.long()
        self._make_room(empty)
        first = torch.arange(rows.shape[0], device=rows.device) * BINS - (self._low << self.precision)
        index = (rows.contiguous().view(self._integer) >> (self._mantissa - self.precision)) + first.unsqueeze(1)
        found = index[positive]
        self.counts.view(-1).scatter_add_(0, found, torch.ones_like(found, dtype=self.counts.dtype))

    def _octave(self, values: Tensor) -> Tensor:
        return values.view(self._integer).long() >> self._mantissa

    def _make_room(self, empty: Tensor) -> None:
        """Moves the bins of rows whose minimum or maximum lies outside; merges bins where a row spans too much.

        Args:
            empty: rows without counts so far.
        """
        least, largest = self._octave(self.minimum), self._octave(self.maximum)
        span = (largest - least + 1).clamp_min(0)  # of a row without positive values: 0
        precision = min(self.precision, (BINS // max(1, int(span.max()))).bit_length() - 1)
        if precision < self.precision:
            merged = self.counts.view(len(least), -1, 1 << (self.precision - precision)).sum(2, dtype=self.counts.dtype)
            self.counts = torch.nn.functional.pad(merged, (0, BINS - merged.shape[1]))
            self.precision = precision
        octaves = BINS >> precision
        outside = ((least < self._low) | (largest >= self._low + octaves)) & (span > 0)
        if not bool(outside.any()):
            return
        low = torch.where(outside, least - (octaves - span) // 2, self._low)
        moves = outside & ~empty
        if bool(moves.any()):
            place = ((self._low - low)[moves] << precision).unsqueeze(1) + torch.arange(BINS, device=low.device)
            moved = self.counts[moves]  # what would fall off holds nothing
            self.counts[moves] = torch.zeros_like(moved).scatter_add_(1, place.clamp(0, BINS - 1), moved)
        self._low = low

    def edges(self, bins: Tensor | None = None) -> Tensor:
        """Where bins begin, in float64; within the row's minimum and maximum.

        Args:
            bins: their numbers ``[rows, K]``, up to `BINS`, where the last one ends; None is all of them.
        """
        if bins is None:
            bins = torch.arange(BINS + 1, device=self.counts.device)
        infinite = int(torch.full_like(self.minimum[:1], torch.inf).view(self._integer)) >> self._mantissa
        place = ((self._low << self.precision).unsqueeze(1) + bins).clamp(0, infinite << self.precision)
        bits = (place << (self._mantissa - self.precision)).to(self._integer)
        values = bits.view(self.maximum.dtype).double()
        return values.clamp(self.minimum.double().unsqueeze(1), self.maximum.double().unsqueeze(1))

    def pieces(self) -> Iterator[GrowingHistogram]:
        """The same histogram, some rows after the others."""
        for begin in range(0, len(self.zeros), _PIECE):
            piece = copy.copy(self)
            for name in ("counts", "zeros", "minimum", "maximum", "_low"):
                setattr(piece, name, getattr(self, name)[begin : begin + _PIECE])
            yield piece


class Tails:
    """Number and sum of a histogram's values above a place; inside a bin they count as evenly spread.

    Places and sums are in units of the row's largest value, so that those of tiny and of huge values stay in range.

    Attributes:
        unit: the largest value, 1 where all are zero, ``[rows]``, float64.
        maximum: its place, ``[rows]``: 1, or 0 where all values are zero.
    """

    def __init__(self, histogram: GrowingHistogram) -> None:
        largest = histogram.maximum.double()
        self.unit = torch.where(largest > 0, largest, 1.0)
        self.maximum = (largest > 0).double()
        self.edges = histogram.edges() / self.unit.unsqueeze(1)
        counts = histogram.counts.double()
        middles = (self.edges[:, :-1] + self.edges[:, 1:]) / 2
        self.counts = torch.nn.functional.pad(counts.flip(1).cumsum(1).flip(1), (0, 1))
        self.sums = torch.nn.functional.pad((counts * middles).flip(1).cumsum(1).flip(1), (0, 1))

    def above(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Number and sum of the values above ``places [rows, K]``, each ``[rows, K]``."""
        upper = torch.searchsorted(self.edges, places.contiguous(), right=True).clamp(1, BINS)
        count, end, begin = self.counts.gather(1, upper), self.edges.gather(1, upper), self.edges.gather(1, upper - 1)
        width = (end - begin).clamp_min(torch.finfo(torch.float64).tiny)  # of equal values
        share = ((end - places) / width).clamp(0.0, 1.0)
        part = (self.counts.gather(1, upper - 1) - count) * share
        return count + part, self.sums.gather(1, upper) + part * (end + torch.maximum(begin, places)) / 2


class HistogramStatistic(Statistic):
    """What is computed at the end from a histogram of the ReLU outputs."""

    def __init__(self) -> None:
        self.histogram: GrowingHistogram | None = None

    def update(self, rows: Tensor) -> None:
        """Adds ReLU outputs of ``[rows, values]``."""
        rows = rows.clamp_min(0.0)
        rows = rows if rows.dtype == torch.float64 else rows.float()  # half precision has too few bits
        if self.histogram is None:
            self.histogram = GrowingHistogram(rows.shape[0], rows)
        self.histogram.add(rows)

    def result(self) -> Tensor:
        """One value per row."""
        assert self.histogram is not None
        found = torch.cat([self.evaluate(piece) for piece in self.histogram.pieces()])
        return found.to(self.histogram.maximum.dtype)

    def clipped_share(self, theta: Tensor) -> float:
        """``sum max(z - theta, 0) / sum max(z, 0)`` over all rows, from the histogram."""
        assert self.histogram is not None
        lost = carried = 0.0
        pieces = zip(self.histogram.pieces(), torch.split(theta.double(), _PIECE), strict=True)
        for tails, limit in ((Tails(piece), part) for piece, part in pieces):
            place = (limit / tails.unit).unsqueeze(1)
            count, total = tails.above(place)
            lost += float((tails.unit.unsqueeze(1) * (total - count * place)).sum())
            carried += float((tails.unit * tails.sums[:, 0]).sum())
        return lost / carried if carried > 0 else 0.0

    @abstractmethod
    def evaluate(self, histogram: GrowingHistogram) -> Tensor:
        """One value per row of the histogram, in float64; 0 where all values are zero."""
