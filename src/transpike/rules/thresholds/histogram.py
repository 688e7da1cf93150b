"""Histograms of ReLU outputs whose range grows with the data, so that memory does not."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from transpike.rules.contract import Statistic

BINS = 8192


class GrowingHistogram:
    """One histogram per row of the positive values; its range doubles when a larger value comes.

    A bin is at most 1/4096 of the largest value of its row wide.

    Attributes:
        counts: positive values per bin, ``[rows, BINS]``.
        zeros: values that are not positive, ``[rows]``.
        top: upper end of the last bin, ``[rows]``: a power of two times the row's first maximum, 0 before it.
        maximum: the largest value so far, ``[rows]``.
    """

    def __init__(self, rows: int, like: Tensor) -> None:
        self.counts = torch.zeros(rows, BINS, dtype=torch.int64, device=like.device)
        self.zeros = self.counts[:, 0].clone()
        self.top = like.new_zeros(rows)
        self.maximum = like.new_zeros(rows)

    def add(self, rows: Tensor) -> None:
        """Adds ReLU outputs ``[rows, values]``."""
        largest = rows.amax(1)
        self._widen(largest)
        self.maximum = torch.maximum(self.maximum, largest)
        self.zeros += (rows == 0).sum(1)
        unit = torch.where(self.top > 0, self.top, 1.0).unsqueeze(1)
        index = (rows / unit * BINS).long().clamp_max(BINS - 1)
        index += torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) * BINS
        self.counts += torch.bincount(index[rows > 0], minlength=self.counts.numel()).view_as(self.counts)

    def _widen(self, largest: Tensor) -> None:
        self.top = torch.where(self.top == 0, largest, self.top)  # so far all values of the row were zero
        while bool((largest > self.top).any()):
            grow = largest > self.top
            pairs = self.counts.view(-1, BINS // 2, 2).sum(2)
            merged = torch.cat([pairs, torch.zeros_like(pairs)], 1)
            self.counts = torch.where(grow.unsqueeze(1), merged, self.counts)
            self.top = torch.where(grow, 2 * self.top, self.top)


class Tails:
    """Number and sum of a histogram's values above a place; inside a bin they count as evenly spread.

    Places are in bins, from 0 to `BINS`, so that sums of tiny and of huge values stay in range.

    Attributes:
        maximum: the place of the largest value, ``[rows]``.
    """

    def __init__(self, histogram: GrowingHistogram) -> None:
        counts = histogram.counts.double()
        middles = torch.arange(BINS, dtype=torch.float64, device=counts.device) + 0.5
        self.counts = torch.nn.functional.pad(counts.flip(1).cumsum(1).flip(1), (0, 1))
        self.sums = torch.nn.functional.pad((counts * middles).flip(1).cumsum(1).flip(1), (0, 1))
        top = torch.where(histogram.top > 0, histogram.top, 1.0).double()
        self.maximum = histogram.maximum.double() / top * BINS

    def above(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Number and sum of the values above ``places [rows, K]``, each ``[rows, K]``."""
        places = places.clamp(0.0, BINS)
        upper = places.floor().long().clamp_max(BINS - 1) + 1
        count = self.counts.gather(1, upper)
        part = (self.counts.gather(1, upper - 1) - count) * (upper - places)
        return count + part, self.sums.gather(1, upper) + part * (upper + places) / 2


class HistogramStatistic(Statistic):
    """What is computed at the end from a histogram of the ReLU outputs."""

    def __init__(self) -> None:
        self.histogram: GrowingHistogram | None = None

    def update(self, rows: Tensor) -> None:
        """Adds ReLU outputs of ``[rows, values]``."""
        rows = rows.clamp_min(0.0)
        rows = rows if rows.dtype == torch.float64 else rows.float()  # half precision cannot tell the bins apart
        if self.histogram is None:
            self.histogram = GrowingHistogram(rows.shape[0], rows)
        self.histogram.add(rows)

    def result(self) -> Tensor:
        """One value per row."""
        assert self.histogram is not None
        return self.evaluate(self.histogram)

    @abstractmethod
    def evaluate(self, histogram: GrowingHistogram) -> Tensor:
        """One value per row of the histogram; 0 where all values are zero."""
