"""Published ways to convert a pretrained ReLU network, each as one `Conversion` for a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from transpike.errors import known_words
from transpike.neurons import IF, Burst, EventKind, Reset, SignedIF
from transpike.rules import (
    AnswerThresholds,
    BiasCorrection,
    BlockCorrection,
    BlockReconstruction,
    Conversion,
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
from transpike.schedules import AccumulateThenFire, OffsetSpike, Radix, Schedule, SignedDigits, Staggered, Wait
from transpike.schedules.contract import MOST_STEPS
from transpike.schedules.digits import MOST_DIGITS, DigitCode
from transpike.serialization.fields import check_count


class Requirement(Enum):
    """What a method takes besides the network. None of the table needs labels or trains the whole network."""

    DATA = "data"
    WEIGHTS = "changes weights"
    NEGATIVE = "negative spikes"
    SEVERAL = "several spikes per step"


@dataclass(frozen=True)
class Method:
    """One way to convert a pretrained network; called with a number of steps, it gives the `Conversion`.

    Attributes:
        name: its key in `METHODS`.
        paper: where it comes from.
        make: from T, the number of steps that it is tuned for; a layer-after-layer schedule probes as many.
    """

    name: str
    paper: str
    make: Callable[[int], Conversion]

    def __call__(self, steps: int | None = None) -> Conversion:
        """The conversion for T = ``steps``, which only a method that is tuned for T needs.

        Raises:
            TypeError: the steps are missing.
            ValueError: steps below 1.
        """
        if steps is None and self.tuned:
            raise TypeError(f"{self.name} is tuned for T: pass steps=8, for example")
        steps = 1 if steps is None else steps
        return self.make(check_count("steps", steps, most=MOST_STEPS))

    @property
    def tuned(self) -> bool:
        """Whether every T wants a conversion of its own."""
        return self(1) != self(2)

    @property
    def trains(self) -> bool:
        """Whether it trains weights or thresholds on the network's answers, which takes minutes."""
        return any(isinstance(part, BlockReconstruction) for part in self(1).parts)

    @property
    def needs(self) -> tuple[Requirement, ...]:
        """What it takes, read from its parts and its neuron."""
        made = self(1)
        wanted = {
            Requirement.DATA: any(not isinstance(part, PotentialRule) for part in made.parts),
            Requirement.WEIGHTS: any(isinstance(part, BlockCorrection) and part.changes_weights for part in made.parts),
            Requirement.NEGATIVE: made.events is EventKind.SIGNED,
            Requirement.SEVERAL: made.events is EventKind.COUNT,
        }
        return tuple(need for need, present in wanted.items() if present)


_CHANNEL = PerChannel()
_LOOK = 16
"""Steps of the drive that Spike-Norm sees; its papers take 2500, whose currents no memory holds for all images."""


def _mse(steps: int, *corrections: Part, schedule: Schedule | None = None) -> Conversion:
    """Thresholds of least squared error per channel, theta/2, then corrections."""
    return Conversion.of(MinimumMSE(steps, _CHANNEL), HalfThreshold(), *corrections, schedule=schedule)


def _quantised(steps: int, *corrections: Part) -> Conversion:
    """Accumulate-then-fire, with biases corrected for it."""
    return _mse(steps, BiasCorrection(steps), *corrections, schedule=AccumulateThenFire(steps))


def digit_conversion(schedule: DigitCode) -> Conversion:
    """Full scales of least squared error at the code's resolution, and biases corrected under it."""
    return _mse(schedule.levels, BiasCorrection(schedule.digits), schedule=schedule)


def _finetuned(steps: int) -> Conversion:
    """Thresholds and biases of all layers trained at once, then the last layer's for an answer in half the steps."""
    at_once = BlockReconstruction(steps, weight_rate=0.0, threshold_rate=1e-3, whole=True)
    return _quantised(steps, at_once, AnswerThresholds(max(1, steps // 2)))


_TABLE = (
    Method(
        "maximum",
        "Diehl et al. 2015: largest activation, v(0) = 0, reset to zero",
        lambda _: Conversion(Maximum(), ZeroPotential(), neuron=IF(Reset.HARD)),
    ),
    Method(
        "percentile",
        "Rueckauer et al. 2017: 99.9th percentile, v(0) = 0, reset by subtraction",
        lambda _: Conversion(Percentile(99.9), ZeroPotential()),
    ),
    Method(
        "spike-norm",
        "Sengupta et al. 2019: largest drive that spikes cause, v(0) = 0, reset to zero",
        lambda _: Conversion(SpikeNorm(_LOOK), ZeroPotential(), neuron=IF(Reset.HARD)),
    ),
    Method(
        "rmp",
        "Han et al. 2020 (RMP): 0.8 of that, v(0) = 0, reset by subtraction",
        lambda _: Conversion(SpikeNorm(_LOOK, 0.8), ZeroPotential()),
    ),
    Method(
        "opi",
        "Bu et al. 2022 (OPI): v(0) = theta/2, with the 99.9th percentile",
        lambda _: Conversion(Percentile(99.9), HalfThreshold()),
    ),
    Method(
        "local-balancing",
        "Bu et al. 2025 (LTB): thresholds by gradient descent on the clipping error, v(0) = theta/2",
        lambda _: Conversion(LocalThresholdBalancing(), HalfThreshold()),
    ),
    Method(
        "gaussian-mse",
        "DCGS: least squared error for normal pre-activations, per channel",
        lambda steps: Conversion(GaussianMSE(steps, _CHANNEL), HalfThreshold()),
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
        lambda steps: _mse(steps, PotentialCorrection(steps), BlockReconstruction(steps, mixing=0.0)),
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
        lambda _: Conversion(Percentile(99.9, _CHANNEL), HalfThreshold(), neuron=SignedIF()),
    ),
    Method(
        "burst",
        "Li & Zeng 2022: up to five spikes per step, with the 99.9th percentile per channel",
        lambda _: Conversion(Percentile(99.9, _CHANNEL), HalfThreshold(), neuron=Burst()),
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
    Method(
        "radix",
        "ours, after Kim et al. 2018 (phase coding) and Wang et al. 2022 (radix encoding): bits of accumulated counts",
        lambda steps: digit_conversion(Radix(min(steps, MOST_DIGITS))),
    ),
    Method(
        "digits",
        "ours, after Ercegovac 1984 (online arithmetic): signed digits, the most significant first, lag 1 at each site",
        lambda steps: digit_conversion(SignedDigits(min(steps, MOST_DIGITS))),
    ),
    Method("accumulate", "ours: accumulate-then-fire and corrected biases", _quantised),
    Method(
        "accumulate-finetuned",
        "ours: the same, thresholds and biases trained on the ANN's answers, the last layer's thresholds for T/2 steps",
        _finetuned,
    ),
    Method(
        "reconstruction",
        "ours, after BRECQ (Li et al. 2021) and QDrop (Wei et al. 2022): weights and thresholds trained block by block",
        lambda steps: _quantised(steps, BlockReconstruction(steps)),
    ),
)


class Methods(Mapping[str, Method]):
    """Methods by name; printed, it lists the names."""

    def __init__(self, methods: Iterable[Method]) -> None:
        self._methods = {method.name: method for method in methods}

    def __getitem__(self, name: str) -> Method:
        if name not in self._methods:
            raise KeyError(f"there is no method {name!r}; {known_words(str(name), self._methods)}")
        return self._methods[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._methods)

    def __len__(self) -> int:
        return len(self._methods)

    def __repr__(self) -> str:
        return ", ".join(self)


METHODS = Methods(_TABLE)
"""All methods by name."""


def find_methods(names: str) -> list[Method]:
    """``"all"``, ``"untrained"`` (those that train nothing), or names separated by commas.

    Raises:
        ValueError: an unknown name.
    """
    if names == "all":
        return list(METHODS.values())
    if names == "untrained":
        return [method for method in METHODS.values() if not method.trains]
    wanted = [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise ValueError(f"there is no method {unknown[0]!r}; {known_words(unknown[0], METHODS)}")
    return [METHODS[name] for name in wanted]
