"""Frozen records in words, for people: the name in a table of the library, then the settings that matter."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any


def in_words(record: Any, table: Mapping[str, Any] | None = None) -> str:
    """``OffsetSpike(8)`` with the table of schedules is ``cos (probe steps 8)``.

    In brackets stand the first number, the granularity and what differs from its default.

    Args:
        record: a frozen dataclass.
        table: classes by name; what is not in it is called by its class.
    """
    known = (key for key, entry in (table or {}).items() if entry is type(record))
    name = next(known, _spoken(type(record).__name__))
    fields = dataclasses.fields(record) if dataclasses.is_dataclass(record) else ()
    settings = []
    for index, field in enumerate(fields):
        value = getattr(record, field.name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (index == 0 and number) or field.name == "granularity" or value != _default(field):
            settings.append(_setting("" if field.name == name else _spoken(field.name), value))
    return f"{name} ({', '.join(settings)})" if settings else name


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return name if value else f"no {name}"
    if dataclasses.is_dataclass(value):
        return in_words(value)
    return f"{name} {_value(value)}".strip()


def _value(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple):
        return ", ".join(" ".join(map(str, item)) if isinstance(item, tuple) else _value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _spoken(name: str) -> str:
    """``probe_steps`` is probe steps, and ``PerChannel`` per channel."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()
