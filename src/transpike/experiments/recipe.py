"""Recipes: records of what trains, converts and evaluates a table of rows, from TOML files or from Python."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from transpike.activations import ACTIVATIONS, ActivationSettings, ThetaPercentile
from transpike.conversion.config import read_conversion, read_part
from transpike.conversion.methods import Method
from transpike.errors import ConfigError, RecipeError
from transpike.evaluation.evaluate import rows_for
from transpike.rules import Conversion
from transpike.schedules import Schedule
from transpike.serialization.fields import check_fields

PRETRAINED = "pretrained"
"""The name of the network that a recipe's ``weights`` give."""


@dataclass(frozen=True)
class Training:
    """One network to train: with plain ReLU, or with an activation, from fresh weights or another network's.

    Attributes:
        name: what rows and later trainings call it.
        epochs: passes over the training images.
        learning_rate: initial.
        start: a training before it or, where the recipe has ``weights``, ``"pretrained"``; None is fresh weights.
        batch_size, warmup_steps, spike_penalty, precision: see `transpike.fit`.
        activation: what the ReLUs become first; None keeps them.
    """

    name: str
    epochs: int
    learning_rate: float
    start: str | None = None
    batch_size: int = 128
    warmup_steps: int = 0
    spike_penalty: float = 0.0
    precision: str = "32-true"
    activation: ActivationSettings | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Run:
    """One conversion and the numbers of steps that it is evaluated at.

    Attributes:
        conversion: how the network is converted.
        at: every T, ascending.
        schedule: how it runs; None is the conversion's own.
    """

    conversion: Conversion
    at: tuple[int, ...]
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(sorted(set(self.at))))
        if not self.at or self.at[0] < 1:
            raise ValueError(f"at must name numbers of steps from 1 on, got {list(self.at)}")


@dataclass(frozen=True)
class RecipeRow:
    """One row of the table: a network, its conversions, and which test images.

    Attributes:
        label: what the row is called.
        network: a training's name, or ``"pretrained"``.
        runs: one, or one for every T.
        images: test images, see `transpike.data.test_images`.
        calibration_views: augmented copies of every calibration image, see `transpike.data.augmented_views`.
        published: published accuracies in percent by T.
        published_in: where.
    """

    label: str
    network: str
    runs: tuple[Run, ...]
    images: str = "all"
    calibration_views: int = 0
    published: Mapping[int, float] = field(default_factory=dict)
    published_in: str = ""

    def __post_init__(self) -> None:
        if not self.runs or self.calibration_views < 0:
            raise ValueError(f"row {self.label!r} needs a run, and calibration_views of at least 0")


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs.

    Attributes:
        name: file name without ending.
        about: one line.
        network: name in the zoo.
        data: name of the data set.
        seed: of weights, splits and order.
        calibration_images: training images, without labels, for conversions.
        weights: file with pretrained ReLU weights in the folder TRANSPIKE_PRETRAINED, or None.
        trainings: networks to train, in order.
        rows: what is converted and evaluated.
    """

    name: str
    about: str
    network: str
    data: str
    seed: int
    calibration_images: int
    weights: str | None
    trainings: tuple[Training, ...]
    rows: tuple[RecipeRow, ...]

    def __post_init__(self) -> None:
        known = {PRETRAINED} if self.weights else set()
        for training in self.trainings:
            if training.start is not None and training.start not in known:
                raise ValueError(f"{training.name!r} starts from {training.start!r}, which is not trained before it")
            known.add(training.name)
        for row in self.rows:
            if row.network not in known:
                raise ValueError(f"row {row.label!r} names the network {row.network!r}; there is {sorted(known)}")
        labels = [row.label for row in self.rows]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two rows have the same label: {labels}")


def method_runs(method: Method, at: Sequence[int]) -> tuple[Run, ...]:
    """The runs of a method of the table: one for every T where it is tuned for T, else one for all."""
    if method.tuned:
        return tuple(Run(method(steps), (steps,)) for steps in sorted(set(at)))
    return (Run(method(max(at)), tuple(at)),)


def recipes() -> dict[str, Recipe]:
    """The recipes that come with the library, by name."""
    folder = files("transpike.experiments.recipes")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {name[:-5]: parse_recipe((folder / name).read_text(encoding="utf-8"), name[:-5]) for name in names}


def find_recipe(name: str) -> Recipe:
    """A recipe by name, or from a ``*.toml`` file of the user's.

    Raises:
        RecipeError: there is no such recipe, or it is malformed.
    """
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise RecipeError("there is no such file", where=name, fix="check the path")
        return parse_recipe(path.read_text(encoding="utf-8"), path.stem)
    known = recipes()
    if name not in known:
        raise RecipeError(f"there is no recipe {name!r}", fix=f"known: {', '.join(known)}; or a *.toml file")
    return known[name]


def parse_recipe(text: str, name: str) -> Recipe:
    """Reads a recipe from TOML.

    The fields are those of `Recipe`, with tables ``[[train]]`` for `Training` and ``[[row]]`` for `RecipeRow`. An
    activation is a table of settings, with its ``name`` if it is not ``slip``. A row
    has ``conversion``, a table for `transpike.conversion.config.read_conversion` (left out: trained thresholds), and
    either ``at``, a list of T, or ``steps``, the largest T (left out: the recipe's ``steps``). Where a setting of the
    conversion is ``"each"``, there is one conversion for every T in ``at``, with T in its place. ``schedule`` runs the
    converted network otherwise than it was converted for. ``published`` has ``source`` and ``top1``, accuracies by T.

    Raises:
        RecipeError: it is no TOML, a field is missing or unknown, or a value is refused.
    """
    try:
        raw = tomllib.loads(text)
        trainings = tuple(_training(entry) for entry in raw.pop("train", []))
        steps = raw.pop("steps", None)
        rows = tuple(_row(entry, steps) for entry in raw.pop("row"))
        if not rows:
            raise ValueError("there is no row")
        return Recipe(name=name, weights=raw.pop("weights", None), trainings=trainings, rows=rows, **raw)
    except ConfigError as error:
        raise RecipeError(
            f"the recipe is malformed: {error.what}", where=f"{name}, {error.where}", fix=error.fix
        ) from error
    except (tomllib.TOMLDecodeError, TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"the recipe is malformed: {error}", where=name) from error


def _training(entry: dict[str, Any]) -> Training:
    settings = entry.pop("activation", None)
    if settings is not None:
        if "theta_percentile" in settings:
            settings["theta_init"] = ThetaPercentile(settings.pop("theta_percentile"))
        settings = ACTIVATIONS[settings.pop("name", "slip")](**settings)
    return Training(**entry, activation=settings)


def _row(entry: dict[str, Any], steps: int | None) -> RecipeRow:
    label = entry.get("label")
    where = f"row {label!r}"
    words, schedule = entry.pop("conversion", {}), entry.pop("schedule", None)
    override = None if schedule is None else read_part("schedule", schedule, where)
    at, last = entry.pop("at", None), entry.pop("steps", steps)
    if at is None and last is None:
        raise ValueError(f"{where} needs steps or at")
    if _names_each(words):
        if at is None:
            raise ValueError(f'{where} says "each", and needs at, the list of T')
        runs = tuple(Run(read_conversion(_with_steps(words, t), where), (t,), override) for t in at)
    else:
        conversion = read_conversion(words, where)
        wanted = rows_for(last, override or conversion.schedule) if at is None else at
        runs = (Run(conversion, tuple(wanted), override),)
    published = entry.pop("published", {})
    top1 = {int(t): float(value) for t, value in published.get("top1", {}).items()}
    return RecipeRow(**entry, runs=runs, published=top1, published_in=published.get("source", ""))


def _names_each(words: Any) -> bool:
    if isinstance(words, Mapping):
        return any(_names_each(value) for value in words.values())
    return any(map(_names_each, words)) if isinstance(words, list) else words == "each"


def _with_steps(words: Any, steps: int) -> Any:
    """The words with T in the place of ``"each"``."""
    if isinstance(words, Mapping):
        return {key: _with_steps(value, steps) for key, value in words.items()}
    if isinstance(words, list):
        return [_with_steps(value, steps) for value in words]
    return steps if words == "each" else words
