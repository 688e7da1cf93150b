"""Digests: one fingerprint of networks, settings and data, which decides what is the same run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transpike.serialization.fields import was_added


def digest(*values: Any) -> str:
    """Fingerprint of values: tensors, modules, records, enums and JSON values, nested in lists, tuples and mappings.

    A tensor counts by type, shape and elements, whatever its device; a module by its structure as printed and its
    ``state_dict``; a record by its class name and fields, but for `ADDED` ones at their default;
    a mapping by its items in any order.

    Raises:
        TypeError: a value is none of these.
    """
    found = hashlib.blake2b(digest_size=32)
    for value in values:
        _add(found, value)
    return found.hexdigest()


def digest_batches(batches: Iterable[Any]) -> str:
    """Fingerprint of everything that a loader yields, images and labels, in order and batch by batch.

    Equals `digest_next` over all batches, from the empty string on.
    """
    found = ""
    for batch in batches:
        found = digest_next(found, batch)
    return found


def digest_next(before: str, batch: Any) -> str:
    """Fingerprint of the batches so far and one more, for data that is gone through once."""
    return digest(before, batch)


def digest_file(path: Path) -> str:
    """Fingerprint of a file's bytes; empty where there is none."""
    return hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest() if path.is_file() else ""


def _add(found: Any, value: Any) -> None:
    """Feeds one value, with its kind and size in front so that no two values look alike."""
    if isinstance(value, Tensor):
        stored = value.detach().cpu().contiguous()
        _text(found, "tensor", f"{stored.dtype} {tuple(stored.shape)}")
        if stored.numel():
            found.update(stored.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, nn.Module):
        _text(found, "module", str(value))
        _add(found, value.state_dict())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _text(found, "record", type(value).__name__)
        fields = {field.name: (field, getattr(value, field.name)) for field in dataclasses.fields(value)}
        kept = {name: own for name, (field, own) in fields.items() if not was_added(field) or own != field.default}
        _add(found, kept)
    elif isinstance(value, Enum):
        _add(found, value.value)
    elif isinstance(value, Mapping):
        _text(found, "mapping", str(len(value)))
        for key in sorted(value, key=str):
            _text(found, "key", str(key))
            _add(found, value[key])
    elif isinstance(value, list | tuple):
        _text(found, "sequence", str(len(value)))
        for item in value:
            _add(found, item)
    elif value is None or isinstance(value, str | int | float | bool):
        _text(found, "value", json.dumps(value))
    else:
        raise TypeError(f"cannot digest a {type(value).__name__}")


def _text(found: Any, kind: str, text: str) -> None:
    encoded = text.encode()
    found.update(f"{kind} {len(encoded)} ".encode() + encoded)
