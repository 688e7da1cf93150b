"""Tables of the documentation, made from the library's own tables and from the records in `results/`.

    python docs/tables.py --write README.md     fills what stands between ``<!-- begin: NAME -->`` and ``<!-- end -->``;
                                                docs/results/papers.md has such tables, too
    python docs/tables.py --check README.md     exit status 1 where that is stale

The site's build calls `write_all`; its pages include the fragments.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import paper_tables
from code_tables import (
    activations,
    corrections,
    data_sets,
    methods,
    networks,
    neurons,
    potentials,
    recipes,
    schedules,
    thresholds,
    zoo_accuracy,
    zoo_training,
)
from coverage_tables import (
    coverage_line,
    coverage_refused,
    coverage_rows,
    coverage_summary,
    function_networks,
    text_networks,
)
from interop_tables import nir_accuracy, nir_targets
from quantised_tables import quantised
from records import SHORT, Line, card_line, found, instructions, percent, published_line, raw, table
from result_tables import (
    ACCURACY,
    CODES,
    CONVERSIONS,
    PRETRAINED,
    SPEED,
    TORCH,
    budgets,
    codes,
    conversions,
    digits,
    digits_trained,
    learned,
    learned_resnet20,
    method_results,
    pretrained,
    relu_resnet20,
    schedule_results,
    schedules_digits,
    speed_resnet20,
    speed_vgg16,
    spikingjelly,
    stages,
    swept,
    timings,
    training_resnet20,
    training_vgg16,
)

_README_PRETRAINED = (
    "99.9 percentile per channel",
    "least squares, biases corrected",
    "digits, 10 pipeline steps",
    "accumulate, rho = 8, thresholds and biases trained",
)
_README_CARDS = (
    (
        "cifar10-resnet20-qcfs-4",
        "ResNet-20, QCFS, L = 4",
        (
            ("plain", "`plain`", "cos-cifar10", "ResNet-20, QCFS"),
            ("cos (probe steps 4)", "`cos`, ρ = 4", "cos-cifar10", "ResNet-20, COS (rho=4)"),
            ("accumulate (probe steps 4)", "`accumulate`, ρ = 4", "cos-cifar10", ""),
        ),
    ),
    (
        "cifar10-resnet20-sliprelu-1-0.2",
        "ResNet-20, SlipReLU, N = 1, c = 0.2",
        (("plain", "`plain`", "sliprelu-cifar10", "ResNet-20, SlipReLU (N=1, c=0.2)"),),
    ),
    (
        "cifar10-resnet20-time-2",
        "the same, then trained through time at T = 2",
        (("plain", "`plain`", "", ""),),
    ),
)
"""Trained networks: name, words, and schedules of the card with their words, recipe and row that published them, if any."""


def readme_accuracy() -> str:
    """Accuracy in one table: the public ReLU network, and trained networks of the zoo with what the papers published."""
    unretrained = found(PRETRAINED).of("all") | found(CODES).of("all")
    rows = _group(
        "ResNet-20, public ReLU weights", [(CONVERSIONS[label], unretrained[label]) for label in _README_PRETRAINED]
    )
    for name, network, shown in _README_CARDS:
        lines: list[tuple[str, Line]] = []
        for schedule, label, family, published in shown:
            lines.append((label, card_line(name, schedule)))
            lines += [(f"*{label}, published*", published_line(family, published))] if published else []
        rows += _group(network, lines)
    head = ("network", "conversion", "pipeline latency", "ANN", *(f"T = {t}" for t in SHORT))
    return table(head, rows, left=3)


def _group(network: str, lines: list[tuple[str, Line]]) -> list[tuple[str, ...]]:
    """Rows of one network, which names it in the first."""
    rows, ann = [], ""
    for label, line in lines:
        shown = percent(line.ann)
        rows.append((network, label, line.latency, "" if shown == ann else shown, *line.cells(SHORT)))
        network, ann = "", shown if line.latency else ann
    return rows


def _speed_caption() -> str:
    """What the ratios are, and on which machine they were measured."""
    files = [raw(name) for names in SPEED.values() for name in names]
    machines = {f"{file['environment']['cpu']}, {file['threads']} threads, {instructions(file)}" for file in files}
    torch = {file["torch"] for file in files}
    made = dict.fromkeys(f"{file['environment']['commit']} of {file['environment']['date']}" for file in files)
    return (
        "Time of the converted network, trained for few spikes, schedule `plain` unless named; the fastest PyTorch form of its ANN (eager, channels last or `torch.compile`, in "
        f"the same run) is 1. {'; '.join(sorted(machines))}, torch {', '.join(sorted(torch))}; recorded in commits "
        f"{', '.join(made)}."
    )


def readme_speed() -> str:
    """Speed in one table: ratios to the ANN."""
    rows = []
    for network, names in SPEED.items():
        times: dict[tuple[int, str, int], tuple[float, float]] = {}
        for name in names:
            if "accumulate" in name:
                times |= {(b, "accumulate", t): v for (b, what, t), v in timings(name).items() if what == "events"}
            else:
                times |= timings(name)
        batches = {b for b, what, _ in times if what == "events"}
        for batch in (min(batches), max(batches)):  # those between stand in the documentation
            ann = min(times[batch, what, 0][0] for what in TORCH)
            keys = [("events", 1), ("events", 4), ("accumulate", 4), ("dense", 4), ("SpikingJelly", 4)]
            cells = [times.get((batch, *key)) for key in keys] + [times.get((batch, "ANN, ONNX Runtime int8", 0))]
            rows.append((network, batch, f"{ann:.2f} ms", *(f"{cell[1]:.2f}" if cell else "" for cell in cells)))
    head = ("network", "batch", "ANN, PyTorch", "T = 1", "T = 4", "`accumulate`, T = 4", "T = 4, no engine")
    lines = [_speed_caption(), "", table((*head, "SpikingJelly, T = 4", "ANN, int8"), rows)]
    for network, (name, label) in ACCURACY.items():
        row = next(r for r in raw(name)["rows"] if r["label"] == label)["report"]
        at = {each["steps"]: each["top1"] for each in row["rows"]}
        shown = ", ".join(f"T = {t} {at[t]:.2f} %" for t in SHORT)
        timed = next(raw(each)["accuracy"] for each in SPEED[network] if "accumulate" in each)
        top1 = timed["top1"]
        shown += f"; first {timed['images']:,}: ANN {top1['ANN']:.1f} %, `accumulate` {top1['events, T=4']:.1f} %"
        lines.append(
            f"* Top-1 of this {network} on {row['images']:,} test images: ANN {row['ann_top1']:.2f} %, {shown}."
        )
    return "\n".join(lines) + "\n"


BLOCKS: Mapping[str, Callable[[], str]] = {
    "accuracy": readme_accuracy,
    "speed": readme_speed,
    "coverage": coverage_line,
    **paper_tables.BLOCKS,
}
_MARKED = re.compile(r"(<!-- begin: (\w+) -->\n).*?(<!-- end: \2 -->)", re.DOTALL)


def fill(text: str) -> str:
    """``text`` with the tables between its markers made anew."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n{found[3]}", text)


FRAGMENTS: tuple[Callable[[], str], ...] = (
    *(methods, thresholds, potentials, corrections, schedules, neurons, activations, networks, data_sets, recipes),
    *(zoo_accuracy, zoo_training),
    *(coverage_summary, coverage_rows, coverage_refused, function_networks, text_networks),
    *(nir_targets, nir_accuracy, quantised),
    *(pretrained, spikingjelly, method_results, schedule_results, digits, relu_resnet20),
    *(
        budgets,
        codes,
        conversions,
        digits_trained,
        schedules_digits,
        learned,
        learned_resnet20,
        swept,
        training_resnet20,
        training_vgg16,
        speed_resnet20,
        speed_vgg16,
        stages,
        readme_accuracy,
        readme_speed,
    ),
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
