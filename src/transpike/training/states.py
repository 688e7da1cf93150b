"""Training states: what a killed training goes on from; imported only when training starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from transpike.errors import CheckpointError, TrainingError
from transpike.serialization.container import pack, read_container, unpack, write_container


class SafeStates(CheckpointIO):  # type: ignore[misc]
    """Lightning's training state as safetensors with a JSON header."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes what a training goes on from."""
        kept = {key: checkpoint[key] for key in _STORED if key in checkpoint}
        tensors: dict[str, Tensor] = {}
        state = pack(kept, tensors)
        write_container(Path(path), tensors, {"kind": "training", "state": state})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        """Reads it.

        Raises:
            CheckpointError: the file holds no training state.
        """
        tensors, header = read_container(Path(path))
        if header.get("kind") != "training":
            raise CheckpointError(
                "the file does not hold a training state", where=str(path), fix="pass the file that fit wrote"
            )
        try:
            state: dict[str, Any] = dict(unpack(header["state"], tensors))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"the training state is malformed: {error}", where=str(path), fix="remove this file to start afresh"
            ) from error
        return state

    def remove_checkpoint(self, path: Any) -> None:
        """Removes it."""
        Path(path).unlink(missing_ok=True)


_STORED = (
    "epoch",
    "global_step",
    "pytorch-lightning_version",
    "state_dict",
    "loops",
    "optimizer_states",
    "lr_schedulers",
    "transpike",
)


_ADDED = {"batch_norm": "folded", "teacher": "none", "optimizer": "sgd"}
"""Settings that older training states lack, with what they meant."""


def check_resumed(path: Path, settings: dict[str, Any]) -> None:
    """Checks that a training state belongs to a training with these settings, weights and data.

    Raises:
        CheckpointError: the file is no training state.
        TrainingError: it belongs to another training.
    """
    stored = SafeStates().load_checkpoint(path)
    try:
        old = dict(stored["transpike"]["settings"])
        rows = [[float(value) for value in row] for row in stored["transpike"]["history"]]
        epochs = int(stored["epoch"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the training state is malformed: {error}", where=str(path), fix="remove this file to start afresh"
        ) from error
    words = {
        "start": "another network or other weights at the start",
        "data": "other data, or prepared otherwise",
        "teacher": "another teacher",
    }
    other = [
        words.get(key) or f"{key} {old.get(key)} instead of {settings.get(key)}"
        for key in settings
        if old.get(key, _ADDED.get(key)) != settings[key]
    ]
    if other:
        raise TrainingError(
            f"there is the state of another training: {', '.join(other)}",
            where=str(path),
            fix="remove this file to start afresh, or choose another output",
        )
    if not 0 <= epochs <= settings["epochs"] or len(rows) > settings["epochs"]:
        raise CheckpointError("the training state is malformed", where=str(path), fix="remove this file")
