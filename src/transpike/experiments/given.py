"""Networks that a run is given in place of trainings: checkpoints, or trained networks of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import nn

from transpike import zoo
from transpike.errors import ModelError, RecipeError, known_words
from transpike.experiments.change_recipe import needed_trainings
from transpike.experiments.recipe import PRETRAINED, Recipe
from transpike.experiments.record import GivenNetwork
from transpike.serialization.digest import digest
from transpike.serialization.model_info import model_info
from transpike.storage import checkpoint


def take_given(
    recipe: Recipe, given: Mapping[str, str | Path]
) -> tuple[Recipe, dict[str, nn.Module], tuple[GivenNetwork, ...]]:
    """A recipe whose rows and trainings take given networks, and without trainings that nothing needs any more.

    Args:
        recipe: the whole.
        given: by what each one stands for, a network of the recipe or the label of a row: a checkpoint that is not
            converted, or the name of a trained network (`transpike.zoo.cards`).

    Returns:
        The recipe, the networks by name, and what the record says of them.

    Raises:
        RecipeError: the recipe has no such network or row, or the network was trained for other data.
        ModelError, CheckpointError: there is no such file, or it holds no such network.
    """
    labels = [row.label for row in recipe.rows if row.runs] + [row.label for row in recipe.offsets]
    known = [training.name for training in recipe.trainings] + [PRETRAINED] * bool(recipe.weights)
    rows, offsets = list(recipe.rows), list(recipe.offsets)
    networks: dict[str, nn.Module] = {}
    facts: list[GivenNetwork] = []
    for name, source in given.items():
        if name not in known and name not in labels:
            raise RecipeError(
                f"no network and no row is called {name!r}", where=recipe.name, fix=known_words(name, known + labels)
            )
        networks[name] = _read(str(source))
        inputs = model_info(networks[name]).inputs
        if inputs is not None and inputs.dataset not in ("", recipe.data):
            raise RecipeError(
                f"the network was trained for {inputs.dataset}, the recipe is about {recipe.data}",
                where=f"{name}: {source}",
                fix="give a network that was trained for this data, or choose another recipe",
            )
        facts.append(GivenNetwork(name, str(source), digest(networks[name])))
        if name not in known:
            rows = [replace(row, network=name, repeats=()) if row.label == name else row for row in rows]
            offsets = [replace(row, network=name) if row.label == name else row for row in offsets]
    pretrained = PRETRAINED in networks
    made = replace(
        recipe,
        rows=tuple(rows),
        offsets=tuple(offsets),
        trainings=needed_trainings(recipe.trainings, rows, offsets, networks),
        weights=None if pretrained else recipe.weights,
        given=tuple(networks),
    )
    return made, networks, tuple(facts)


def _read(source: str) -> nn.Module:
    """A checkpoint, or a trained network by name."""
    if source.endswith(".safetensors") or Path(source).is_file():
        return checkpoint.load_ann(source)
    known = [name for name, card in zoo.cards().items() if card.through_time is None]
    if source in known:
        return zoo.load(source)
    raise ModelError(
        f"{source!r} is neither a checkpoint (*.safetensors) nor a trained network that is not converted",
        fix=known_words(source, known) if known else "name a file that transpike train wrote",
    )
