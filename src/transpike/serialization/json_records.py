"""Frozen records to and from JSON, and atomic writing of files."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any


def to_json(record: Any) -> Any:
    """Turns a (nested) frozen dataclass into JSON values; each record carries its class name as ``kind``."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        fields = {f.name: to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}
        return {"kind": type(record).__name__, **fields}
    if isinstance(record, Enum):
        return record.value
    if isinstance(record, Mapping):
        return {str(key): to_json(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_json(value) for value in record]
    if record is None or isinstance(record, str | int | float | bool):
        return record
    raise TypeError(f"cannot write a {type(record).__name__} as JSON")


def from_json(value: Mapping[str, Any], kinds: Mapping[str, type]) -> Any:
    """Rebuilds a record written by `to_json`.

    Args:
        value: the JSON object, with its ``kind``.
        kinds: the classes that may occur, by name; nothing else is ever instantiated.

    Raises:
        ValueError: unknown kind, unknown or missing field, or a value the record refuses.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"a record is a JSON object, not {type(value).__name__}")
    kind = str(value.get("kind"))
    if kind not in kinds:
        raise ValueError(f"unknown record {kind!r}; known: {', '.join(sorted(kinds))}")
    cls = kinds[kind]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    arguments = {key: item for key, item in value.items() if key != "kind"}
    unknown = sorted(set(arguments) - set(fields))
    if unknown:
        raise ValueError(f"{kind} has no field {', '.join(unknown)}")
    missing = sorted(set(fields) - set(arguments))
    if missing:  # never filled from defaults: a default may change, what was written may not
        raise ValueError(f"{kind} lacks {', '.join(missing)}")
    try:
        return cls(**{name: _decode(item, kinds) for name, item in arguments.items()})
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from error


def _decode(item: Any, kinds: Mapping[str, type]) -> Any:
    if isinstance(item, Mapping):
        return from_json(item, kinds) if "kind" in item else {key: _decode(i, kinds) for key, i in item.items()}
    return tuple(_decode(i, kinds) for i in item) if isinstance(item, list | tuple) else item


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write(temporary)`` and renames the result to ``path``: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, atomically."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
