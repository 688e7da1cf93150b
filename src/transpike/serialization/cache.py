"""Cache files: JSON that is read again by the same run only, and never written over a foreign file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transpike.errors import DataError
from transpike.serialization.json_records import check_output, write_json

_MARK = "transpike cache"


def read_cache(path: Path | None, key: str) -> Any | None:
    """What `write_cache` stored under the same key; None if there is no file, or one of another run.

    Args:
        path: the file; None is no cache.
        key: digest of all that the content depends on.

    Raises:
        DataError: the file is no cache of ours.
    """
    if path is None or not path.exists():
        return None
    check_output(path)  # reading a device or pipe may never end
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or stored.get("kind") != _MARK or not {"key", "content"} <= set(stored):
        raise DataError(
            "the file is no cache that transpike wrote, and is left as it is",
            where=str(path),
            fix="choose another file, or remove this one",
        )
    return stored["content"] if stored["key"] == key else None


def write_cache(path: Path | None, key: str, content: Any) -> None:
    """Writes JSON values under a key, atomically; a ``path`` of None is no cache."""
    if path is not None:
        write_json(path, {"kind": _MARK, "key": key, "content": content})
