"""Tables made from the records in `results/`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import groupby

from records import LONG, RESULTS, SHORT, Line, about, found, instructions, link, percent, raw, sources, table

from transpike.experiments import read_sweep

PRETRAINED = "pretrained-resnet20.json"
SCHEDULES = "schedules-resnet20-qcfs4.json"
SCHEDULES_DIGITS = "schedules-digits-resnet20-qcfs4.json"
DIGITS = "digits.json"
CODES = "cifar10-resnet20-digits.json"

CONVERSIONS = {
    "99.9 percentile per channel": "99.9 percentile per channel, v(0) = θ/2",
    "least squares": "least squares at T",
    "least squares, biases corrected": "least squares at T, biases corrected",
    "accumulate, rho = 4": "accumulate, ρ = 4",
    "accumulate, rho = 8": "accumulate, ρ = 8",
    "accumulate, rho = 4, thresholds and biases trained": "accumulate, ρ = 4, thresholds and biases trained",
    "accumulate, rho = 8, thresholds and biases trained": "accumulate, ρ = 8, thresholds and biases trained",
    "digits, 10 pipeline steps": "signed digits, lag 1 at five of 19 sites",
    "accumulate, rho = 4, weights trained": "accumulate, ρ = 4, weights trained by blocks",
}
"""Labels of the record, and what the tables call them."""
LARGER = {"least squares, biases corrected": "least squares, biases corrected, larger T"}
"""Rows whose larger T are a row of their own, on the fixed images."""

SCHEDULE_NAMES = {
    "plain": "`plain`",
    "residual": "`residual`, ρ = 4",
    "cos": "`cos`, ρ = 4",
    "cos:iterations=2": "`cos`, ρ = 4, two iterations",
    "cos:iterations=4": "`cos`, ρ = 4, four iterations",
    "exact": "`exact`, ρ = 4",
    "accumulate": "`accumulate`, ρ = 4",
    "srp": "`srp`, τ = 4",
    "staggered:budget=2": "`staggered`, lags searched for 2 pipeline steps",
    "staggered:budget=4": "`staggered`, lags searched for 4 pipeline steps",
}


def pretrained() -> str:
    """The public ResNet-20, converted without retraining; T up to 8 on all images, T = 16 and 32 on the fixed ones."""
    record = found(PRETRAINED)
    every, fixed = record.of("all"), record.of("fixed")
    rows = []
    for label, line in every.items():
        more = fixed.get(LARGER.get(label, label))
        cells = line.cells(SHORT) + (more.cells(LONG) if more else [""] * len(LONG))
        rows.append((CONVERSIONS.get(label, label), line.latency, *cells))
    head = ("conversion", "pipeline latency", *(f"T = {t}" for t in (*SHORT, *LONG)))
    tested = _tested(next(iter(every.values())), next(iter(fixed.values()), None))
    return table(head, rows, left=2) + f"\n{tested} {record.about} {_sources(PRETRAINED)}.\n"


def _tested(short: Line, long: Line | None) -> str:
    text = f"T = 1 to 8: {short.images:,} test images, ANN {short.ann:.2f} %"
    return text + (f"; T = 16 and 32: the fixed {long.images:,}, ANN {long.ann:.2f} %." if long else ".")


def _sources(name: str) -> str:
    names = sources(name)
    return f"Record{'s' if len(names) > 1 else ''}: {', '.join(link(each) for each in names)}"


def spikingjelly() -> str:
    """The same weights converted by SpikingJelly and by transpike, on the fixed images."""
    file = raw("spikingjelly-resnet20.json")
    steps = (*SHORT, *LONG)
    rows = [(row["label"], *(percent(row["top1"].get(str(t))) for t in steps)) for row in file["rows"]]
    file.setdefault("environment", file["rows"][-1].get("environment"))
    ann = f", ANN {file['ann_top1']:.2f} %" if "ann_top1" in file else ""
    note = (
        f"{file['test_images']:,} test images{ann}, {file['calibration_images']} training "
        f"images, pipeline latency T. {about(file)} Record: {link('spikingjelly-resnet20.json')}.\n"
    )
    return table(("conversion", *(f"T = {t}" for t in steps)), rows) + "\n" + note


def method_results() -> str:
    """All methods on every network that was measured."""
    from transpike.conversion.methods import METHODS

    parts = []
    for folder in sorted(path for path in (RESULTS / "methods").glob("*") if any(path.glob("*.json"))):
        measured = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
        order = [name for name in METHODS if name in measured] + sorted(
            name for name in measured if name not in METHODS
        )
        by_steps = {row["steps"]: row for result in measured.values() for row in result["rows"]}
        steps = sorted(by_steps)
        last = max((t for t in steps if t <= 8), default=None)
        images = {t: f"{row['images']:,} test images (ANN {row['ann']:.2f} %)" for t, row in by_steps.items()}
        groups = groupby(steps, images.__getitem__)
        tested = "; ".join(f"T = {', '.join(map(str, those))}: {shown}" for shown, those in groups)
        rows, refused = [], []
        for name in order:
            at = {row["steps"]: row for row in measured[name]["rows"]}
            if measured[name].get("refused"):
                refused.append(f"`{name}` was refused: {measured[name]['refused']}.\n")
            cells = [f"{at[t]['top1']:.2f} [{at[t]['latency']['pipeline_steps']}]" if t in at else "" for t in steps]
            cost = (f"{at[last]['events']:,.0f}", f"{at[last]['seconds']:.0f}") if last in at else ("", "")
            rows.append((f"`{name}`", *cells, *cost))
        parts += [
            f"### {folder.name}\n",
            f"Top-1 accuracy in %, pipeline latency in brackets. Spikes per image and seconds of the conversion at "
            f"T = {last}. {tested}.\n",
            table(("method", *(f"T = {t}" for t in steps), "spikes", "seconds"), rows),
            *refused,
            f"{_methods_about(folder.name)} Records: `results/methods/{folder.name}/`.\n",
        ]
    return "\n".join(parts)


def _methods_about(folder: str) -> str:
    """Seed, calibration images and commits of the records of a folder."""
    file = raw(f"methods/{folder}-environment.json")
    first, *others = file["environments"]
    parts = [
        f"{', '.join(f'`{name}`' for name in each['methods'])} in {each['commit']}, {each['date']}" for each in others
    ]
    return (
        f"Seed {file['seed']}, {file['calibration_images']} calibration images; recorded in commit {first['commit']}, "
        f"{first['date']}{''.join(f'; {part}' for part in parts)}."
    )


def schedule_results() -> str:
    """The QCFS ResNet-20 under every schedule."""
    record = found(SCHEDULES)
    short, long = record.of("0"), record.of("1")
    order = list(SCHEDULE_NAMES)
    rows = []
    for label in sorted(short, key=lambda name: order.index(name) if name in order else len(order)):
        line, more = short[label], long.get(label)
        cells = line.cells(SHORT) + (more.cells(LONG) if more else [""] * len(LONG))
        spikes = f"{line.events[max(t for t in line.events if t <= 4)]:,.0f}"
        rows.append((SCHEDULE_NAMES.get(label, f"`{label}`"), line.latency, *cells, spikes))
    head = ("schedule", "pipeline latency", *(f"T = {t}" for t in (*SHORT, *LONG)), "spikes, T ≤ 4")
    note = (
        f"{_tested(short['plain'], long.get('plain'))} Spikes per image at T = 4, or at the T of the row. {record.about} "
        f"{_sources(SCHEDULES)}.\n"
    )
    return table(head, rows, left=2) + "\n" + note


def _runs(name: str, steps: Sequence[int], *, spikes: int | None = None) -> str:
    """The rows of a recipe's record of the older shape."""
    file = raw(name)
    rows = []
    for row in file["rows"]:
        report = row["report"]
        at = {each["steps"]: each for each in report["rows"]}
        cells = [percent(at[t]["top1"]) if t in at else "" for t in steps]
        cells += [f"{at[spikes]['events']:,.0f}"] if spikes else []
        rows.append((row["label"], f"{report['images']:,}", percent(report["ann_top1"]), *cells))
    note = (
        f"`transpike run {file['recipe']}`. {file['calibration_images']} calibration images. {about(file)} Record: "
        f"{link(name)}.\n"
    )
    return table(_head(steps, spikes), rows) + "\n" + note


def _head(steps: Sequence[int], spikes: int | None) -> tuple[str, ...]:
    return ("run", "test images", "ANN", *(f"T = {t}" for t in steps), *([f"spikes, T = {spikes}"] if spikes else []))


def _recipe(name: str, steps: Sequence[int]) -> str:
    """The rows of a recipe's record, whose file has the recipe's name."""
    record = found(name)
    rows = [
        (line.label, f"{line.images:,}", percent(line.ann), *line.cells(steps), f"{line.events[8]:,.0f}")
        for line in record.lines.values()
    ]
    note = f"`transpike run {name.removesuffix('.json')}`. {record.about} Record: {link(name)}.\n"
    return table(_head(steps, 8), rows) + "\n" + note


def digits() -> str:
    """The handwritten digits."""
    return _recipe(DIGITS, (*SHORT, *LONG))


def _by_latency(name: str) -> str:
    """The rows of a recipe's record by the latency of their answers, with what they lose."""
    record = found(name)
    rows = [
        (
            line.label,
            percent(line.ann),
            line.pipeline[t],
            percent(top1),
            percent(top1 - line.ann),
            f"{line.events[t]:,.0f}",
        )
        for line in record.lines.values()
        for t, top1 in line.top1.items()
    ]
    images = next(iter(record.lines.values())).images
    note = (
        f"{images:,} test images. `transpike run {name.removesuffix('.json')}`. {record.about} Record: {link(name)}.\n"
    )
    return table(("conversion", "ANN", "pipeline latency", "top-1", "below the ANN", "events"), rows) + "\n" + note


def codes() -> str:
    """The public ResNet-20 with events that are digits."""
    return _by_latency(CODES)


def digits_trained() -> str:
    """Networks trained for digits."""
    return _by_latency("cifar10-resnet20-digits-trained.json")


def schedules_digits() -> str:
    """The QCFS network of the checkpoints under digit codes, each at its largest T."""
    record = found(SCHEDULES_DIGITS)
    rows = []
    for line in record.lines.values():
        last = min(8, max(line.top1))
        digits = re.fullmatch(r"radix:digits=(\d+)", line.label)
        shown = min(last, int(digits[1])) if digits else last
        rows.append(
            (f"`{line.label}`", shown, line.pipeline[shown], percent(line.top1[shown]), f"{line.events[shown]:,.0f}")
        )
    first = next(iter(record.lines.values()))
    note = f"{first.images:,} test images, ANN {first.ann:.2f} %. {record.about} Record: {link(SCHEDULES_DIGITS)}.\n"
    return table(("schedule", "T", "pipeline latency", "top-1", "events"), rows) + "\n" + note


_BUDGETS = (4, 6, 8, 10, 12, 16, 24, 32, 40, 80)
_RIVALS = {
    "snnc-light-bias": "least squares at T, biases corrected",
    "snm": "`snm`",
    "burst": "`burst`",
    "withhold": "`withhold`",
    "cos": "`cos`, ρ = T",
    "accumulate": "`accumulate`, ρ = T",
}


def budgets() -> str:
    """What training-free conversions of the public ResNet-20 lose, by pipeline latency: the best within each."""
    found_by: dict[str, list[tuple[int, float, float]]] = {}  # pipeline steps, below the ANN, events
    for label, line in found(CODES).lines.items():
        name = "signed digits, lags for this latency" if label[0].startswith("digits") else "`radix`, T = 4"
        points = [(line.pipeline[t], line.top1[t] - line.ann, line.events[t]) for t in line.top1]
        found_by.setdefault(name, []).extend(points)
    rivals = [raw(f"methods/cifar-resnet20/{method}.json")["rows"] for method in _RIVALS]
    for name, rows in zip(_RIVALS.values(), rivals, strict=True):
        found_by[name] = [(r["latency"]["pipeline_steps"], r["top1"] - r["ann"], r["events"]) for r in rows]
    cells = []
    for name, points in found_by.items():
        row = []
        for budget in _BUDGETS:
            best = max((each for each in points if each[0] <= budget), key=lambda each: each[1], default=None)
            row.append("" if best is None else f"{best[1]:.2f} ({best[2] / 1000:,.0f})")
        cells.append((name, *row))
    first = next(iter(found(CODES).lines.values()))
    fewer = {(r["images"], r["ann"]) for rows in rivals for r in rows if r["images"] != first.images}
    tested = "; ".join(f"{images:,} (ANN {ann:.2f} %)" for images, ann in sorted(fewer))
    note = (
        "Points below the ANN at the best T that is there in time, in brackets thousands of events per image. "
        f"{first.images:,} test images (ANN {first.ann:.2f} %), of methods by rates at T = 16 and 32 on {tested}.\n"
    )
    return table(("conversion", *(f"{budget} steps" for budget in _BUDGETS)), cells) + "\n" + note


def conversions() -> str:
    """Conversions of the public ResNet-20 beside each other: accuracy, and time in terms of the ANN."""
    files = [raw(f"conversions-resnet20-{threads}.json") for threads in (1, 2)]
    batches = list(files[0]["rows"][0]["ratio"])
    rows = []
    for one, two in zip(*(file["rows"] for file in files), strict=True):
        name = re.sub(r"digits \(.*\)", "digits", one["what"])
        ratios = [f"{row['ratio'][batch]:.2f}" for row in (one, two) for batch in batches]
        rows.append((name, one["pipeline_steps"] or "", percent(one["top1"]), *ratios))
    head = (
        "conversion",
        "pipeline latency",
        "top-1",
        *(f"{n}, batch {b}" for n in ("1 thread", "2 threads") for b in batches),
    )
    where = files[0]["environment"]
    note = (
        f"Time of the fastest eager form of the ANN = 1. First {files[0]['images']:,} test images; {where['cpu']}, "
        f"{instructions(files[0])}, torch {where['torch']}. `benchmarks/conversions.py`. Records: "
        f"{link('conversions-resnet20-1.json')}, {link('conversions-resnet20-2.json')}.\n"
    )
    return table(head, rows) + "\n" + note


def learned() -> str:
    """Digits with N and c learned."""
    return _recipe("digits-learned.json", SHORT)


def learned_resnet20() -> str:
    """CIFAR-10 with N and c learned."""
    return _recipe("cifar10-resnet20-learned.json", SHORT)


def swept() -> str:
    """The best of a sweep over N and c."""
    sweep = read_sweep(RESULTS / "sweep-digits.json")
    cells = []
    for label, choose in (
        ("chosen by the criterion", sweep.choose),
        ("best on the test images in hindsight", sweep.best_in_hindsight),
    ):
        scores = [choose(t).mean("test", lambda scores, t=t: scores.snn[t]) for t in SHORT]
        cells.append((f"{label}, one network for each T", *(percent(score) for score in scores)))
    count = len(sweep.results)
    beside = table((f"of {count} trainings on a grid of N and c", *(f"T = {t}" for t in SHORT)), cells)
    return f"{beside}\nMean of two seeds. Record: {link('sweep-digits.json')}.\n"


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


def timings(name: str) -> dict[tuple[int, str, int], tuple[float, float]]:
    """Milliseconds and ratio by batch, contender and T."""
    return {(t["batch"], t["what"], t["steps"]): (t["milliseconds"], t["ratio"]) for t in raw(name)["timings"]}


def speed_network(network: str) -> str:
    """Every timing of a network, each record by itself."""
    parts = []
    for name in SPEED[network]:
        file, times = raw(name), timings(name)
        batches = sorted({batch for batch, _, _ in times})
        order = list(dict.fromkeys((what, steps) for _, what, steps in times))
        rows = []
        for what, steps in order:
            label = {"events": "transpike", "dense": "transpike, without the engine"}.get(what, what)
            cells = [times.get((batch, what, steps)) for batch in batches]
            shown = [f"{cell[0]:.2f} ({cell[1]:.2f})" if cell else "" for cell in cells]
            rows.append((f"{label}, T = {steps}" if steps else label, *shown))
        accuracy = file["accuracy"]
        tested = ", ".join(f"{key} {value:.1f}" for key, value in accuracy["top1"].items())
        parts += [
            f"### {network}, `{file['schedule']}`, batch {', '.join(map(str, batches))}\n",
            table(("contender", *(f"batch {batch}" for batch in batches)), rows),
            f"Milliseconds per call; in brackets the ratio to the fastest of the ANN's three PyTorch forms. "
            f"{about(file)} Answers of {file['gate']['samples']} images were compared before. Top-1 on the first {accuracy['images']:,} test "
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
    file = raw(name)["stages"]
    rows = []
    for stage in file["stages"]:
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
    note = f"Batch {file['batch']}, T = {file['steps']}, `{file['schedule']}`, {file['threads']} threads. {about(raw(name))} Record: {link(name)}.\n"
    return table(head, rows) + "\n" + note
