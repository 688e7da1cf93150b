"""Recipes: records of what trains, converts and evaluates a table of rows, from TOML files or from Python."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from transpike.activations import ACTIVATIONS, ActivationSettings, ThetaPercentile
from transpike.conversion.config import read_conversion, read_part
from transpike.conversion.methods import Method
from transpike.data import Preparation
from transpike.errors import ConfigError, RecipeError
from transpike.evaluation.evaluate import rows_for
from transpike.experiments.offset_rows import OffsetRow, read_offset_row
from transpike.rules import Conversion
from transpike.schedules import Schedule
from transpike.serialization.fields import ADDED, check_count, check_fields

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
        activation: what the ReLUs become first; None keeps them, and max-pooling.
        network: name in the zoo of what starts with fresh weights; None is the recipe's.
        weight_decay: see `transpike.fit`.
        fallback_rate: the learning rate of a second try, where the first diverges or is still at chance after ten
            epochs; None makes no second try.
        seed: of order, augmentation and fresh weights; None is the recipe's.
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
    network: str | None = field(default=None, metadata=ADDED)
    weight_decay: float = field(default=5e-4, metadata=ADDED)
    fallback_rate: float | None = field(default=None, metadata=ADDED)
    seed: int | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.start is not None and self.network is not None:
            raise ValueError(f"{self.name!r} has start and network, which is for fresh weights; leave one out")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay of {self.name!r} must not be negative, got {self.weight_decay}")
        if self.fallback_rate is not None and not 0 < self.fallback_rate < math.inf:
            raise ValueError(f"fallback_rate of {self.name!r} must be positive, got {self.fallback_rate}")
        if self.seed is not None:
            check_count(f"seed of {self.name!r}", self.seed, 0)


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
    """One row of the table: a network, its conversions, and which test images; or published numbers alone.

    Attributes:
        label: what the row is called.
        network: a training's name, or ``"pretrained"``; empty where the row is only published.
        runs: one, or one for every T; none where the row is only published.
        images: test images, see `transpike.data.test_images`.
        calibration_views: augmented copies of every calibration image, see `transpike.data.augmented_views`.
        published: published accuracies in percent by T.
        published_in: where.
        published_ann: the published accuracy of the source network in percent, or None.
        repeats: networks that are measured besides, such as those of other seeds.
    """

    label: str
    network: str
    runs: tuple[Run, ...]
    images: str = "all"
    calibration_views: int = 0
    published: Mapping[int, float] = field(default_factory=dict)
    published_in: str = ""
    published_ann: float | None = None
    repeats: tuple[str, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        if self.calibration_views < 0:
            raise ValueError(f"row {self.label!r} needs calibration_views of at least 0, got {self.calibration_views}")
        if bool(self.network) != bool(self.runs):
            raise ValueError(f"row {self.label!r} needs a network and a run, or neither where it is only published")
        if not self.runs and not (self.published and self.published_in):
            raise ValueError(f"row {self.label!r} runs nothing, and needs published numbers and their source")
        numbers = [*self.published.values(), *([] if self.published_ann is None else [self.published_ann])]
        if not all(0 <= value <= 100 for value in numbers) or any(steps < 1 for steps in self.published):
            raise ValueError(f"published numbers of row {self.label!r} must be percentages by T, got {numbers}")


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs.

    Attributes:
        name: file name without ending.
        about: one line.
        network: name in the zoo, of trainings that name none of their own.
        data: name of the data set.
        seed: of weights, splits and order.
        calibration_images: training images, without labels, for conversions.
        weights: file with pretrained ReLU weights in the folder TRANSPIKE_PRETRAINED, or None.
        trainings: networks to train, in order.
        rows: what is converted and evaluated.
        preparation: normalisation and augmentation of the CIFAR sets.
        given: names of networks that a run is given, see `transpike.experiments.given`.
        offsets: rows about offset spikes.
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
    preparation: Preparation = Preparation.STANDARD
    given: tuple[str, ...] = field(default=(), metadata=ADDED)
    offsets: tuple[OffsetRow, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "preparation", Preparation(self.preparation))
        if self.preparation is not Preparation.STANDARD and not self.data.startswith("cifar"):
            raise ValueError(f"preparation is for the CIFAR sets, not for {self.data!r}; leave it out")
        known = {*self.given, *([PRETRAINED] if self.weights else [])}
        for training in self.trainings:
            if training.start is not None and training.start not in known:
                raise ValueError(f"{training.name!r} starts from {training.start!r}, which is not trained before it")
            known.add(training.name)
        names = [training.name for training in self.trainings]
        if len(set(names)) < len(names):
            raise ValueError(f"two trainings have the same name: {names}")
        for row in self.rows:
            for network in (row.network, *row.repeats) if row.runs else ():
                if network not in known:
                    raise ValueError(f"row {row.label!r} names the network {network!r}; there is {sorted(known)}")
        for offset in self.offsets:
            if offset.network not in known:
                raise ValueError(f"row {offset.label!r} names the network {offset.network!r}; there is {sorted(known)}")
        labels = [row.label for row in self.rows] + [row.label for row in self.offsets]
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
    names = sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".toml"))
    return {name: parse_recipe((folder / f"{name}.toml").read_text(encoding="utf-8"), name) for name in names}


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

    The fields are those of `Recipe`, with tables ``[[train]]`` for `Training` and ``[[row]]`` for `RecipeRow`; a table
    ``[training]`` holds what every ``[[train]]`` has that does not say otherwise. An activation is a table of settings,
    with its ``name`` if it is not ``slip``. A row has ``conversion``, a table for
    `transpike.conversion.config.read_conversion` (left out: trained thresholds), and either ``at``, a list of T, or
    ``steps``, the largest T (left out: the recipe's ``at`` or ``steps``). Where a setting of the conversion is
    ``"each"``, there is one conversion for every T in ``at``, with T in its place. ``schedule`` runs the converted
    network otherwise than it was converted for. ``published`` has ``source``, ``top1``, accuracies by T, and ``ann``,
    that of the source network. A row without ``network`` is only published. Tables ``[[offsets]]`` have the fields of
    `OffsetRow`, and ``published`` those of `PublishedOffsets`.

    Raises:
        RecipeError: it is no TOML, a field is missing or unknown, or a value is refused.
    """
    try:
        raw = tomllib.loads(text)
        common = raw.pop("training", {})
        trainings = tuple(_training({**common, **entry}) for entry in raw.pop("train", []))
        at, steps = raw.pop("at", None), raw.pop("steps", None)
        rows = tuple(_row(entry, at, steps) for entry in raw.pop("row"))
        if not rows:
            raise ValueError("there is no row")
        offsets = tuple(read_offset_row(entry) for entry in raw.pop("offsets", []))
        weights = raw.pop("weights", None)
        return Recipe(name=name, weights=weights, trainings=trainings, rows=rows, offsets=offsets, **raw)
    except ConfigError as error:
        raise RecipeError(
            f"the recipe is malformed: {error.what}", where=f"{name}, {error.where}", fix=error.fix
        ) from error
    except (tomllib.TOMLDecodeError, TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"the recipe is malformed: {error}", where=name) from error


def _training(entry: dict[str, Any]) -> Training:
    settings = entry.pop("activation", None)
    if settings is not None:
        settings = dict(settings)
        if "theta_percentile" in settings:
            settings["theta_init"] = ThetaPercentile(settings.pop("theta_percentile"))
        settings = ACTIVATIONS[settings.pop("name", "slip")](**settings)
    return Training(**entry, activation=settings)


def _row(entry: dict[str, Any], common_at: list[int] | None, common_steps: int | None) -> RecipeRow:
    label = entry.get("label")
    where = f"row {label!r}"
    published = entry.pop("published", {})
    unknown = sorted(set(published) - {"source", "top1", "ann"})
    if unknown:
        raise ValueError(f"published of {where} has no {unknown[0]!r}; it takes source, top1 and ann")
    entry |= {
        "published": {int(t): float(value) for t, value in published.get("top1", {}).items()},
        "published_in": published.get("source", ""),
        "published_ann": published.get("ann"),
    }
    if "network" not in entry:
        return RecipeRow(**entry, network="", runs=())
    words, schedule = entry.pop("conversion", {}), entry.pop("schedule", None)
    override = None if schedule is None else read_part("schedule", schedule, where)
    own = "at" in entry or "steps" in entry
    at, last = (entry.pop("at", None), entry.pop("steps", None)) if own else (common_at, common_steps)
    if at is None and last is None:
        raise ValueError(f"{where} needs steps or at")
    if _names_each(words):
        if at is None:
            raise ValueError(f'{where} says "each", and needs at, the list of T')
        runs = tuple(Run(read_conversion(_with_steps(words, t), where), (t,), override) for t in at)
    else:
        conversion = read_conversion(words, where)
        wanted = at or rows_for(last or 0, override or conversion.schedule)
        runs = (Run(conversion, tuple(wanted), override),)
    return RecipeRow(**entry, runs=runs)


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
