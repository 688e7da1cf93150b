"""The networks of a recipe: pretrained ones are read, the others trained, once."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from transpike import zoo
from transpike.conversion.tailor import tailor
from transpike.data import Data, loader
from transpike.errors import CheckpointError, RecipeError, TrainingError
from transpike.experiments.recipe import PRETRAINED, Recipe, Training
from transpike.graph.unwrap import check_finite
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.digest import digest, digest_batches, digest_file
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
from transpike.storage import checkpoint
from transpike.training import Epoch, fit


def make_networks(
    recipe: Recipe,
    data: Data,
    calibration: Sequence[Tensor],
    folder: Path,
    *,
    device: str = "auto",
    compile: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, nn.Module]:
    """All networks of a recipe by name; finished ones are read from the folder, unfinished ones trained on.

    Args:
        recipe: what to train.
        data: the data set.
        calibration: images that set the first thresholds of trained activations.
        folder: for ``NAME.safetensors`` and, after every epoch, ``NAME.ckpt``.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        compile: train under ``torch.compile``.
        progress: show progress bars.
        say: called with a line about each training.

    Raises:
        RecipeError: weights are missing, or the folder holds a network of other settings, weights or data.
        TrainingError: training diverged.
    """
    fresh = fresh_network(recipe.network, data, recipe.seed)
    networks: dict[str, nn.Module] = {}
    if recipe.weights is not None:
        networks[PRETRAINED] = copy.deepcopy(fresh).eval()
        zoo.load_weights(networks[PRETRAINED], _weights_file(recipe.weights))
    images = digest_batches(loader(data.calibration, 500)) if recipe.trainings else ""
    for training in recipe.trainings:
        networks[training.name] = train_network(
            training,
            fresh if training.start is None else networks[training.start],
            data,
            calibration,
            folder,
            seed=recipe.seed,
            images=images,
            device=device,
            compile=compile,
            progress=progress,
            say=say,
        )
    return networks


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
        write_cache(made_by, key, {"network": training.name})  # before the first epoch, so that it is known whose
        network: nn.Module = copy.deepcopy(start)
        if training.activation is not None:
            network = tailor(network, training.activation, calibration=list(calibration))
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
            seed=seed,
            checkpoint=state,
            device=device,
            compile=compile,
            progress=progress,
            on_epoch=on_epoch,
        )
        try:
            check_finite(network, f"{training.name}, after epoch {training.epochs}")
        except CheckpointError as error:  # the loss can stay finite while BatchNorm's statistics do not
            raise TrainingError(error.what, where=error.where, fix="use a smaller learning rate") from error
        checkpoint.save(network.cpu(), file)
        write_cache(made_by, key, {"network": training.name, "file": digest_file(file)})
        state.unlink(missing_ok=True)
        say(f"{training.name}: validation {history[-1].validation_accuracy:.2f} %")
    return checkpoint.load_ann(file)  # even if it was just trained: a resumed run has this one


def fresh_network(name: str, data: Data, seed: int) -> nn.Module:
    """A built-in network with the fresh weights of a seed, which knows the data's classes and normalisation."""
    torch.manual_seed(seed)
    fresh = zoo.build(name)
    set_model_info(fresh, ModelInfo(model_info(fresh).source, data.inputs))
    return fresh


def _weights_file(name: str) -> Path:
    folder = os.environ.get(zoo.WEIGHTS_VARIABLE)
    if not folder:
        raise RecipeError(
            f"the recipe starts from {name}", fix=f"set {zoo.WEIGHTS_VARIABLE} to the folder that holds this file"
        )
    return Path(folder) / name
