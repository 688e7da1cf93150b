"""Trained networks by name: a folder of weights, each with a card beside it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from transpike.errors import CheckpointError, ModelError, known_words
from transpike.network.spiking import SpikingNetwork
from transpike.serialization.json_records import from_json, to_json, write_json
from transpike.storage import checkpoint
from transpike.zoo.cards import ModelCard, ScheduleAccuracy, TrainingFacts

FOLDER = Path(__file__).with_name("weights")
"""The networks that come with the library."""


def cards(folder: Path | None = None) -> dict[str, ModelCard]:
    """The cards of all trained networks, by name.

    Args:
        folder: of weights and cards; None is the library's own.

    Raises:
        CheckpointError: a card is malformed, or lies in a file of another name.
    """
    return {path.stem: _read(path) for path in sorted((folder or FOLDER).glob("*.json"))}


def card(name: str, folder: Path | None = None) -> ModelCard:
    """The card of one trained network.

    Raises:
        ModelError: there is none of that name.
        CheckpointError: it is malformed.
    """
    known = cards(folder)
    if name not in known:
        fix = (
            known_words(name, known) if known else f"there are none in {folder or FOLDER}; tp.zoo.build makes networks"
        )
        raise ModelError(f"there is no trained network {name!r}", fix=fix)
    return known[name]


def weights_file(name: str, folder: Path | None = None) -> Path:
    """The file of a trained network, after its bytes were compared with the card.

    Raises:
        ModelError: there is none of that name.
        CheckpointError: the file is missing, or not the one that the card describes.
    """
    known = card(name, folder)
    path = _weights(name, folder)
    if not path.is_file():
        raise CheckpointError("the weights of this card are missing", where=str(path), fix="install transpike again")
    if _sha256(path) != known.sha256:
        raise CheckpointError(
            "the weights are not those that the card describes: their SHA-256 differs",
            where=str(path),
            fix="install transpike again, or copy weights and card again from where they came",
        )
    return path


def load(name: str, *, folder: Path | None = None) -> nn.Module:
    """Loads a trained network in evaluation mode: an ANN, ready for `transpike.convert`, or a `SpikingNetwork`.

    Those whose card says ``through_time`` are converted already, and run with ``steps``.

    Args:
        name: a key of `cards`.
        folder: of weights and cards; None is the library's own.

    Raises:
        ModelError: there is none of that name; the message lists those that there are.
        CheckpointError: the weights are missing or damaged, or not those that the card describes.
    """
    return checkpoint.load_network(weights_file(name, folder))


def add(network: nn.Module, facts: ModelCard, folder: Path | None = None) -> ModelCard:
    """Writes the weights of a trained network and their card.

    Args:
        network: built by `build` and, where it has trained activations, tailored; or what `transpike.fit_snn` made of
            one. Its info gives architecture and preparation, which must be those of the card.
        facts: the card; its ``sha256`` is filled in.
        folder: where to write; None is the library's own.

    Returns:
        The card as it was written.

    Raises:
        ModelError: the network is converted and not trained since, or another one than the card says.
        CheckpointError, OutputError: see `transpike.save`.
    """
    if isinstance(network, SpikingNetwork) and network.trained is None:
        raise ModelError("the network is converted", where=facts.name, fix="add the network it was converted from")
    path = _weights(facts.name, folder)
    checkpoint.save(network, path)
    saved = checkpoint.describe(path)
    source, inputs = saved.info.source, saved.info.inputs
    there = {
        "network": None if source is None else source.name,
        "activation": saved.activation,
        "dataset": None if inputs is None else inputs.dataset,
        "mean": None if inputs is None else inputs.mean,
        "std": None if inputs is None else inputs.std,
        "through_time": saved.through_time,
    }
    for field, value in there.items():
        if value != getattr(facts, field):
            path.unlink()
            raise ModelError(
                f"the card says {field} {getattr(facts, field)}, the network has {value}",
                where=facts.name,
                fix="correct the card, or add the network that it describes",
            )
    made = replace(facts, sha256=_sha256(path))
    write_json(path.with_suffix(".json"), to_json(made))
    return made


def _weights(name: str, folder: Path | None) -> Path:
    return (folder or FOLDER) / f"{name}.safetensors"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(path: Path) -> ModelCard:
    kinds = {**checkpoint.record_kinds(), **{cls.__name__: cls for cls in (ModelCard, ScheduleAccuracy, TrainingFacts)}}
    fix = "install transpike again, or remove this card"
    try:
        found = from_json(json.loads(path.read_text(encoding="utf-8")), kinds)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the card cannot be read: {error}", where=str(path), fix=fix) from error
    if not isinstance(found, ModelCard):
        raise CheckpointError(f"the file holds a {type(found).__name__}, no card", where=str(path), fix=fix)
    if found.name != path.stem:
        raise CheckpointError(f"the card is that of {found.name!r}", where=str(path), fix=fix)
    return found
