"""The networks of a recipe: pretrained ones are read, the others trained, once."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from transpike import zoo
from transpike.conversion.tailor import tailor
from transpike.data import Data, Preparation, loader
from transpike.errors import CheckpointError, DivergedError, RecipeError
from transpike.experiments.recipe import PRETRAINED, Recipe, Training
from transpike.graph.unwrap import check_finite
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.digest import digest, digest_batches, digest_file
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
from transpike.storage import checkpoint
from transpike.training import Epoch, fit

_PATIENCE = 10
"""Epochs after which a network that learns is better than chance, whatever its activation."""


def make_networks(
    recipe: Recipe,
    data: Data,
    calibration: Sequence[Tensor],
    folder: Path,
    *,
    given: Mapping[str, nn.Module] = MappingProxyType({}),
    device: str = "auto",
    compile: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, nn.Module], tuple[Training, ...]]:
    """All networks of a recipe by name, and how they were trained.

    Finished ones are read from the folder, unfinished ones trained on.

    Args:
        recipe: what to train.
        data: the data set.
        calibration: images that set the first thresholds of trained activations.
        folder: for ``NAME.safetensors`` and, after every epoch, ``NAME.ckpt``.
        given: networks that need no training, by name.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        compile: train under ``torch.compile``.
        progress: show progress bars.
        say: called with a line about each training.

    Raises:
        RecipeError: weights are missing, or the folder holds a network of other settings, weights or data.
        TrainingError: training diverged.
    """
    networks = dict(given)
    trained: list[Training] = []
    if recipe.weights is not None:
        networks[PRETRAINED] = fresh_network(recipe.network, data, recipe.seed).eval()
        zoo.load_weights(networks[PRETRAINED], _weights_file(recipe.weights))
    images = digest_batches(loader(data.calibration, 500)) if recipe.trainings else ""
    if recipe.preparation is not Preparation.STANDARD:  # the images are those without augmentation
        images = digest(images, recipe.preparation)
    for training in recipe.trainings:
        seed = recipe.seed if training.seed is None else training.seed
        if training.start is None:
            start = fresh_network(training.network or recipe.network, data, seed)
        else:
            start = networks[training.start]
        networks[training.name] = train_network(
            training,
            start,
            data,
            calibration,
            folder,
            seed=seed,
            images=images,
            device=device,
            compile=compile,
            progress=progress,
            say=say,
        )
        trained.append(replace(training, learning_rate=_rate_taken(training, folder)))
    return networks, tuple(trained)


def train_network(
    training: Training,
    start: nn.Module,
    data: Data,
    calibration: Sequence[Tensor],
    folder: Path,
    *,
    seed: int,
    images: str | None = None,
    device: str = "auto",
    compile: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
) -> nn.Module:
    """One network; a finished one is read from the folder, an unfinished one trained on.

    A first try that diverges, or is still at chance after ten epochs, is given up for the training's fall-back rate.

    Args:
        training: how; its ``start`` is not looked at.
        start: the network that it starts from, which is not changed.
        data: the data set.
        calibration: images that set the first thresholds of trained activations.
        folder: for ``NAME.safetensors`` and, after every epoch, ``NAME.ckpt``.
        seed: of order and augmentation.
        images: digest of the training images, if it is known.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        compile: train under ``torch.compile``.
        progress: show progress bars.
        say: called with a line about the training.
        on_epoch: see `transpike.fit`; not called for epochs that an earlier run finished.

    Raises:
        RecipeError: the folder holds a network of this name with other settings, weights or data.
        TrainingError: training diverged.
    """
    images = digest_batches(loader(data.calibration, 500)) if images is None else images
    key = digest("training", training, seed, start, images, list(calibration) if training.activation else [])
    file = folder / f"{training.name}.safetensors"
    state, made_by = file.with_suffix(".ckpt"), folder / "cache" / f"{training.name}.json"
    stored = read_cache(made_by, key)
    known = stored is not None
    if stored is not None and stored.get("file", "") not in ("", digest_file(file)) and file.exists():
        raise RecipeError(
            "this network was changed after the recipe had trained it",
            where=str(file),
            fix="choose another --output, or remove the file",
        )
    if not known and (file.exists() or state.exists()):
        raise RecipeError(
            "this network was trained by another version of the recipe, or on other data",
            where=str(file),
            fix="choose another --output, or remove the folder",
        )
    if known and file.is_file():
        say(f"{training.name}: trained before, reading {file}")
    else:
        where = {"device": device, "compile": compile, "progress": progress}

        def attempt(plan: Training, may_fail: bool) -> tuple[nn.Module, list[Epoch]]:
            # before the first epoch, so that it is known whose it is
            write_cache(made_by, key, {"network": plan.name, "learning_rate": plan.learning_rate})
            network: nn.Module = copy.deepcopy(start)
            if plan.activation is not None:
                network = tailor(network, plan.activation, calibration=list(calibration))
            watch = _at_chance(plan, data, on_epoch) if may_fail else on_epoch
            say(f"training {plan.name}: {plan.epochs} epochs")
            return network, _fit(plan, network, data, seed, state, watch, where)

        plan = training
        if stored is not None:
            plan = replace(training, learning_rate=stored.get("learning_rate", training.learning_rate))
        second = training.fallback_rate
        try:
            network, history = attempt(plan, second not in (None, plan.learning_rate))
        except DivergedError as error:
            if second in (None, plan.learning_rate):
                raise
            say(f"{training.name}: {error.what} at learning rate {plan.learning_rate:g}; again with {second:g}")
            state.unlink(missing_ok=True)
            plan = replace(training, learning_rate=second)
            network, history = attempt(plan, False)
        checkpoint.save(network.cpu(), file)
        made = {"network": training.name, "learning_rate": plan.learning_rate, "file": digest_file(file)}
        write_cache(made_by, key, made)
        state.unlink(missing_ok=True)
        say(f"{training.name}: validation {history[-1].validation_accuracy:.2f} %")
    return checkpoint.load_ann(file)  # even if it was just trained: a resumed run has this one


def _fit(
    plan: Training,
    network: nn.Module,
    data: Data,
    seed: int,
    state: Path,
    watch: Callable[[Epoch, nn.Module], None] | None,
    where: Mapping[str, Any],
) -> list[Epoch]:
    """Trains in place."""
    history = fit(
        network,
        data,
        epochs=plan.epochs,
        learning_rate=plan.learning_rate,
        warmup_steps=plan.warmup_steps,
        weight_decay=plan.weight_decay,
        spike_penalty=plan.spike_penalty,
        batch_size=plan.batch_size,
        precision=plan.precision,
        seed=seed,
        checkpoint=state,
        on_epoch=watch,
        **where,
    )
    try:
        check_finite(network, f"{plan.name}, after epoch {plan.epochs}")
    except CheckpointError as error:  # the loss can stay finite while BatchNorm's statistics do not
        raise DivergedError(error.what, where=error.where, fix="use a smaller learning rate") from error
    return history


def _at_chance(
    plan: Training, data: Data, on_epoch: Callable[[Epoch, nn.Module], None] | None
) -> Callable[[Epoch, nn.Module], None]:
    """What watches a first try: it ends where ten epochs have taught nothing."""
    chance = 100.0 / len(data.inputs.classes)

    def watch(epoch: Epoch, network: nn.Module) -> None:
        if epoch.epoch == _PATIENCE and epoch.validation_accuracy < 1.5 * chance:
            raise DivergedError(
                f"validation is at {epoch.validation_accuracy:.2f} %, chance at {chance:.2f} %",
                where=f"{plan.name}, epoch {epoch.epoch}",
                fix="use a smaller learning rate",
            )
        if on_epoch is not None:
            on_epoch(epoch, network)

    return watch


def _rate_taken(training: Training, folder: Path) -> float:
    """The learning rate that a network in the folder was trained with."""
    made_by = json.loads((folder / "cache" / f"{training.name}.json").read_text(encoding="utf-8"))
    return float(made_by["content"].get("learning_rate", training.learning_rate))


def fresh_network(name: str, data: Data, seed: int) -> nn.Module:
    """A built-in network with the fresh weights of a seed, which knows the data's classes and normalisation."""
    classes = len(data.inputs.classes)
    torch.manual_seed(seed)
    fresh = zoo.build(name)
    if (
        name in zoo.ZOO
        and [part for part in fresh.modules() if isinstance(part, nn.Linear)][-1].out_features != classes
    ):
        torch.manual_seed(seed)
        fresh = zoo.build(name, classes=classes)
    set_model_info(fresh, ModelInfo(model_info(fresh).source, data.inputs))
    return fresh


def _weights_file(name: str) -> Path:
    folder = os.environ.get(zoo.WEIGHTS_VARIABLE)
    if not folder:
        raise RecipeError(
            f"the recipe starts from {name}", fix=f"set {zoo.WEIGHTS_VARIABLE} to the folder that holds this file"
        )
    return Path(folder) / name
