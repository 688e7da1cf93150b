"""Recipes: what trains, converts and evaluates a table of rows, from a TOML file."""

from __future__ import annotations

import copy
import json
import os
import platform
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from transpike import __version__, zoo
from transpike.activations import SlipReLU, ThetaPercentile
from transpike.conversion.convert import convert
from transpike.conversion.tailor import tailor
from transpike.data import Data, fixed_test_indices, load_data, loader, random_subset
from transpike.errors import RecipeError
from transpike.evaluation.evaluate import evaluate
from transpike.evaluation.report import Report
from transpike.rules import POTENTIAL_RULES, THRESHOLD_RULES, Conversion, Granularity, Part, PerChannel, PerLayer
from transpike.serialization.json_records import to_json, write_json
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
from transpike.storage import checkpoint
from transpike.training import fit


@dataclass(frozen=True)
class Training:
    """One network to train: with plain ReLU, or with an activation, from fresh weights or another network's.

    ``start`` names a training before it or, where the recipe has ``weights``, ``"pretrained"``.
    """

    name: str
    epochs: int
    learning_rate: float
    start: str | None = None
    batch_size: int = 128
    warmup_steps: int = 0
    spike_penalty: float = 0.0
    precision: str = "32-true"
    activation: SlipReLU | None = None


@dataclass(frozen=True)
class Variant:
    """One row: a network, its conversion, and which test images."""

    label: str
    network: str
    conversion: Conversion
    images: str = "all"
    published: Mapping[int, float] = field(default_factory=dict)
    published_in: str = ""


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs.

    Attributes:
        name: file name without ending.
        about: one line.
        network: name in the zoo.
        data: name of the data set.
        steps: the largest T.
        seed: of weights, splits and order.
        calibration_images: training images for thresholds.
        weights: file with pretrained ReLU weights, or None.
        trainings: networks to train, in order.
        variants: the rows.
    """

    name: str
    about: str
    network: str
    data: str
    steps: int
    seed: int
    calibration_images: int
    weights: str | None
    trainings: tuple[Training, ...]
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Outcome:
    """What a run made.

    Attributes:
        reports: by label of the row.
        published: published accuracies by label and T.
        folder: where checkpoints and JSON record lie.
    """

    reports: Mapping[str, Report]
    published: Mapping[str, Mapping[int, float]]
    folder: Path


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

    Raises:
        RecipeError: it is no TOML, a field is missing or unknown, or a value is refused.
    """
    try:
        raw = tomllib.loads(text)
        trainings = tuple(_training(entry) for entry in raw.pop("train", []))
        variants = tuple(_variant(entry) for entry in raw.pop("row"))
        recipe = Recipe(name=name, weights=raw.pop("weights", None), trainings=trainings, variants=variants, **raw)
        known = {"pretrained"} if recipe.weights else set()
        for training in trainings:
            if training.start is not None and training.start not in known:
                raise ValueError(f"{training.name!r} starts from {training.start!r}, which is not trained before it")
            known.add(training.name)
        for variant in variants:
            if variant.network not in known:
                raise ValueError(f"row {variant.label!r} names the network {variant.network!r}; there is {known}")
    except (tomllib.TOMLDecodeError, TypeError, ValueError, KeyError) as error:
        raise RecipeError(f"the recipe is malformed: {error}", where=name) from error
    return recipe


def _training(entry: dict[str, Any]) -> Training:
    settings = entry.pop("activation", None)
    if settings is not None:
        if "theta_percentile" in settings:
            settings["theta_init"] = ThetaPercentile(settings.pop("theta_percentile"))
        settings = SlipReLU(**settings)
    return Training(**entry, activation=settings)


def _variant(entry: dict[str, Any]) -> Variant:
    parts: list[Part] = []
    threshold = entry.pop("threshold", None)
    if threshold is not None:
        parts.append(threshold_rule(**threshold))
    potential = entry.pop("potential", None)
    if potential is not None:
        parts.append(POTENTIAL_RULES[potential]())
    published = entry.pop("published", {})
    top1 = {int(t): float(value) for t, value in published.get("top1", {}).items()}
    return Variant(**entry, conversion=Conversion.of(*parts), published=top1, published_in=published.get("source", ""))


def threshold_rule(rule: str, per: str = "layer", **settings: Any) -> Part:
    """A threshold rule from plain words.

    Args:
        rule: one of `THRESHOLD_RULES`.
        per: ``"layer"`` or ``"channel"``.
        settings: the rule's other fields, such as ``percentile`` or ``steps``.

    Raises:
        ValueError: an unknown word, or a setting that the rule does not take or lacks.
    """
    granularities: dict[str, Granularity] = {"layer": PerLayer(), "channel": PerChannel()}
    if per not in granularities:
        raise ValueError(f"thresholds are per 'layer' or per 'channel', not per {per!r}")
    if rule not in THRESHOLD_RULES:
        raise ValueError(f"unknown threshold rule {rule!r}; known: {', '.join(THRESHOLD_RULES)}")
    make: Callable[..., Part] = THRESHOLD_RULES[rule]
    known = {name: entry for name, entry in signature(make).parameters.items() if name != "granularity"}
    for name in settings:
        if name not in known:
            raise ValueError(f"the rule {rule!r} has no {name!r}; it has: {', '.join(known) or 'nothing to set'}")
    lacking = [name for name, entry in known.items() if entry.default is entry.empty and name not in settings]
    if lacking:
        raise ValueError(f"the threshold rule {rule!r} needs {', '.join(lacking)}")
    return make(granularity=granularities[per], **settings)


def run_recipe(
    recipe: Recipe,
    folder: Path,
    *,
    data_root: Path | None = None,
    device: str = "auto",
    compile: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Trains what is not trained yet, converts and evaluates every row, and writes the folder.

    Interrupted runs go on where they were: training after the last whole epoch, evaluation after the last batches.

    Args:
        recipe: what to do.
        folder: for checkpoints (``*.safetensors``), training states, and ``result.json``.
        data_root: folder with the data sets; None reads TRANSPIKE_DATA.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        compile: train under ``torch.compile`` (see `transpike.training.fit`).
        progress: show progress bars.
        say: called with a line about each phase.

    Raises:
        DataError, RecipeError, TrainingError: data or weights are missing, or training diverged.
    """
    data = load_data(recipe.data, data_root, seed=recipe.seed)
    folder.mkdir(parents=True, exist_ok=True)
    calibration = list(loader(random_subset(data.calibration, recipe.calibration_images, recipe.seed)))
    networks = _networks(recipe, data, calibration, folder, device, compile, progress, say)
    reports: dict[str, Report] = {}
    for index, variant in enumerate(recipe.variants):
        say(f"evaluating {variant.label}")
        snn = convert(
            networks[variant.network], variant.conversion, example_inputs=calibration[0][0][:4], calibration=calibration
        )
        checkpoint.save(snn, folder / f"{index}-spiking.safetensors")
        reports[variant.label] = evaluate(
            snn,
            loader(test_images(data, variant.images)),
            steps=recipe.steps,
            device=torch_device(device),
            cache=folder / f"{index}-evaluation.json",
            progress=progress,
        )
    published = {variant.label: variant.published for variant in recipe.variants if variant.published}
    _write_results(recipe, reports, folder)
    return Outcome(reports, published, folder)


def test_images(data: Data, images: str) -> Any:
    """The test images of a row: ``"all"``, ``"fixed"`` (the committed list of 2,000) or a number (the first so many).

    Raises:
        RecipeError: another word.
    """
    if images == "all":
        return data.test
    if images == "fixed":
        return Subset(data.test, fixed_test_indices(data.inputs.dataset))
    if images.isdigit() and int(images) > 0:
        return Subset(data.test, range(min(int(images), len(data.test))))  # type: ignore[arg-type]
    raise RecipeError(f"images must be 'all', 'fixed' or a number, not {images!r}")


def _networks(
    recipe: Recipe,
    data: Data,
    calibration: list[Any],
    folder: Path,
    device: str,
    compile: bool,
    progress: bool,
    say: Callable[[str], None],
) -> dict[str, nn.Module]:
    """All trained networks by name; finished ones are read from the folder."""
    torch.manual_seed(recipe.seed)
    fresh = zoo.build(recipe.network)
    set_model_info(fresh, ModelInfo(model_info(fresh).source, data.inputs))
    networks: dict[str, nn.Module] = {}
    if recipe.weights is not None:
        networks["pretrained"] = copy.deepcopy(fresh).eval()
        zoo.load_weights(networks["pretrained"], _weights_file(recipe.weights))
    for training in recipe.trainings:
        file = folder / f"{training.name}.safetensors"
        made_by = _provenance(recipe, training)
        if file.is_file():
            _check_provenance(file, made_by)
            say(f"{training.name}: trained before, reading {file}")
            loaded = checkpoint.load_network(file)
            networks[training.name] = loaded
            continue
        network: nn.Module = copy.deepcopy(fresh if training.start is None else networks[training.start])
        if training.activation is not None:
            network = tailor(network, training.activation, calibration=calibration)
        say(f"training {training.name}: {training.epochs} epochs")
        history = fit(
            network,
            data,
            epochs=training.epochs,
            learning_rate=training.learning_rate,
            warmup_steps=training.warmup_steps,
            spike_penalty=training.spike_penalty,
            batch_size=training.batch_size,
            precision=training.precision,
            seed=recipe.seed,
            checkpoint=folder / f"{training.name}.ckpt",
            device=device,
            compile=compile,
            progress=progress,
        )
        network.cpu()
        write_json(_provenance_file(file), made_by)
        checkpoint.save(network, file)
        say(f"{training.name}: validation {history[-1].validation_accuracy:.2f} %")
        networks[training.name] = network
    return networks


def _provenance(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Everything that a trained network depends on, with the networks it starts from."""
    by_name = {entry.name: entry for entry in recipe.trainings}
    chain = [training]
    while chain[-1].start in by_name:
        chain.append(by_name[chain[-1].start])
    settings = [recipe.network, recipe.data, recipe.seed, recipe.calibration_images, recipe.weights]
    return {"recipe": settings, "trainings": [repr(entry) for entry in chain]}


def _provenance_file(file: Path) -> Path:
    return file.with_suffix(".training.json")


def _check_provenance(file: Path, made_by: dict[str, Any]) -> None:
    stored = _provenance_file(file)
    if not stored.is_file() or json.loads(stored.read_text(encoding="utf-8")) != made_by:
        raise RecipeError(
            "this network was trained by another version of the recipe",
            where=str(file),
            fix="choose another --output, or remove the folder",
        )


def _weights_file(name: str) -> Path:
    folder = os.environ.get(zoo.WEIGHTS_VARIABLE)
    if not folder:
        raise RecipeError(
            f"the recipe starts from {name}", fix=f"set {zoo.WEIGHTS_VARIABLE} to the folder that holds this file"
        )
    return Path(folder) / name


def torch_device(device: str) -> str:
    """The torch name of ``"auto"``, ``"cpu"`` or ``"gpu"``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device == "gpu" else device


def _write_results(recipe: Recipe, reports: Mapping[str, Report], folder: Path) -> None:
    rows = []
    for variant in recipe.variants:
        row: dict[str, Any] = {
            "label": variant.label,
            "network": variant.network,
            "conversion": to_json(variant.conversion),
            "report": reports[variant.label].to_json(),
        }
        if variant.published:
            row["published"] = {"source": variant.published_in, "top1": dict(variant.published)}
        rows.append(row)
    record = {
        "recipe": recipe.name,
        "about": recipe.about,
        "seed": recipe.seed,
        "calibration_images": recipe.calibration_images,
        "trainings": [repr(training) for training in recipe.trainings],
        "versions": {"transpike": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "rows": rows,
    }
    write_json(folder / "result.json", record)
