"""From words on the command line to numbers, settings and records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transpike.conversion.config import read_conversion, read_conversion_file, read_part, takes
from transpike.conversion.methods import METHODS
from transpike.errors import ConfigError, ModelError
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
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_numbers(text: str, option: str) -> tuple[int, ...]:
    """``"1,4,8"`` to numbers.

    Raises:
        ValueError: something else stands there.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes whole numbers separated by commas, not {text!r}") from error


def part_words(kind: str, text: str, **given: Any) -> dict[str, Any]:
    """``cos:iterations=2`` to a table for `read_part`; of ``given``, what that part takes and is not None.

    Raises:
        ConfigError: a setting without a value.
    """
    name, *pairs = text.split(":")
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ConfigError(
            f"{wrong[0]!r} is no setting", where=f"--{kind} {text}", fix=f"write {name}:setting=value, joined by colons"
        )
    own = {key.replace("-", "_"): value for key, value in parse_options(pairs).items()}
    fitting = {
        key: value
        for key, value in given.items()
        if value is not None and takes(kind, name, "granularity" if key == "per" else key)
    }
    return {"name": name, **fitting, **own}


def read_schedule(text: str, probe_steps: int | None = None) -> Schedule:
    """A schedule from ``NAME`` or ``NAME:setting=value``.

    Raises:
        ConfigError: an unknown name or setting, or a setting that is refused.
    """
    words = part_words("schedule", text, probe_steps=probe_steps)
    schedule: Schedule = read_part("schedule", words, f"--schedule {text}")
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
    given = [option for option, value in ways.items() if value is not None]
    if given[:1] in (["--config"], ["--method"]) and given[1:]:
        raise ConfigError(f"{given[0]} sets everything, but {given[1]} is there, too", fix=f"leave {given[1]} out")
    if config is not None:
        return read_conversion_file(config)
    if method is not None:
        tuned = method not in METHODS or METHODS[method].tuned
        own = {} if steps is None and tuned else {"steps": 1 if steps is None else steps}
        return read_conversion({"method": method, **own}, "--method")
    words: dict[str, Any] = {}
    if threshold is not None:
        settings = {"per": per, "percentile": percentile, "steps": steps}
        words["threshold"] = part_words("threshold", threshold, **settings)
    if potential is not None:
        words["potential"] = part_words("potential", potential, seed=seed)
    if corrections:
        words["corrections"] = [part_words("corrections", text, steps=steps) for text in corrections]
    if neuron is not None:
        words["neuron"] = part_words("neuron", neuron)
    if schedule is not None:
        rho = steps if probe_steps is None else probe_steps
        words["schedule"] = part_words("schedule", schedule, probe_steps=rho)
    conversion = read_conversion(words, "the options of convert")
    _refuse_idle(words, {"per": per, "percentile": percentile, "steps": steps, "probe_steps": probe_steps})
    return conversion


def _refuse_idle(words: dict[str, Any], options: dict[str, Any]) -> None:
    """An option that sets nothing was meant otherwise."""
    tables = [table for entry in words.values() for table in (entry if isinstance(entry, list) else [entry])]
    used = {key for table in tables for key in table}
    used |= {"steps"} if "probe_steps" in used and options["probe_steps"] is None else set()
    idle = [f"--{key.replace('_', '-')}" for key, value in options.items() if value is not None and key not in used]
    if idle:
        chosen = ", ".join(table["name"] for table in tables) or "no part at all"
        raise ConfigError(
            f"{idle[0]} sets nothing here",
            where=f"chosen: {chosen}",
            fix=f"leave {idle[0]} out, or name a --threshold, --correction or --schedule that takes it",
        )
