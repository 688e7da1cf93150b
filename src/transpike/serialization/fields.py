"""Fields of frozen records against their annotations: what a user or a file gives must be of the type it says."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from numbers import Integral, Real
from typing import Any, Union

ADDED: Mapping[str, bool] = {"added": True}
"""Metadata of a field that a record did not have at first. What was written before means its default: `from_json` fills
it in, and digests leave the field out where it holds the default, so that they stay what they were. So it may never
change."""


def was_added(field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a record has the metadata `ADDED`."""
    return "added" in field.metadata


def check_fields(record: Any) -> None:
    """Checks the fields of a frozen record of settings as it is made; words become enums, lists become tuples.

    Raises:
        ValueError: a field holds something of another type, NaN or infinity.
    """
    for name, hint in field_types(type(record)).items():  # type: ignore[arg-type]
        value = fitted(name, getattr(record, name), hint)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
        object.__setattr__(record, name, value)


@cache
def field_types(cls: type) -> dict[str, Any]:
    """Names and annotations of the fields of a dataclass."""
    try:
        hints = typing.get_type_hints(cls)
    except NameError:  # a class of the user's, annotated with names that only a type checker sees
        hints = {}
    return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls)}


def fitted(name: str, value: Any, hint: Any) -> Any:
    """A value as its annotation wants it.

    Args:
        name: what it is, for the error.
        value: as it was given.
        hint: a number, text, enum or class, or a union, tuple or mapping of them; others are not looked at.

    Raises:
        ValueError: it is of another type.
    """
    try:
        return _fit(value, hint)
    except TypeError:
        raise ValueError(f"{name} must be {_words(hint)}, got {_shown(value)}") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return f"a {type(value).__name__}" if len(text) > 100 or "\n" in text else text


def _fit(value: Any, hint: Any) -> Any:
    if hint is Any:
        return value
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in inner:
            try:
                return _fit(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is tuple:
        if not isinstance(value, list | tuple) or (inner[-1:] != (...,) and len(inner) != len(value)):
            raise TypeError
        hints = inner[:1] * len(value) if inner[-1:] == (...,) else inner
        return tuple(_fit(item, each) for item, each in zip(value, hints, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise TypeError
        return value
    if hint is int or hint is float:
        return _number(value, hint)
    if isinstance(hint, type) and issubclass(hint, Enum) and not isinstance(value, hint):
        try:
            return hint(value)
        except ValueError:
            raise TypeError from None
    if isinstance(hint, type) and not isinstance(value, hint):
        raise TypeError
    return value


def _number(value: Any, kind: type) -> Any:
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        raise TypeError
    return value if isinstance(value, int | float) else kind(value)  # numpy has numbers of its own


def _words(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is tuple:
        return f"a list, each {_words(inner[0])}" if inner[-1:] == (...,) else f"({', '.join(map(_words, inner))})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(repr(entry.value) for entry in hint)}"
    plain = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}
    return plain.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """Checks a number of things that an argument gives.

    Raises:
        ValueError: it is no whole number, or outside the range.
    """
    number: int = fitted(name, value, int)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most:,}, got {number}")
    return number
