"""What a method must provide: rules for thresholds and for initial potentials, which compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from transpike.errors import CalibrationError
from transpike.graph.site import Site
from transpike.neurons import Neuron
from transpike.schedules import Schedule
from transpike.serialization.fields import check_fields
from transpike.serialization.words import in_words


@dataclass(frozen=True)
class PerLayer:
    """One value for all neurons of a site."""

    def rows(self, z: Tensor) -> Tensor:
        """``[N, *] -> [1, all]``."""
        return z.reshape(1, -1)

    def shape(self, values: Tensor, dimensions: int) -> Tensor:
        """``[1]`` to a scalar."""
        return values.reshape(())

    def mean(self, values: Tensor) -> Tensor:
        """``[C, *]``, one value per neuron, to a scalar."""
        return values.mean()


@dataclass(frozen=True)
class PerChannel:
    """One value per channel, dimension 1 of ``[N, C, *]``; exact on every path, identity shortcuts included."""

    def rows(self, z: Tensor) -> Tensor:
        """``[N, C, *] -> [C, all]``."""
        return z.transpose(0, 1).flatten(1)

    def shape(self, values: Tensor, dimensions: int) -> Tensor:
        """``[C]`` to ``[C, 1, ...]`` for a population whose batch has ``dimensions`` dimensions."""
        return values.reshape(-1, *[1] * (dimensions - 2))

    def mean(self, values: Tensor) -> Tensor:
        """``[C, *]``, one value per neuron, to ``[C, 1, ...]``; a population without dimensions is one channel."""
        return values.flatten(1).mean(1).view(-1, *[1] * (values.dim() - 1)) if values.dim() > 1 else values


@dataclass(frozen=True)
class PerNeuron:
    """One value per neuron, for what samples share: initial potentials and biases, but not thresholds."""

    def mean(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values


Granularity = PerLayer | PerChannel


class Statistic(ABC):
    """Collects pre-activations of one site, batch by batch, in bounded memory."""

    @abstractmethod
    def update(self, rows: Tensor) -> None:
        """Takes ``[rows, values]``: one row per layer or per channel."""

    @abstractmethod
    def result(self) -> Tensor:
        """One value per row, ``[rows]``."""

    def clipped_share(self, theta: Tensor) -> float:
        """Share of the sum of all ReLU outputs that lies above thresholds ``[rows]``; 0 where it is not known."""
        return 0.0


class Part:
    """Anything that `convert` composes into a conversion. Parts are frozen records.

    Attributes:
        keeps_grid: whether what it sets may be rounded afterwards: potentials and biases may, thresholds and weights
            may not, so a part that sets those is made before a network is quantised.
    """

    keeps_grid: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        from transpike import rules  # its tables know this module

        return in_words(self, {**rules.THRESHOLD_RULES, **rules.POTENTIAL_RULES, **rules.CORRECTIONS})


class ThresholdRule(Part, ABC):
    """Sets the thresholds of ReLU sites from their pre-activations on calibration data.

    Raises:
        ValueError: the granularity is neither `PerLayer` nor `PerChannel`.
    """

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


@dataclass(frozen=True, eq=False)
class StageView:
    """What a calibration sees when it comes to a site: all calibration samples, in batches.

    Attributes:
        site: its name.
        module: the site, whose thresholds, potentials and biases may be set.
        neuron: the neuron model.
        source: per batch the source network's pre-activation ``[N, *]``.
        currents: per batch what arrives from the sites before it, which are calibrated already: ``[S, N, *]``,
            without the site's own bias.
        schedule: how the neurons run.
        emit: the events ``[S_out, N, *]`` that the neurons, as they are set now, send for one batch's currents.
        answers: whether its spikes reach the answer but no other neurons.
    """

    site: str
    module: Site
    neuron: Neuron
    source: Sequence[Tensor]
    currents: Sequence[Tensor]
    schedule: Schedule
    emit: Callable[[Tensor], Tensor]
    answers: bool = False

    @property
    def wanted(self) -> list[Tensor]:
        """Per batch the source network's activation ``[N, *]``."""
        return [self.module(z) for z in self.source]

    def mean_outputs(self) -> list[Tensor]:
        """Per batch what the neurons' output stands for ``[N, *]``, as they are set now."""
        return [
            self.schedule.total(self.schedule.values(self.emit(currents), self.module.theta))
            for currents in self.currents
        ]

    def drive(self, currents: Tensor) -> Tensor:
        """Currents of all steps, ``[S, N, *]``, with the site's bias."""
        start = torch.zeros((), dtype=torch.int64, device=currents.device)
        return self.module.biased(currents, start, once=self.schedule.incremental)

    def mean_drives(self) -> list[Tensor]:
        """Per batch what the drive stands for, ``[N, *]``."""
        return [self.schedule.total(self.drive(currents)) for currents in self.currents]


class Correction(Part, ABC):
    """Changes a converted network, stage by stage, by comparing it with its source on unlabelled data.

    All samples pass a stage, it is updated, and what it now emits goes to the next one, so that later stages see the
    errors that earlier ones still make. The network runs under the schedule of the conversion. Subclasses are frozen
    records with one more field or property:

    Attributes:
        steps: for how many time-steps to calibrate.
        only_moves_potentials: whether initial potentials are all that it sets.
    """

    steps: int
    only_moves_potentials: ClassVar[bool] = False
    keeps_grid: ClassVar[bool] = True

    @property
    def rounds(self) -> int:
        """How often to go through the network."""
        return 1

    def unsupported_reason(self, schedule: Schedule) -> str | None:
        """Why it cannot be made for a schedule; None if it can."""
        if schedule.passes > 1:
            return "stages are corrected in one pass"
        if schedule.incremental and self.only_moves_potentials:
            return "digits do not depend on initial potentials"
        return None

    @abstractmethod
    def update(self, stage: StageView) -> None:
        """Sets thresholds, potentials or biases of ``stage.module``."""


class SpikingThresholdRule(Correction):
    """Sets the thresholds of ReLU sites from currents of sites that spike already; takes a threshold rule's place.

    All layers step together meanwhile, whatever the schedule of the conversion. The initial potentials follow by the
    conversion's own rule before the site emits.
    """


Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True, eq=False)
class BlockView:
    """What a reconstruction sees when it comes to a block: all calibration samples at once.

    Attributes:
        name: of the node that ends it.
        sites: its sites by name.
        end: the site that ends it, None for the block that ends with the answer.
        layers: its convolutions and linear layers that no other call shares; they belong to the converted network.
        source: the block's inputs in the source network, each ``[N, *]``.
        inputs: the same as the spiking network sends it, by the schedule's formula or from a run.
        target: the source network's output of the block, ``[N, *]``; an answer of several tensors is one row.
        run: the block with quantised sites, as it is set now, on any inputs.
        run_open: the same, but ``end`` is the source's activation of its drive; differentiable in weights and in
            the thresholds of the other sites.
    """

    name: str
    sites: Mapping[str, Site]
    end: Site | None
    layers: Sequence[Layer]
    source: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    target: Tensor
    run: Callable[..., Tensor]
    run_open: Callable[..., Tensor]


class BlockCorrection(Part, ABC):
    """Changes a converted network block by block, weights included, by comparing it with its source.

    Blocks are given what the conversion's schedule sends on the average of the steps.

    Attributes:
        steps: T; under a layer-after-layer schedule with as many probe steps, a site has ``T + 1`` values.
    """

    steps: int

    def unsupported_reason(self, schedule: Schedule) -> str | None:
        """Why it cannot be made for a schedule; None if it can."""
        return "blocks are made of staircases, not of digits" if schedule.incremental else None

    @property
    def changes_weights(self) -> bool:
        """Whether the network's graph is no longer its source afterwards, with which other parts compare."""
        return True

    @property
    def as_one(self) -> bool:
        """Whether the whole network is one block."""
        return False

    @abstractmethod
    def update(self, block: BlockView) -> None:
        """Sets what belongs to the block; gradients are recorded."""


def average(batches: Iterable[Tensor]) -> Tensor:
    """Mean over the samples of batches ``[N, *]``, which may differ in size: ``[*]`` in float64."""
    total, samples = torch.zeros((), dtype=torch.float64), 0
    for batch in batches:
        total = total.to(batch.device) + batch.sum(0, dtype=torch.float64)
        samples += batch.shape[0]
    return total / samples


def rows_of(granularity: Granularity, z: Tensor, site: str) -> Tensor:
    """The rows ``[rows, values]`` of ``z [N, *]``.

    Raises:
        CalibrationError: thresholds are to be per channel and there are none.
    """
    if z.dim() < 2 and isinstance(granularity, PerChannel):
        raise CalibrationError(
            f"site {site!r} has shape {tuple(z.shape)} and no channels",
            fix="use PerLayer() thresholds",
            shell_fix="pass --per layer",
        )
    return granularity.rows(z)


def set_thresholds(site: Site, values: Tensor, granularity: Granularity, dimensions: int) -> None:
    """Sets a site's thresholds from one value per row, 0 for none; a clipped ReLU's ceiling bounds them.

    Args:
        site: whose thresholds to set.
        values: one per row of a batch with ``dimensions`` dimensions.
        granularity: what the rows are.
        dimensions: of a batch, ``[N, *]``.
    """
    values = fill_silent(values)
    if site.ceiling is not None:
        values = values.clamp_max(site.ceiling)
    site.set_threshold(granularity.shape(values, dimensions))


def fill_silent(values: Tensor) -> Tensor:
    """Replaces thresholds of rows that never were active by the largest of the others, or by 1 if all are silent.

    A silent channel has no evidence for any threshold; the largest one makes stray activity cause the fewest spikes.
    """
    active = values > 0
    substitute = values[active].max() if bool(active.any()) else torch.ones((), dtype=values.dtype)
    return torch.where(active, values, substitute.to(values))
