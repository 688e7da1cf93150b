"""Files of named tensors with a JSON header: safetensors, checked by a digest, written atomically. Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from transpike.errors import CheckpointError
from transpike.serialization.json_records import write_atomically

_KEY = "transpike"
_FIX = "make the file again with transpike, or copy it again from where it came"


def write_container(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON header.

    Args:
        path: the file; an existing one is replaced at once or not at all.
        tensors: by name; tensors that share memory are stored apart.
        header: JSON values.

    Raises:
        OutputError: see `write_atomically`.
    """
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps(header, sort_keys=True)
    metadata = {_KEY: text, "sha256": _digest(stored, text)}

    def write(temporary: Path) -> None:
        try:
            save_file(stored, str(temporary), metadata)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(str(error)) from error
        _order_header(temporary)

    write_atomically(path, write)


def _order_header(path: Path) -> None:
    """Sorts the entries of a safetensors header in place: the library writes them in any order."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        text = json.dumps(json.loads(file.read(size)), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if len(text.encode()) <= size:
            file.seek(8)
            file.write(text.encode().ljust(size))


def read_container(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `write_container` wrote.

    Raises:
        CheckpointError: the file is missing, not one of ours, truncated or changed, or its header is no JSON object.
    """
    if not path.is_file():
        raise CheckpointError("there is no such file", where=str(path), fix="check the path")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the file is damaged, or no safetensors file: {error}", where=str(path), fix=_FIX
        ) from error
    if _KEY not in metadata:
        raise CheckpointError(
            "this safetensors file was not written by transpike",
            where=str(path),
            fix="load its weights into your model yourself, then call tp.convert",
            shell_fix=f"if it is a state_dict, name its model: MODEL --weights {path.name}",
        )
    if _digest(tensors, metadata[_KEY]) != metadata.get("sha256"):
        raise CheckpointError("the file was changed after it was written", where=str(path), fix=_FIX)
    try:
        header = json.loads(metadata[_KEY])
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is no JSON: {str(error)[:200]}", where=str(path), fix=_FIX) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"the header is a {type(header).__name__}, no object", where=str(path), fix=_FIX)
    return tensors, header


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Turns nested dicts, lists and tuples with tensors into JSON values; the tensors go to ``tensors``."""
    if isinstance(value, Tensor):
        name = f"tensor{len(tensors)}"
        tensors[name] = value
        return {"$tensor": name}
    if isinstance(value, dict):
        return {"$dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"cannot store a {type(value).__name__} without pickle")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if isinstance(value, dict):
        ((tag, content),) = value.items()
        if tag == "$tensor":
            return tensors[content]
        if tag == "$tuple":
            return tuple(unpack(item, tensors) for item in content)
        return {unpack(key, tensors): unpack(item, tensors) for key, item in content}
    return value


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
