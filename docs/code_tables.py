"""Tables made from the library's own tables: methods, rules, schedules, neurons, networks."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from records import percent, table


def first_sentence(made: Any) -> str:
    """What a docstring begins with, with names as literals."""
    text = (inspect.getdoc(made) or "").split("\n\n")[0].replace("\n", " ")
    return re.sub(r"(?<!`)`([^`]+)`(?!`)", r"`\1`", text.replace("``", "`")).replace("|", "\\|")


def signature(made: type) -> str:
    """A class and the fields that it takes, with their defaults."""
    if not is_dataclass(made):
        return f"`{made.__name__}`"
    parts = []
    for found in inspect.signature(made).parameters.values():
        default = "" if found.default is found.empty else f"={_short(found.default)}"
        parts.append(found.name + ("" if "factory" in default else default))
    return f"`{made.__name__}({', '.join(parts)})`"


def _short(value: Any) -> str:
    return f"{type(value).__name__}.{value.name}" if hasattr(value, "name") and hasattr(value, "value") else repr(value)


def _changed(value: Any) -> str:
    """A record by name, with the fields that are not as by default."""
    if not is_dataclass(value):
        return type(value).__name__
    shown = []
    for found in fields(value):
        now = getattr(value, found.name)
        default = inspect.signature(type(value)).parameters[found.name].default
        if found.init and now != default and "factory" not in repr(default):
            shown.append(f"{found.name}={getattr(now, 'value', now)}")
    return f"{type(value).__name__}({', '.join(shown)})" if shown else type(value).__name__


@cache
def _example() -> Any:
    """A network with 19 sites on its longest path, as a ResNet-20 has."""
    import torch

    import transpike as tp

    torch.manual_seed(0)
    x = torch.rand(8, 1, 8, 8)
    return tp.convert(tp.zoo.build("digits-resnet", width=2).eval(), calibration=x, example_inputs=x)


def methods() -> str:
    """Published methods: what they are made of and what they need."""
    from transpike.conversion.methods import METHODS

    rows = []
    for name, method in METHODS.items():
        made = method(4)
        parts = [_name(part) for part in made.parts]
        neuron, schedule = _changed(made.neuron), _changed(made.schedule)
        latency = _example().latency(4, made.schedule).pipeline_steps
        needs = ", ".join(need.value for need in method.needs)
        rows.append((f"`{name}`", method.paper, ", ".join(parts), neuron, schedule, latency, _yes(method.tuned), needs))
    head = (
        "name",
        "from",
        "rules and corrections",
        "neuron",
        "schedule",
        "pipeline latency",
        "made for one T",
        "needs",
    )
    return table(head, rows, left=8)


def _name(part: Any) -> str:
    return type(part).__name__


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _rules(made: Mapping[str, type]) -> str:
    rows = ((f"`{name}`", signature(cls), first_sentence(cls)) for name, cls in made.items())
    return table(("name", "class in `tp.rules`", "what it does"), rows, left=3)


def thresholds() -> str:
    """Rules for thresholds."""
    from transpike.rules import THRESHOLD_RULES

    return _rules(THRESHOLD_RULES)


def potentials() -> str:
    """Rules for initial potentials."""
    from transpike.rules import POTENTIAL_RULES

    return _rules(POTENTIAL_RULES)


def corrections() -> str:
    """Corrections."""
    from transpike.rules import CORRECTIONS

    return _rules(CORRECTIONS)


def _event_driven(schedule: Any) -> bool:
    import torch

    with torch.no_grad():
        return _example().engine.unsupported_reason(schedule) is None


def schedules() -> str:
    """Schedules: whether they stream, run on the engine, and the four latencies on a network with 19 sites."""
    from transpike.schedules import SCHEDULES

    rows = []
    for name, cls in SCHEDULES.items():
        schedule = cls()
        found = _example().latency(4, schedule)
        rows.append(
            (
                f"`{name}`",
                signature(cls),
                first_sentence(cls),
                _yes(schedule.streamable),
                _yes(_event_driven(schedule)),
                *(found.answer_steps, found.claimed_steps, found.pipeline_steps, found.interval),
            )
        )
    head = ("name", "class in `tp.schedules`", "what it does", "streams", "event-driven on a CPU")
    return table((*head, "answer", "claimed", "pipeline", "interval"), rows, left=5)


def neurons() -> str:
    """Neurons and what they send."""
    from transpike.neurons import NEURONS

    sends = {"binary": "0, 1", "signed": "-1, 0, 1", "count": "0, 1, 2, ..."}
    rows = []
    for name, cls in NEURONS.items():
        kind = cls().events.value
        rows.append((f"`{name}`", signature(cls), first_sentence(cls), f"{kind}: {sends.get(kind, '')}"))
    return table(("name", "class in `tp.neurons`", "what it does", "events of one step"), rows, left=4)


def activations() -> str:
    """Trained activations."""
    from transpike import activations as namespace

    rows = []
    for name in sorted(namespace.__all__):
        cls = getattr(namespace, name)
        settings = inspect.isclass(cls) and issubclass(cls, namespace.ActivationSettings)
        function = inspect.isfunction(cls)
        if function or (settings and not inspect.isabstract(cls)):
            shown = f"`{name}({', '.join(inspect.signature(cls).parameters)})`" if function else signature(cls)
            rows.append((shown, first_sentence(cls)))
    return table(("`tp.activations`", "what it is"), rows, left=2)


def networks() -> str:
    """Built-in networks."""
    from transpike.zoo import ZOO

    rows = []
    for name, entry in ZOO.items():
        shape = " x ".join(str(size) for size in entry.inputs.shape)
        rows.append((f"`{name}`", shape, entry.inputs.dataset, entry.about))
    return table(("name", "input", "data", "network"), rows, left=4)


def zoo_accuracy() -> str:
    """Trained networks: accuracy of the ANN and of its conversions, from their cards."""
    from transpike.zoo import cards

    found = cards()
    steps = sorted({t for card in found.values() for each in card.schedules for t in each.top1})
    rows: list[tuple[str, ...]] = []
    for name, card in found.items():
        ann = percent(card.ann_top1) if card.through_time is None else f"from {percent(card.ann_top1)}"
        first = (f"`{name}`", f"{card.test_images:,} of {card.dataset}", ann)
        for each in card.schedules:
            latency = {pipeline - t for t, pipeline in each.pipeline_steps.items()}
            extra = "T" if latency == {0} else f"{latency.pop()} + T" if len(latency) == 1 else "see card"
            rows.append((*first, each.schedule, extra, *(percent(each.top1.get(t)) for t in steps)))
            first = ("", "", "")
        if not card.schedules:
            rows.append((*first, "", "", *("" for _ in steps)))
    head = ("name", "test images", "ANN", "schedule", "pipeline latency", *(f"T = {t}" for t in steps))
    return table(head, rows, left=5)


def zoo_training() -> str:
    """Trained networks: how they were trained, from their cards."""
    from transpike.zoo import cards

    rows, words = [], []
    for name, card in cards().items():
        made = card.training
        numbers = (made.epochs, f"{made.learning_rate:g}", f"{made.weight_decay:g}", made.batch_size, made.seed)
        about = f"{made.about}; from {made.start}" if made.start else made.about
        about = about if card.through_time is None else f"converted, {card.through_time}: {about}"
        words.append(f"* `{name}`: `{card.network}`, {card.activation or 'ReLU'}. {about}.")
        rows.append((f"`{name}`", card.licence, f"`{card.sha256[:12]}`", f"{made.training_images:,}", *numbers))
    head = ("name", "licence", "SHA-256 begins", "images", "epochs", "rate", "decay", "batch", "seed")
    return "\n".join(words) + "\n\n" + table(head, rows, left=3)


def data_sets() -> str:
    """Data sets by name."""
    from transpike.data import DATA

    return table(("name", "what it is"), ((f"`{name}`", first_sentence(made)) for name, made in DATA.items()), left=2)


def recipes() -> str:
    """Recipes."""
    rows = []
    folder = files("transpike.experiments") / "recipes"
    for file in sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name):
        found = tomllib.loads(file.read_text(encoding="utf-8"))
        networks = {each.get("network", found["network"]) for each in found.get("train", []) if "start" not in each}
        shown = ", ".join(sorted(networks or {found["network"]}))
        rows.append((f"`{file.name.removesuffix('.toml')}`", shown, found["data"], found["about"]))
    return table(("name", "network", "data", "what it does"), rows, left=4)
