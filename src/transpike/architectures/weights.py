"""Weights that somebody else trained."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transpike.errors import CheckpointError

WEIGHTS_VARIABLE = "TRANSPIKE_PRETRAINED"
"""Environment variable that names the folder with weights that recipes start from."""


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Loads a plain state_dict into a model: ``*.safetensors``, or a torch file restricted to tensors.

    A dictionary under the key ``state_dict`` and a ``module.`` prefix (DataParallel) are looked through.

    Raises:
        CheckpointError: the file is missing or damaged, holds more than tensors, or does not fit the model.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), fix="check the path")
    try:
        found: Any = (
            load_file(str(path))
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:  # its text is long, with escape codes, and about torch.load
        raise CheckpointError(
            "the file is damaged, or holds more than tensors: a whole pickled model?",
            where=str(path),
            fix="save model.state_dict() alone",
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise CheckpointError(
            f"the file is damaged, or holds more than tensors: {error}",
            where=str(path),
            fix="save model.state_dict() alone",
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError("the file holds no state_dict", where=str(path), fix="save the model's state_dict")
    weights = {str(name).removeprefix("module."): value for name, value in found.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit {type(model).__name__}: {error}",
            where=str(path),
            fix="choose the model (and its options) that was trained",
        ) from error
