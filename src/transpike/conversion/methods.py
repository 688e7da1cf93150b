"""Published ways to convert a pretrained ReLU network, each as one composition of parts, neuron and schedule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from torch import nn

from transpike.calibration import CalibrationData
from transpike.conversion.convert import convert
from transpike.graph.capture import LeafModules
from transpike.graph.example_run import Inputs
from transpike.graph.operators import MaxPooling
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Burst, EventKind, Neuron, Reset, SignedIF
from transpike.rules import (
    BiasCorrection,
    BlockCalibration,
    BlockReconstruction,
    GaussianMSE,
    HalfThreshold,
    LocalThresholdBalancing,
    Maximum,
    MinimumMSE,
    OptimalPotential,
    Part,
    Percentile,
    PerChannel,
    PotentialCorrection,
    PotentialRule,
    SpikeNorm,
    TemporalBiasCorrection,
    ZeroPotential,
)
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Schedule, Staggered, Wait


class Need(Enum):
    """What a method takes besides the network. None of the catalogue needs labels or trains the whole network."""

    DATA = "data"
    WEIGHTS = "changes weights"
    NEGATIVE = "negative spikes"
    SEVERAL = "several spikes per step"


@dataclass(frozen=True)
class Composition:
    """What a method makes of a network for one number of steps.

    Attributes:
        parts: for `convert`.
        neuron: of all sites.
        schedule: how the converted network is to run.
    """

    parts: tuple[Part, ...]
    neuron: Neuron = field(default_factory=IF)
    schedule: Schedule = field(default_factory=Plain)


@dataclass(frozen=True)
class Method:
    """One way to convert a pretrained network.

    Attributes:
        name: its key in `METHODS`.
        paper: where it comes from.
        compose: from T, the number of steps that it is tuned for; a layer-after-layer schedule probes as many.
    """

    name: str
    paper: str
    compose: Callable[[int], Composition]

    @property
    def tuned(self) -> bool:
        """Whether every T wants a conversion of its own."""
        return self.compose(1) != self.compose(2)

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it takes, read from its parts and its neuron."""
        made = self.compose(1)
        wanted = {
            Need.DATA: any(not isinstance(part, PotentialRule) for part in made.parts),
            Need.WEIGHTS: any(isinstance(part, BlockCalibration) and part.changes_weights for part in made.parts),
            Need.NEGATIVE: made.neuron.events is EventKind.SIGNED,
            Need.SEVERAL: made.neuron.events is EventKind.COUNT,
        }
        return tuple(need for need, present in wanted.items() if present)


_CHANNEL = PerChannel()
_LOOK = 16
"""Steps of the drive that Spike-Norm sees; its papers take 2500, whose currents no memory holds for all images."""


def _mse(steps: int, *more: Part, schedule: Schedule | None = None) -> Composition:
    """Thresholds of least squared error per channel, theta/2, then more parts."""
    return Composition((MinimumMSE(steps, _CHANNEL), HalfThreshold(), *more), schedule=schedule or Plain())


def _quantised(steps: int, *more: Part) -> Composition:
    """Accumulate-then-fire, with biases corrected for it."""
    schedule = AccumulateThenFire(steps)
    return _mse(steps, BiasCorrection(steps, schedule), *more, schedule=schedule)


_TABLE = (
    Method(
        "maximum",
        "Diehl et al. 2015: largest activation, v(0) = 0, reset to zero",
        lambda _: Composition((Maximum(), ZeroPotential()), IF(Reset.HARD)),
    ),
    Method(
        "percentile",
        "Rueckauer et al. 2017: 99.9th percentile, v(0) = 0, reset by subtraction",
        lambda _: Composition((Percentile(99.9), ZeroPotential())),
    ),
    Method(
        "spike-norm",
        "Sengupta et al. 2019: largest drive that spikes cause, v(0) = 0, reset to zero",
        lambda _: Composition((SpikeNorm(_LOOK), ZeroPotential()), IF(Reset.HARD)),
    ),
    Method(
        "rmp",
        "Han et al. 2020 (RMP): 0.8 of that, v(0) = 0, reset by subtraction",
        lambda _: Composition((SpikeNorm(_LOOK, 0.8), ZeroPotential())),
    ),
    Method(
        "opi",
        "Bu et al. 2022 (OPI): v(0) = theta/2, with the 99.9th percentile",
        lambda _: Composition((Percentile(99.9), HalfThreshold())),
    ),
    Method(
        "local-balancing",
        "Bu et al. 2025 (LTB): thresholds by gradient descent on the clipping error, v(0) = theta/2",
        lambda _: Composition((LocalThresholdBalancing(), HalfThreshold())),
    ),
    Method(
        "gaussian-mse",
        "DCGS: least squared error for normal pre-activations, per channel",
        lambda steps: Composition((GaussianMSE(steps, _CHANNEL), HalfThreshold())),
    ),
    Method("minimum-mse", "Li et al. 2021 (SNNC), section 4.2, per channel", _mse),
    Method(
        "snnc-light-bias",
        "Li et al. 2021 (SNNC light): biases",
        lambda steps: _mse(steps, BiasCorrection(steps)),
    ),
    Method(
        "snnc-light-potential",
        "Li et al. 2021 (SNNC light): initial potentials",
        lambda steps: _mse(steps, PotentialCorrection(steps)),
    ),
    Method(
        "snnc-advanced",
        "Li et al. 2021 (SNNC advanced), by blocks: weights trained on the spiking network's mean inputs",
        lambda steps: _mse(
            steps, PotentialCorrection(steps), BlockReconstruction(steps, mixing=0.0, stepping_together=True)
        ),
    ),
    Method(
        "optimal-potential",
        "ours: initial potentials searched per channel",
        lambda steps: _mse(steps, OptimalPotential(steps)),
    ),
    Method(
        "ftbc",
        "Wu et al. 2024 (FTBC): biases per step, on thresholds of least squared error",
        lambda steps: _mse(steps, TemporalBiasCorrection(steps)),
    ),
    Method(
        "snm",
        "Wang et al. 2022 (SNM): signed neurons, with the 99.9th percentile per channel",
        lambda _: Composition((Percentile(99.9, _CHANNEL), HalfThreshold()), SignedIF()),
    ),
    Method(
        "burst",
        "Li & Zeng 2022: up to five spikes per step, with the 99.9th percentile per channel",
        lambda _: Composition((Percentile(99.9, _CHANNEL), HalfThreshold()), Burst()),
    ),
    Method(
        "withhold",
        "ours: every layer withholds the spikes of its first step, on thresholds of least squared error",
        lambda steps: _mse(steps, schedule=Staggered(1, wait=Wait.WITHHOLD)),
    ),
    Method(
        "cos",
        "Hao et al. 2023 (COS, ICLR), on thresholds of least squared error",
        lambda steps: _mse(steps, schedule=OffsetSpike(steps)),
    ),
    Method("accumulate", "ours: accumulate-then-fire and corrected biases", _quantised),
    Method(
        "reconstruction",
        "ours, after BRECQ (Li et al. 2021) and QDrop (Wei et al. 2022): weights and thresholds trained block by block",
        lambda steps: _quantised(steps, BlockReconstruction(steps)),
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _TABLE})
"""All methods by name."""


def find_methods(names: str) -> list[Method]:
    """``"all"``, or names separated by commas.

    Raises:
        ValueError: an unknown name.
    """
    if names == "all":
        return list(METHODS.values())
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}; known: {', '.join(METHODS)}")
    return [METHODS[name] for name in wanted]


def convert_by(
    method: Method,
    model: nn.Module,
    *,
    steps: int,
    calibration: CalibrationData,
    example_inputs: Inputs,
    leave: str | Collection[str] = (),
    leaf_modules: LeafModules = (),
    max_pooling: MaxPooling = MaxPooling.RUNNING,
    progress: bool = False,
) -> SpikingNetwork:
    """Converts a network by one method; the schedule that belongs to it is then ``snn.recommended``.

    Args:
        method: a row of `METHODS`, or one of the user's own.
        model: the trained network, which is not changed.
        steps: T, at least 1.
        calibration: unlabelled training inputs.
        example_inputs: as for `convert`.
        leave: as for `convert`.
        leaf_modules: as for `convert`.
        max_pooling: as for `convert`.
        progress: show progress bars.

    Raises:
        ValueError: steps below 1, or the neuron or a part refuses the network.
        TranspikeError: see `convert`.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    made = method.compose(steps)
    snn = convert(
        model,
        made.parts,
        example_inputs=example_inputs,
        calibration=calibration,
        leave=leave,
        leaf_modules=leaf_modules,
        neuron=made.neuron,
        max_pooling=max_pooling,
        progress=progress,
    )
    snn.record["schedule"] = made.schedule
    return snn
