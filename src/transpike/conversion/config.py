"""A conversion from plain words, as TOML files and command lines give it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from transpike.conversion.methods import METHODS
from transpike.errors import ConfigError, known_words
from transpike.neurons import NEURONS
from transpike.rules import (
    CORRECTIONS,
    POTENTIAL_RULES,
    THRESHOLD_RULES,
    Conversion,
    PerChannel,
    PerLayer,
    PerNeuron,
    Quantisation,
)
from transpike.schedules import SCHEDULES

GRANULARITIES = {"layer": PerLayer, "channel": PerChannel, "neuron": PerNeuron}
TABLES: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "threshold": THRESHOLD_RULES,
    "potential": POTENTIAL_RULES,
    "corrections": CORRECTIONS,
    "neuron": NEURONS,
    "schedule": SCHEDULES,
}


def read_conversion(words: Mapping[str, Any], where: str = "conversion") -> Conversion:
    """A conversion from nested tables of words and numbers.

    Either ``method`` and ``steps`` name a row of `transpike.methods`; or ``threshold``, ``potential``, ``neuron`` and
    ``schedule`` each are a name, or a table with ``name`` and settings, and ``corrections`` is a list of these.
    ``per`` in a table is ``"layer"``, ``"channel"`` or ``"neuron"``. A table can be one text,
    ``"NAME:setting=value:setting=value"``. ``quantise``, also beside a method, is the number of bits, ``"8:steps=32"``,
    or a table of settings of `Quantisation`, whose ``steps`` are at least the conversion's. ``steps`` beside parts is
    the default of every part that takes ``steps``,
    and of the schedule's ``probe_steps``::

        {"steps": 8, "threshold": "minimum-mse:per=channel", "corrections": ["bias"], "schedule": "accumulate"}

    Args:
        words: the tables.
        where: what errors name.

    Raises:
        ConfigError: an unknown word, or a setting that is not taken, lacks or is refused.
    """
    if not isinstance(words, Mapping):
        raise ConfigError(f"a table is expected, not {words!r}", where=where, fix="write [conversion] with its entries")
    if "method" in words:
        return _by_method(words, where)
    unknown = [key for key in words if key not in TABLES and key not in ("steps", "quantise")]
    if unknown:
        known = ["method", "steps", "quantise", *TABLES]
        raise ConfigError(f"there is no {unknown[0]!r}", where=where, fix=known_words(unknown[0], known))
    steps = words.get("steps")
    made: dict[str, Any] = {}
    tables: list[dict[str, Any]] = []
    for kind, value in words.items():
        if kind in ("steps", "quantise"):
            continue
        entries = value if kind == "corrections" and isinstance(value, list | tuple) else [value]
        own = [part_words(kind, entry, where, steps=steps, probe_steps=steps) for entry in entries]
        parts = [read_part(kind, table, where) for table in own]
        made[kind] = tuple(parts) if kind == "corrections" else parts[0]
        tables += own
    if steps is not None and not any("steps" in table or "probe_steps" in table for table in tables):
        chosen = ", ".join(table["name"] for table in tables) or "no part at all"
        raise ConfigError(
            "steps sets nothing here",
            where=f"{where}, chosen: {chosen}",
            fix="leave steps out, or name a threshold, correction or schedule that takes it",
        )
    try:
        return Conversion(**made, quantise=read_quantisation(words.get("quantise"), steps, where))
    except ValueError as error:
        raise ConfigError(str(error), where=where) from error


def read_quantisation(words: Any, steps: Any = None, where: str = "conversion") -> Quantisation | None:
    """How to quantise: None, the bits, ``"BITS:setting=value"``, or a table; by default for at least ``steps`` steps.

    Raises:
        ConfigError: a setting that is not taken or is refused.
    """
    if words is None:
        return None
    settings: dict[str, Any] = dict(words) if isinstance(words, Mapping) else {}
    if not isinstance(words, Mapping):
        bits, *pairs = str(words).split(":")
        settings = {"bits": read_value(bits)}
        for pair in pairs:
            key, _, value = pair.partition("=")
            settings[key.replace("-", "_")] = read_value(value)
    known = signature(Quantisation).parameters
    strange = [key for key in settings if key not in known]
    if strange:
        fix = f"it takes: {', '.join(known)}"
        raise ConfigError(f"quantise has no {strange[0]!r}", where=where, fix=fix)
    if isinstance(steps, int) and steps > known["steps"].default:
        settings = {"steps": steps, **settings}
    try:
        return Quantisation(**settings)
    except ValueError as error:
        fix = 'quantise = 8, or "8:steps=32"'
        raise ConfigError(f"quantise: {error}", where=where, fix=fix, shell_fix="--quantise 8:steps=32") from error


def read_part(kind: str, words: str | Mapping[str, Any], where: str = "conversion") -> Any:
    """One part from ``NAME`` or ``NAME:setting=value``, or from a table with ``name`` and settings.

    Args:
        kind: ``"threshold"``, ``"potential"``, ``"corrections"``, ``"neuron"`` or ``"schedule"``.
        words: the text or the table.
        where: what errors name.

    Raises:
        ConfigError: see `read_conversion`.
    """
    settings = part_words(kind, words, where)
    name, table = str(settings.pop("name", None)), TABLES[kind]
    if name not in table:
        raise ConfigError(f"{kind} names {name!r}", where=where, fix=known_words(name, table))
    if "per" in settings:
        per = settings.pop("per")
        if not isinstance(per, str) or per not in GRANULARITIES:
            raise ConfigError(f"per names {per!r}", where=where, fix=known_words(str(per), GRANULARITIES))
        settings["granularity"] = GRANULARITIES[per]()
    known = signature(table[name]).parameters
    strange = [key for key in settings if key not in known]
    if strange:
        wanted = ", ".join("per" if key == "granularity" else key for key in known)
        strange_name = "per" if strange[0] == "granularity" else strange[0]
        raise ConfigError(f"{name} has no {strange_name!r}", where=where, fix=f"it takes: {wanted or 'nothing'}")
    missing = [key for key, entry in known.items() if entry.default is entry.empty and key not in settings]
    if missing:
        shell = "pass --steps" if missing[0] == "steps" else f"write {name}:{missing[0]}=VALUE"
        raise ConfigError(f"{name} needs {', '.join(missing)}", where=where, fix=f"give {missing[0]}", shell_fix=shell)
    try:
        return table[name](**settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} refuses its settings: {error}", where=where) from error


def part_words(kind: str, words: str | Mapping[str, Any], where: str = "conversion", **given: Any) -> dict[str, Any]:
    """The table of a part, of ``NAME:setting=value`` too; what it lacks of ``given``, takes and is not None is added.

    Raises:
        ConfigError: neither text nor table, or a setting without a value.
    """
    if not isinstance(words, str | Mapping):
        raise ConfigError(f"{kind} takes a name or a table, not {words!r}", where=where, fix=f'{kind} = "NAME"')
    if isinstance(words, str):
        name, *pairs = words.split(":")
        wrong = [pair for pair in pairs if "=" not in pair]
        if wrong:
            fix = f"write {name}:setting=value, joined by colons"
            raise ConfigError(f"{wrong[0]!r} is no setting", where=f"{where}, {kind} {words}", fix=fix)
        settings = [pair.split("=", 1) for pair in pairs]
        words = {"name": name, **{key.replace("-", "_"): read_value(text) for key, text in settings}}
    name = str(words.get("name"))
    fitting = {
        key: value
        for key, value in given.items()
        if value is not None and takes(kind, name, "granularity" if key == "per" else key)
    }
    return {**fitting, **words}


def read_value(text: str) -> Any:
    """A whole number, a float or a boolean if the text is one, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def takes(kind: str, name: str, setting: str) -> bool:
    """Whether a part has a setting; False for unknown names."""
    return name in TABLES[kind] and setting in signature(TABLES[kind][name]).parameters


def read_conversion_file(path: Path) -> Conversion:
    """A conversion from a TOML file; see `read_conversion`.

    Raises:
        ConfigError: the file is missing or no TOML, or see `read_conversion`.
    """
    try:
        words = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("there is no such file", where=str(path), fix="pass a TOML file") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        fix = 'pass a TOML file; names need quotes: threshold = "maximum"'
        raise ConfigError(f"the file cannot be read: {error}", where=str(path), fix=fix) from error
    return read_conversion(words, str(path))


def _by_method(words: Mapping[str, Any], where: str) -> Conversion:
    strange = sorted(set(words) - {"method", "steps", "quantise"})
    if strange:
        raise ConfigError(
            f"a method sets everything, but {strange[0]!r} is there, too", where=where, fix="leave it out"
        )
    if not isinstance(words["method"], str) or words["method"] not in METHODS:
        name = str(words["method"])
        raise ConfigError(f"method names {name!r}", where=where, fix=known_words(name, METHODS))
    quantise = read_quantisation(words.get("quantise"), words.get("steps"), where)
    try:
        return replace(METHODS[words["method"]](words.get("steps")), quantise=quantise)
    except (TypeError, ValueError) as error:
        fix = "give steps, the T to convert for"
        raise ConfigError(str(error), where=where, fix=fix, shell_fix="pass --steps") from error
