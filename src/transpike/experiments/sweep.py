"""Sweeps: which networks are trained and converted to choose N, c and the other settings of SlipReLU."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from typing import Any

from transpike.activations import Gradient, SlipReLU, ThetaPercentile
from transpike.data.contract import check_images_word
from transpike.errors import DataError, known_words
from transpike.experiments.recipe import Training
from transpike.serialization.digest import digest
from transpike.serialization.fields import check_count, check_fields
from transpike.serialization.json_records import to_json

AXES = ("levels", "slopes", "shifts", "ramp_shifts", "gradients", "theta_inits")
"""The fields of a `Sweep` that settings of the activation are taken from, in the order of the grid."""
_FIELDS = ("levels", "slope", "shift", "ramp_shift", "gradient", "theta_init")

_RELU = Training("relu", epochs=25, learning_rate=0.1)
_SLIP = Training("slip", epochs=20, learning_rate=0.05, start="relu")

_THETA = ThetaPercentile(99.0)


class Search(StrEnum):
    """Which settings of the grid are tried."""

    GRID = "grid"
    RANDOM = "random"
    OPTUNA = "optuna"


@dataclass(frozen=True)
class Setting:
    """What a sweep chooses.

    Attributes:
        network: name in the zoo.
        activation: what its ReLUs become.
    """

    network: str
    activation: SlipReLU

    def __str__(self) -> str:
        a = self.activation
        rest = {
            "delta": None if a.shift == 0.5 else f"{a.shift:g}",
            "delta1": None if a.ramp_shift == 0 else f"{a.ramp_shift:g}",
            "gradient": None if a.gradient is Gradient.RELEASED else a.gradient.value,
            "theta": None if a.theta_init == _THETA else theta_words(a.theta_init),
        }
        words = [f"N={a.levels}", f"c={a.slope:g}", *(f"{key}={word}" for key, word in rest.items() if word)]
        return ", ".join(words)


@dataclass(frozen=True)
class Trial:
    """One network that is trained and converted.

    Attributes:
        setting: network and activation.
        seed: of weights, of the split into training and validation part, and of the order.
    """

    setting: Setting
    seed: int

    def __str__(self) -> str:
        return f"{self.setting.network}, {self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Sweep:
    """What is tried: every combination of the axes with every seed, or a search among them.

    For each network and seed a plain ReLU network is trained once. It is the reference of the criterion (section 4.4 of
    the SlipReLU paper), and where ``training`` starts from ``"relu"`` every trial is fine-tuned from it.

    Attributes:
        data: name of the data set.
        networks: names in the zoo.
        levels: N.
        slopes: c.
        shifts: delta.
        ramp_shifts: delta1, in units of theta.
        gradients: surrogate derivatives.
        theta_inits: initial thresholds, numbers or `ThetaPercentile`.
        seeds: each setting is tried with all of them; the criterion is the mean.
        relu: how ReLU networks are trained; named ``"relu"``.
        training: how trials are trained; it starts from ``"relu"``, or from fresh weights where ``start`` is None.
        at: every T that trials are measured at, ascending.
        criterion_steps: the T whose criterion `prune` and `Search.OPTUNA` look at; one of ``at``. The paper's is 1.
        calibration_images: training images, without labels, that set initial thresholds.
        images: test images, see `transpike.data.test_images`; they are reported and never chosen by.
        search: grid, random settings of it, or those that Optuna's TPE proposes.
        samples: how many settings a search tries; None for the grid.
        prune: stop trials early by ASHA whose criterion on the validation part is not among the best half.
    """

    data: str
    networks: tuple[str, ...]
    levels: tuple[int, ...]
    slopes: tuple[float, ...]
    shifts: tuple[float, ...] = (0.5,)
    ramp_shifts: tuple[float, ...] = (0.0,)
    gradients: tuple[Gradient, ...] = (Gradient.RELEASED,)
    theta_inits: tuple[float | ThetaPercentile, ...] = (_THETA,)
    seeds: tuple[int, ...] = (0,)
    relu: Training = _RELU
    training: Training = _SLIP
    at: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    criterion_steps: int = 1
    calibration_images: int = 512
    images: str = "all"
    search: Search = Search.GRID
    samples: int | None = None
    prune: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("levels", "slopes", "shifts", "ramp_shifts", "seeds", "at"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
        for name in ("networks", *AXES, "seeds", "at"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} must name at least one value")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must not name a value twice, got {[getattr(v, 'value', v) for v in values]}")
        for steps in self.at:
            check_count("at", steps)
        for seed in self.seeds:
            check_count("seeds", seed, 0)
        check_count("calibration_images", self.calibration_images)
        try:
            check_images_word(self.images)
        except DataError as error:
            raise ValueError(error.what) from error
        if self.criterion_steps not in self.at:
            raise ValueError(f"criterion_steps must be one of at, {list(self.at)}, got {self.criterion_steps}")
        if self.relu.name != "relu" or self.relu.start is not None or self.relu.activation is not None:
            raise ValueError("relu must be named 'relu', start from fresh weights and have no activation")
        if self.training.name == "relu" or self.training.start not in (None, "relu") or self.training.activation:
            raise ValueError("training must have a name of its own, start from 'relu' or None and have no activation")
        if (self.samples is None) != (self.search is Search.GRID):
            raise ValueError("samples belongs to a random or optuna search, which needs it; the grid tries everything")
        if self.samples is not None:
            check_count("samples", self.samples)
        self.grid()  # SlipReLU refuses settings out of range

    def grid(self) -> list[Setting]:
        """All combinations of the axes."""
        values = product(*(getattr(self, axis) for axis in AXES))
        activations = [SlipReLU(**dict(zip(_FIELDS, found, strict=True))) for found in values]
        return [Setting(network, activation) for network in self.networks for activation in activations]

    def settings(self) -> list[Setting]:
        """What the grid or the random search tries.

        A random search draws without replacement: a setting that is drawn twice would be trained once.
        """
        found = self.grid()
        if self.search is Search.RANDOM:
            random.Random(self.seeds[0]).shuffle(found)
        return found if self.samples is None else found[: self.samples]

    def trials(self, settings: Sequence[Setting] | None = None) -> list[Trial]:
        """Trials of settings, seed by seed; None takes `settings`."""
        found = self.settings() if settings is None else settings
        return [Trial(setting, seed) for seed in self.seeds for setting in found]

    def trained(self, trial: Trial) -> Training:
        """How one trial is trained."""
        return replace(self.training, activation=trial.setting.activation)

    def key(self, trial: Trial, data: str, version: str) -> str:
        """Digest of all that a trial's numbers depend on, by which a finished one is known.

        Args:
            trial: which.
            data: digest of the data.
            version: of the library and its counting.
        """
        shared = (self.relu, self.training, self.at, self.calibration_images, self.images)
        return digest("trial", trial, *shared, self.criterion_steps if self.prune else 0, data, version)


def theta_words(start: float | ThetaPercentile) -> str:
    """An initial threshold: ``8``, or ``p99`` for a percentile."""
    return f"p{start.percentile:g}" if isinstance(start, ThetaPercentile) else f"{start:g}"


def first_difference(old: Sweep, new: Sweep) -> str:
    """The first field in which two sweeps differ, with both values; empty where they are equal."""
    for field in dataclasses.fields(Sweep):
        before, now = getattr(old, field.name), getattr(new, field.name)
        if before != now:
            return f"{field.name} was {_shown(before)}, and is {_shown(now)}"
    return ""


def _shown(value: Any) -> str:
    if isinstance(value, Training):
        return ", ".join(f"{key}={entry}" for key, entry in to_json(value).items() if key != "kind")
    return str(to_json(value))


def find_search(word: str) -> Search:
    """A search by name.

    Raises:
        ValueError: there is none.
    """
    if word not in list(Search):
        raise ValueError(f"there is no search {word!r}; {known_words(word, list(Search))}")
    return Search(word)
