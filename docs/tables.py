"""Tables of the documentation, made from the library's own tables and from the records in `results/`.

    python docs/tables.py --write README.md     fills what stands between ``<!-- begin: NAME -->`` and ``<!-- end -->``
    python docs/tables.py --check README.md     exit status 1 where that is stale

The site's build calls `write_all`; its pages include the fragments.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
SHORT = (1, 2, 4, 8)
LONG = (16, 32)


# ---- Markdown --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are aligned to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * left + "---:|" * (len(head) - left)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(value: float | None, digits: int = 2) -> str:
    """A percentage, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def link(name: str) -> str:
    """A link to a record, for pages of the site one folder below its root."""
    return f"{{download}}`{name} <../../results/{name}>`"


def record(name: str) -> Any:
    """A record in `results/`."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


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


# ---- from the library's tables ---------------------------------------------------------------------------------------


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
        rows.append(
            (f"`{file.name.removesuffix('.toml')}`", found.get("network", ""), found.get("data", ""), found["about"])
        )
    return table(("name", "network", "data", "what it does"), rows, left=4)


def models() -> str:
    """Networks of other libraries that convert, from the record."""
    found = record("models.json")["rows"]
    rows = []
    for row in found:
        if not row["converts"]:
            continue
        rows.append(
            (
                f"`{row['network']}`",
                row["image"],
                row["sites"],
                f"{row['neurons']:,}",
                row["max_poolings"] or "",
                percent(row["error"]["64"]),
                percent(row["error"]["256"]),
            )
        )
    head = ("network", "image", "sites", "neurons", "temporal max-poolings", "error in %, T = 64", "T = 256")
    return table(head, rows)


def refused_models() -> str:
    """Networks of other libraries that do not convert, and the operators that are unsupported."""
    rows = ((f"`{r['network']}`", f"`{r['unsupported']}`") for r in record("models.json")["rows"] if not r["converts"])
    return table(("network", "unsupported"), rows, left=2)


# ---- from results ----------------------------------------------------------------------------------------------------

PRETRAINED = {
    "transpike, together: percentile 99.9 per channel, half threshold": "99.9 percentile per channel, v(0) = θ/2",
    "transpike, together: minimum MSE, bias": "least squares at T, biases corrected",
    "transpike, layer after layer: minimum MSE, bias, rho = 4": "accumulate, ρ = 4",
    "transpike, layer after layer: the same, thresholds and biases trained, rho = 4": (
        "accumulate, ρ = 4, thresholds and biases trained"
    ),
    "transpike, layer after layer: the same, weights trained too, rho = 4": "accumulate, ρ = 4, weights trained by blocks",
    "transpike, layer after layer: minimum MSE, bias, rho = 8": "accumulate, ρ = 8",
    "transpike, layer after layer: the same, thresholds and biases trained, rho = 8": (
        "accumulate, ρ = 8, thresholds and biases trained"
    ),
}
"""Labels of the record, and what the tables call them."""


def _latency(steps: Mapping[str, int] | Mapping[int, int]) -> str:
    """Pipeline latency as a formula in T."""
    extra = {int(pipeline) - int(t) for t, pipeline in steps.items()}
    if extra == {0}:
        return "T"
    return f"{extra.pop()} + T" if len(extra) == 1 else ", ".join(str(value) for value in steps.values())


def pretrained() -> str:
    """The public ResNet-20, converted without retraining; T up to 8 on all images, T = 16 and 32 on the fixed ones."""
    found, fixed = record("pretrained-resnet20-all.json"), record("pretrained-resnet20.json")
    longer = {row["label"]: row["top1"] for row in fixed["rows"]}
    rows = []
    for row in found["rows"]:
        more = longer.get(row["label"], {})
        cells = [percent(row["top1"].get(str(t))) for t in SHORT] + [percent(more.get(str(t))) for t in LONG]
        rows.append((PRETRAINED.get(row["label"], row["label"]), _latency(row["pipeline_steps"]), *cells))
    head = ("conversion", "pipeline latency", *(f"T = {t}" for t in (*SHORT, *LONG)))
    note = (
        f"T = 1 to 8: {found['test_images']:,} test images, ANN {found['ann_top1']:.2f} %; T = 16 and 32: the fixed "
        f"{fixed['test_images']:,}, ANN {fixed['ann_top1']:.2f} %. {found['calibration_images']} unlabelled training "
        f"images, seed {found['seed']}. {_versions(found)} Records: {link('pretrained-resnet20-all.json')}, "
        f"{link('pretrained-resnet20.json')}.\n"
    )
    return table(head, rows, left=2) + "\n" + note


def spikingjelly() -> str:
    """The same weights converted by SpikingJelly and by transpike, on the fixed images."""
    found = record("pretrained-resnet20.json")
    steps = (*SHORT, *LONG)
    rows = [
        (PRETRAINED.get(r["label"], r["label"]), *(percent(r["top1"].get(str(t))) for t in steps))
        for r in found["rows"]
    ]
    note = (
        f"{found['test_images']:,} test images, ANN {found['ann_top1']:.2f} %, {found['calibration_images']} training "
        f"images, seed {found['seed']}, pipeline latency T. Record: {link('pretrained-resnet20.json')}.\n"
    )
    return table(("conversion", *(f"T = {t}" for t in steps)), rows) + "\n" + note


def method_results() -> str:
    """All methods on every network that was measured."""
    from transpike.conversion.methods import METHODS

    parts = []
    for folder in sorted(path for path in (RESULTS / "methods").glob("*") if any(path.glob("*.json"))):
        found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
        order = [name for name in METHODS if name in found] + sorted(name for name in found if name not in METHODS)
        by_steps = {row["steps"]: row for record in found.values() for row in record["rows"]}
        steps = sorted(by_steps)
        last = max((t for t in steps if t <= 8), default=None)
        images = {t: f"{row['images']:,} test images (ANN {row['ann']:.2f} %)" for t, row in by_steps.items()}
        groups = groupby(steps, images.__getitem__)
        tested = "; ".join(f"T = {', '.join(map(str, those))}: {shown}" for shown, those in groups)
        rows, refused = [], []
        for name in order:
            at = {row["steps"]: row for row in found[name]["rows"]}
            if found[name].get("refused"):
                refused.append(f"`{name}` was refused: {found[name]['refused']}.\n")
            cells = [f"{at[t]['top1']:.2f} [{at[t]['latency']['pipeline_steps']}]" if t in at else "" for t in steps]
            cost = (f"{at[last]['events']:,.0f}", f"{at[last]['seconds']:.0f}") if last in at else ("", "")
            rows.append((f"`{name}`", *cells, *cost))
        parts += [
            f"### {folder.name}\n",
            f"Top-1 accuracy in %, pipeline latency in brackets. Spikes per image and seconds of the conversion at "
            f"T = {last}. {tested}.\n",
            table(("method", *(f"T = {t}" for t in steps), "spikes", "seconds"), rows),
            *refused,
            f"Records: `results/methods/{folder.name}/`.\n",
        ]
    return "\n".join(parts)


SCHEDULE_NAMES = {
    "residual": "`residual`, ρ = 4",
    "cos": "`cos`, ρ = 4",
    "cos:2": "`cos`, ρ = 4, two iterations",
    "cos:4": "`cos`, ρ = 4, four iterations",
    "exact": "`exact`, ρ = 4",
    "accumulate": "`accumulate`, ρ = 4",
    "srp": "`srp`, τ = 4",
    "staggered:2": "`staggered`, lags searched for 2 pipeline steps",
    "staggered:4": "`staggered`, lags searched for 4 pipeline steps",
}


def schedule_results() -> str:
    """The QCFS ResNet-20 under every schedule."""
    short, long = record("cifar10-resnet20-qcfs-schedules.json"), record("cifar10-resnet20-qcfs-schedules-long.json")
    rows = []
    order = ["plain", *SCHEDULE_NAMES]
    for name in sorted(short, key=lambda n: order.index(n) if n in order else len(order)):
        at = {row["steps"]: row for row in short[name]["rows"]}
        more = {row["steps"]: row for row in long.get(name, {"rows": []})["rows"]}
        cells = [percent(at[t]["top1"]) if t in at else "" for t in SHORT]
        cells += [percent(more[t]["top1"]) if t in more else "" for t in LONG]
        latency = _latency({t: row["latency"]["pipeline_steps"] for t, row in at.items()})
        spikes = f"{at[max(t for t in at if t <= 4)]['events']:,.0f}"
        rows.append((SCHEDULE_NAMES.get(name, f"`{name}`"), latency, *cells, spikes))
    head = ("schedule", "pipeline latency", *(f"T = {t}" for t in (*SHORT, *LONG)), "spikes, T ≤ 4")
    one, two = short["plain"], long["plain"]
    note = (
        f"T = 1 to 8: {one['images']:,} test images, ANN {one['ann_top1']:.2f} %; T = 16 and 32: the fixed "
        f"{two['images']:,}, ANN {two['ann_top1']:.2f} %. Spikes per image at T = 4, or at the T of the row. Records: "
        f"{link('cifar10-resnet20-qcfs-schedules.json')}, {link('cifar10-resnet20-qcfs-schedules-long.json')}.\n"
    )
    return table(head, rows, left=2) + "\n" + note


def _runs(name: str, steps: Sequence[int], *, spikes: int | None = None) -> str:
    """The rows of a recipe's record."""
    found = record(name)
    rows = []
    for row in found["rows"]:
        report = row["report"]
        at = {each["steps"]: each for each in report["rows"]}
        cells = [percent(at[t]["top1"]) if t in at else "" for t in steps]
        cells += [f"{at[spikes]['events']:,.0f}"] if spikes else []
        rows.append((row["label"], f"{report['images']:,}", percent(report["ann_top1"]), *cells))
    head = ("run", "test images", "ANN", *(f"T = {t}" for t in steps), *([f"spikes, T = {spikes}"] if spikes else []))
    note = f"`transpike run {found['recipe']}`, seed {found['seed']}. {_versions(found)} Record: {link(name)}.\n"
    return table(head, rows) + "\n" + note


def _versions(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(found["versions"].items())) + "."


def digits() -> str:
    """The handwritten digits."""
    return _runs("digits.json", (*SHORT, *LONG), spikes=8)


def training_resnet20() -> str:
    """ResNet-20 trained for ever fewer spikes."""
    return _runs("cifar10-resnet20-qcfs.json", SHORT, spikes=4)


def training_vgg16() -> str:
    """VGG-16 trained for ever fewer spikes."""
    return _runs("cifar10-vgg16-qcfs.json", SHORT, spikes=4)


def relu_resnet20() -> str:
    """The pretrained ResNet-20 by the simplest rules."""
    return _runs("cifar10-resnet20-relu.json", (*SHORT, *LONG))


SPEED = {
    "ResNet-20": ("engine-resnet20-sparsest.json", "engine-resnet20-sparsest-accumulate.json"),
    "VGG-16": ("engine-vgg16-sparse.json", "engine-vgg16-sparse-100.json", "engine-vgg16-sparse-accumulate.json"),
}
ACCURACY = {
    "ResNet-20": ("cifar10-resnet20-qcfs.json", "QCFS (L=4), fewest spikes"),
    "VGG-16": ("cifar10-vgg16-qcfs.json", "QCFS (L=4), spike penalty 40"),
}
TORCH = ("ANN", "ANN, channels last", "ANN, torch.compile")


def _timings(name: str) -> dict[tuple[int, str, int], tuple[float, float]]:
    """Milliseconds and ratio by batch, contender and T."""
    return {(t["batch"], t["what"], t["steps"]): (t["milliseconds"], t["ratio"]) for t in record(name)["timings"]}


def speed_network(network: str) -> str:
    """Every timing of a network, each record by itself."""
    parts = []
    for name in SPEED[network]:
        found, times = record(name), _timings(name)
        batches = sorted({batch for batch, _, _ in times})
        order = list(dict.fromkeys((what, steps) for _, what, steps in times))
        rows = []
        for what, steps in order:
            label = {"events": "transpike", "dense": "transpike, without the engine"}.get(what, what)
            cells = [times.get((batch, what, steps)) for batch in batches]
            shown = [f"{cell[0]:.2f} ({cell[1]:.2f})" if cell else "" for cell in cells]
            rows.append((f"{label}, T = {steps}" if steps else label, *shown))
        accuracy = found["accuracy"]
        tested = ", ".join(f"{key} {value:.1f}" for key, value in accuracy["top1"].items())
        parts += [
            f"### {network}, `{found['schedule']}`, batch {', '.join(map(str, batches))}\n",
            table(("contender", *(f"batch {batch}" for batch in batches)), rows),
            f"Milliseconds per call; in brackets the ratio to the fastest of the ANN's three PyTorch forms. "
            f"{found['threads']} threads, {found['instruction_set']}, torch {found['torch']}. Answers of "
            f"{found['gate']['samples']} images were compared before. Top-1 on the first {accuracy['images']:,} test "
            f"images: {tested}. Record: {link(name)}.\n",
        ]
    return "\n".join(parts)


def speed_resnet20() -> str:
    """ResNet-20."""
    return speed_network("ResNet-20")


def speed_vgg16() -> str:
    """VGG-16."""
    return speed_network("VGG-16")


def stages() -> str:
    """The stages of the ResNet-20, each with its time and the limit of the machine."""
    name = "engine-stages-resnet20-sparsest.json"
    found = record(name)["stages"]
    rows = []
    for stage in found["stages"]:
        rows.append(
            (
                f"`{stage['site']}`",
                "" if stage["rate"] is None else f"{100 * stage['rate']:.1f}",
                f"{stage['milliseconds']:.3f}",
                f"{stage['ann_milliseconds']:.3f}" if stage["ann_milliseconds"] else "",
                f"{stage['additions']:,}",
                "" if stage["limit"] is None else f"{100 * stage['limit']:.0f}",
            )
        )
    head = ("stage", "input rate in %", "ms", "ANN, ms", "additions", "share of the limit in %")
    note = f"Batch {found['batch']}, T = {found['steps']}, `{found['schedule']}`, {found['threads']} threads. Record: {link(name)}.\n"
    return table(head, rows) + "\n" + note


# ---- README ----------------------------------------------------------------------------------------------------------

_README_PRETRAINED = (
    "transpike, together: percentile 99.9 per channel, half threshold",
    "transpike, together: minimum MSE, bias",
    "transpike, layer after layer: minimum MSE, bias, rho = 4",
    "transpike, layer after layer: minimum MSE, bias, rho = 8",
    "transpike, layer after layer: the same, thresholds and biases trained, rho = 8",
)
_README_SCHEDULES = ("plain", "staggered:4", "cos", "accumulate")


def readme_accuracy() -> str:
    """Accuracy in one table."""
    found = record("pretrained-resnet20-all.json")
    by_label = {row["label"]: row for row in found["rows"]}
    rows: list[tuple[str, ...]] = []
    for label in _README_PRETRAINED:
        row = by_label[label]
        network = "ResNet-20, CIFAR-10, pretrained ReLU" if not rows else ""
        cells = (percent(row["top1"].get(str(t))) for t in SHORT)
        ann = percent(found["ann_top1"]) if network else ""
        rows.append((network, PRETRAINED[label], _latency(row["pipeline_steps"]), ann, *cells))
    runs = record("cifar10-resnet20-qcfs-schedules.json")
    for name in _README_SCHEDULES:
        network = "ResNet-20, CIFAR-10, trained with QCFS" if name == "plain" else ""
        at = {row["steps"]: row for row in runs[name]["rows"]}
        latency = _latency({t: row["latency"]["pipeline_steps"] for t, row in at.items()})
        ann = percent(runs[name]["ann_top1"]) if network else ""
        label = SCHEDULE_NAMES.get(name, f"`{name}`")
        rows.append((network, label, latency, ann, *(percent(at[t]["top1"]) if t in at else "" for t in SHORT)))
    for row in record("digits.json")["rows"]:
        if "max/layer" in row["label"]:
            continue
        at = {each["steps"]: each["top1"] for each in row["report"]["rows"]}
        slip = row["label"].startswith("Slip")
        network = f"ResNet, digits, {'trained with SlipReLU' if slip else 'ReLU'}"
        label = "`plain`" if slip else "99.9 percentile per channel, v(0) = θ/2"
        rows.append((network, label, "T", percent(row["report"]["ann_top1"]), *(percent(at[t]) for t in SHORT)))
    head = ("network", "conversion", "pipeline latency", "ANN", *(f"T = {t}" for t in SHORT))
    return table(head, rows, left=3)


def readme_speed() -> str:
    """Speed in one table: ratios to the ANN."""
    rows = []
    for network, names in SPEED.items():
        times: dict[tuple[int, str, int], tuple[float, float]] = {}
        for name in names:
            if "accumulate" in name:
                times |= {(b, "accumulate", t): v for (b, what, t), v in _timings(name).items() if what == "events"}
            else:
                times |= _timings(name)
        for batch in sorted({b for b, what, _ in times if what == "events"}):
            ann = min(times[batch, what, 0][0] for what in TORCH)
            keys = [("events", 1), ("events", 4), ("accumulate", 4), ("dense", 4), ("SpikingJelly", 4)]
            cells = [times.get((batch, *key)) for key in keys] + [times.get((batch, "ANN, ONNX Runtime int8", 0))]
            rows.append((network, batch, f"{ann:.2f} ms", *(f"{cell[1]:.2f}" if cell else "" for cell in cells)))
    head = ("network", "batch", "ANN, PyTorch", "T = 1", "T = 4", "`accumulate`, T = 4", "T = 4, no engine")
    lines = [table((*head, "SpikingJelly, T = 4", "ANN, int8"), rows)]
    for network, (name, label) in ACCURACY.items():
        row = next(r for r in record(name)["rows"] if r["label"] == label)["report"]
        at = {each["steps"]: each["top1"] for each in row["rows"]}
        shown = ", ".join(f"T = {t} {at[t]:.2f} %" for t in SHORT)
        timed = next(record(each)["accuracy"] for each in SPEED[network] if "accumulate" in each)
        top1 = timed["top1"]
        shown += f"; first {timed['images']:,}: ANN {top1['ANN']:.1f} %, `accumulate` {top1['events, T=4']:.1f} %"
        lines.append(
            f"* Top-1 of this {network} on {row['images']:,} test images: ANN {row['ann_top1']:.2f} %, {shown}."
        )
    return "\n".join(lines) + "\n"


BLOCKS: Mapping[str, Callable[[], str]] = {"accuracy": readme_accuracy, "speed": readme_speed}
_MARKED = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def fill(text: str) -> str:
    """``text`` with the tables between its markers made anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n{found[3]}", text)


FRAGMENTS: tuple[Callable[[], str], ...] = (
    *(methods, thresholds, potentials, corrections, schedules, neurons, activations, networks, data_sets, recipes),
    *(models, refused_models, pretrained, spikingjelly, method_results, schedule_results, digits, relu_resnet20),
    *(training_resnet20, training_vgg16, speed_resnet20, speed_vgg16, stages, readme_accuracy, readme_speed),
)


def write_all(folder: Path) -> None:
    """Writes every fragment that pages include; what has not changed keeps its time."""
    folder.mkdir(parents=True, exist_ok=True)
    for make in FRAGMENTS:
        file, text = folder / f"{make.__name__.replace('_', '-')}.md", make()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--check", type=Path, metavar="FILE")
    given = parser.parse_args()
    if given.write:
        given.write.write_text(fill(given.write.read_text(encoding="utf-8")), encoding="utf-8")
    if given.check and fill(text := given.check.read_text(encoding="utf-8")) != text:
        print(f"{given.check} is stale: python docs/tables.py --write {given.check}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
