"""From words on the command line to numbers, settings and records."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

from transpike.activations import ACTIVATIONS, ActivationSettings
from transpike.conversion.config import part_words, read_conversion, read_conversion_file, read_part, read_value, takes
from transpike.errors import ConfigError, ModelError, known_words
from transpike.network.spiking import SpikingNetwork
from transpike.rules import Conversion
from transpike.schedules import Schedule


def parse_options(pairs: list[str] | None) -> dict[str, Any]:
    """``["width=8", "shortcut=conv"]`` to keyword arguments; whole numbers, floats and booleans are recognised.

    Raises:
        ModelError: an entry without ``=``.
    """
    found: dict[str, Any] = {}
    for pair in pairs or ():
        key, equals, text = pair.partition("=")
        if not equals:
            raise ModelError(f"{pair!r} is no option", fix="write --option name=value")
        found[key] = read_value(text)
    return found


def parse_given(pairs: list[str] | None) -> dict[str, str]:
    """``["resnet20-qcfs=qcfs.safetensors"]`` to files by name; a name may hold ``=``, as labels of rows do.

    Raises:
        ConfigError: an entry without ``=``, or two of one name.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, file = pair.rpartition("=")
        if not equals or not name or not file:
            raise ConfigError(f"{pair!r} names no file", where="--network", fix="write --network NAME=FILE")
        if name in found:
            raise ConfigError(f"{name!r} is given twice", where="--network", fix="leave one out")
        found[name] = file
    return found


def read_activation(name: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> ActivationSettings:
    """The settings of an activation.

    Args:
        name: of the table.
        given: what the user set; the activation must take it.
        defaults: what it gets where it needs it and the user gave nothing.

    Raises:
        ConfigError: an unknown name, or a setting that it does not take.
        ValueError: a setting that it refuses.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"there is no activation {name!r}", where="--activation", fix=known_words(name, ACTIVATIONS))
    needed = signature(ACTIVATIONS[name]).parameters
    own = {key: value for key, value in defaults.items() if key in needed}
    try:
        return ACTIVATIONS[name](**{**own, **given})
    except TypeError as error:
        options = [f"--{key.replace('theta_init', 'theta_percentile').replace('_', '-')}" for key in given]
        raise ConfigError(
            f"{name} does not take all of {', '.join(options)}", where="--activation", fix="leave the others out"
        ) from error


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """``"1,4,8"`` to numbers.

    Raises:
        ValueError: something else stands there.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes whole numbers separated by commas, not {text!r}") from error


def parse_axis(text: str, option: str) -> tuple[float, ...]:
    """``"0,0.5"``, or ``"0:0.9:0.1"`` from first to last in steps, both included, to numbers.

    Raises:
        ValueError: something else stands there, or a range that no whole number of steps ends.
    """
    first, *more = text.split(":")
    try:
        if not more:
            return tuple(float(word) for word in text.split(","))
        low, (high, step) = float(first), (float(word) for word in more)
    except ValueError:
        raise ValueError(f"{option} takes numbers 0,0.5 or a range FIRST:LAST:STEP, not {text!r}") from None
    gaps = (high - low) / step if step > 0 else -1.0
    if not -1e-9 <= gaps < 10_000 or abs(gaps - round(gaps)) > 1e-6:
        raise ValueError(f"{option}: from {low:g} no whole number of steps of {step:g} leads to {high:g}")
    return tuple(round(low + index * step, 10) for index in range(round(gaps) + 1))


def read_schedule(text: str, probe_steps: int | None = None) -> Schedule:
    """A schedule from ``NAME`` or ``NAME:setting=value``.

    Raises:
        ConfigError: an unknown name or setting, or a setting that is refused.
    """
    where = f"--schedule {text}"
    schedule: Schedule = read_part("schedule", part_words("schedule", text, where, probe_steps=probe_steps), where)
    return schedule


def schedule_for(snn: SpikingNetwork, text: str | None, probe_steps: int | None) -> Schedule:
    """The schedule that the user named, else the one that the network was converted for.

    Raises:
        ConfigError: see `read_schedule`; or probe steps that nothing takes.
    """
    name = (text or "").split(":")[0]
    if text is not None and (probe_steps is None or takes("schedule", name, "probe_steps")):
        return read_schedule(text, probe_steps)
    if text is not None:
        read_schedule(text)  # an unknown name first
        raise ConfigError(f"the schedule {name!r} has no --probe-steps", fix="leave --probe-steps out")
    if probe_steps is not None:
        raise ConfigError(
            "--probe-steps belongs to --schedule", where=f"without it, {snn.schedule} runs", fix="name a --schedule"
        )
    return snn.schedule


def read_conversion_words(
    *,
    method: str | None,
    config: Path | None,
    steps: int | None,
    threshold: str | None,
    per: str | None,
    percentile: float | None,
    potential: str | None,
    corrections: list[str] | None,
    neuron: str | None,
    schedule: str | None,
    probe_steps: int | None,
    seed: int,
    quantise: str | None = None,
) -> Conversion:
    """A conversion from the options of ``transpike convert``: a method, a file, or parts.

    Raises:
        ConfigError: see `read_conversion`; two ways at once, or an option that no part takes.
    """
    parts = {
        "--threshold": threshold,
        "--per": per,
        "--percentile": percentile,
        "--potential": potential,
        "--correction": corrections or None,
        "--neuron": neuron,
        "--schedule": schedule,
        "--probe-steps": probe_steps,
    }
    ways = {"--config": config, "--method": method, **parts, "--steps": None if method else steps}
    ways |= {"--quantise": None if method else quantise}
    given = [option for option, value in ways.items() if value is not None]
    if given[:1] in (["--config"], ["--method"]) and given[1:]:
        raise ConfigError(f"{given[0]} sets everything, but {given[1]} is there, too", fix=f"leave {given[1]} out")
    if config is not None:
        return read_conversion_file(config)
    if method is not None:
        return read_conversion({"method": method, "steps": steps, "quantise": quantise}, "--method")
    where = "the options of convert"
    words: dict[str, Any] = {} if steps is None else {"steps": steps}
    if threshold is not None:
        words["threshold"] = part_words("threshold", threshold, where, per=per, percentile=percentile)
    if potential is not None:
        words["potential"] = part_words("potential", potential, where, seed=seed)
    if corrections:
        words["corrections"] = corrections
    if neuron is not None:
        words["neuron"] = neuron
    if schedule is not None:
        words["schedule"] = part_words("schedule", schedule, where, probe_steps=probe_steps)
    if quantise is not None:
        words["quantise"] = quantise
    conversion = read_conversion(words, where)
    used = {*words.get("threshold", ()), *words.get("schedule", ())}
    idle = {"per": per, "percentile": percentile, "probe_steps": probe_steps}
    unused = [f"--{key.replace('_', '-')}" for key, value in idle.items() if value is not None and key not in used]
    if unused:
        fix = f"leave {unused[0]} out, or name a --threshold or --schedule that takes it"
        raise ConfigError(f"{unused[0]} sets nothing here", fix=fix)
    return conversion
