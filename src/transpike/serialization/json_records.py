"""Frozen records to and from JSON, and atomic writing of files."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from transpike.errors import OutputError
from transpike.serialization.fields import field_types, fitted, was_added

_STALE = 24 * 3600.0
"""Seconds after which an unfinished file is nobody's, whoever has its writer's number now."""


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
    missing = sorted(name for name in set(fields) - set(arguments) if not was_added(fields[name]))
    if missing:  # not filled from other defaults: they may change, what was written may not
        raise ValueError(f"{kind} lacks {', '.join(missing)}")
    hints = field_types(cls)
    try:
        return cls(**{name: fitted(name, _decode(item, kinds), hints[name]) for name, item in arguments.items()})
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{kind}: {error}") from error


def _decode(item: Any, kinds: Mapping[str, type]) -> Any:
    if isinstance(item, Mapping):
        return from_json(item, kinds) if "kind" in item else {key: _decode(i, kinds) for key, i in item.items()}
    return tuple(_decode(i, kinds) for i in item) if isinstance(item, list | tuple) else item


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls ``write(temporary)`` and renames the result to ``path``: readers see the old file or the new one.

    A link stays, and the file that it leads to is replaced. What killed writers of the same file left is removed.

    Raises:
        OutputError: the path is a folder or a device, its name is too long, or the disk is full or read-only.
    """
    path = check_output(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_suffix(os.getpid()))
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
    except OSError as error:
        raise _unwritable(path, error) from error


def check_output(path: Path) -> Path:
    """The file that a path leads to, which may be there or not.

    Raises:
        OutputError: it is no place for a file.
    """
    if not path.name:
        raise OutputError("the output has no file name", where=repr(str(path)), fix="name a file")
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            what = "a folder" if target.is_dir() else "a device or pipe"
            raise OutputError(f"the output is {what}, and is left as it is", where=str(path), fix="name a file")
    except (OSError, RuntimeError, ValueError) as error:
        raise _unwritable(path, error) from error
    return target


def check_writable(path: Path) -> None:
    """Makes sure that a file can be written before long work begins; makes its folder.

    Raises:
        OutputError: see `write_atomically`.
    """
    target = check_output(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=_suffix(os.getpid()))
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or str(error)
    fix = "make room, or choose a path that can be written"
    return OutputError(f"the output cannot be written: {reason}", where=str(path)[:300], fix=fix)


def _sweep(path: Path) -> None:
    """Removes unfinished files of writers of this path on this machine that are no longer alive."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.removesuffix(".tmp").rpartition("-")[2]
        old = time.time() - left.stat().st_mtime > _STALE if left.exists() else False
        if old or (number.isdecimal() and left.name.endswith(_suffix(int(number))) and not _alive(int(number))):
            left.unlink(missing_ok=True)


def _suffix(process: int) -> str:
    """Says which process of which machine writes; folders may be shared."""
    return f".{zlib.crc32(platform.node().encode()):08x}-{process}.tmp"


def _alive(process: int) -> bool:
    if os.name != "posix":  # elsewhere there is no signal that only asks
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Writes JSON with sorted keys, atomically; raises as `write_atomically`."""
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
