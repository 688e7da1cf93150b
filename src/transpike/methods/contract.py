"""What a method must provide: rules for thresholds and for initial potentials, which compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PerLayer:
    """One value for all neurons of a site."""

    def rows(self, z: Tensor) -> Tensor:
        """``[N, *] -> [1, all]``."""
        return z.reshape(1, -1)

    def shape(self, values: Tensor, dimensions: int) -> Tensor:
        """``[1]`` to a scalar."""
        return values.reshape(())


@dataclass(frozen=True)
class PerChannel:
    """One value per channel, dimension 1 of ``[N, C, *]``; exact on every path, identity shortcuts included."""

    def rows(self, z: Tensor) -> Tensor:
        """``[N, C, *] -> [C, all]``."""
        return z.transpose(0, 1).flatten(1)

    def shape(self, values: Tensor, dimensions: int) -> Tensor:
        """``[C]`` to ``[C, 1, ...]`` for a population whose batch has ``dimensions`` dimensions."""
        return values.reshape(-1, *[1] * (dimensions - 2))


Granularity = PerLayer | PerChannel


class Statistic(ABC):
    """Collects pre-activations of one site, batch by batch, in bounded memory."""

    @abstractmethod
    def update(self, rows: Tensor) -> None:
        """Takes ``[rows, values]``: one row per layer or per channel."""

    @abstractmethod
    def result(self) -> Tensor:
        """One value per row, ``[rows]``."""


class Part:
    """Anything that `convert` composes into a conversion. Parts are frozen records."""


class ThresholdRule(Part, ABC):
    """Sets the thresholds of ReLU sites from their pre-activations on calibration data."""

    granularity: Granularity

    @abstractmethod
    def statistic(self) -> Statistic:
        """A fresh statistic for one site."""


@dataclass(frozen=True, eq=False)
class Population:
    """What a rule for initial potentials knows about the neurons of one site.

    Attributes:
        site: its name, the same in every conversion of the same model.
        shape: of one sample's neurons, ``[C, *]``.
        theta: their thresholds, a scalar or ``[C, 1, ...]``, in the network's precision and on its device.
    """

    site: str
    shape: tuple[int, ...]
    theta: Tensor


class PotentialRule(Part, ABC):
    """Sets initial potentials from thresholds."""

    @abstractmethod
    def potential(self, population: Population) -> Tensor:
        """``v_init`` in units of the drive: of theta's shape, or per neuron ``[C, *]``."""


def fill_silent(values: Tensor) -> Tensor:
    """Replaces thresholds of rows that never were active by the largest of the others, or by 1 if all are silent.

    A silent channel has no evidence for any threshold; the largest one makes stray activity cause the fewest spikes.
    """
    active = values > 0
    substitute = values[active].max() if bool(active.any()) else torch.ones((), dtype=values.dtype)
    return torch.where(active, values, substitute.to(values))
