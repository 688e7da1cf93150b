"""Writes docs/methods-table.md from results/methods/NETWORK/result.json. Run: make methods.

The record is written by `transpike compare NETWORK --methods all -o results/methods/NETWORK`; without one, summaries of
an earlier run, NETWORK/METHOD.json, are taken.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from transpike.conversion.methods import METHODS, Method
from transpike.experiments.compare import read_methods
from transpike.neurons import IF, Neuron

ROOT = Path(__file__).parents[1]
HEAD = """# Methods side by side

Made by `make methods`. For pretrained ReLU networks: nothing here takes labels or trains the whole network. A method that
is tuned for T is converted anew for each T. Needs no more than binary spikes and training images without labels unless
said. `tp.convert(model, tp.methods[NAME](steps=T), ...)` converts by one row, and `tp.choose`, or `transpike convert
--auto`, finds the one that suits a network and a number of steps, on training images.

| method | from | made of | schedule | tuned for T | needs |
|---|---|---|---|---|---|
"""
PUBLISHED = """
Published only: temporal-switch-coding (TSC, Han & Roy 2020), where the time between two spikes carries the value, is not
built here. CIFAR-100, as quoted in table 2 of the SlipReLU paper: VGG-16 70.97 % for T of at least 512 (ANN 71.22),
ResNet-20 68.18 % (ANN 68.72).
"""


def about(method: Method) -> str:
    """A row about a method."""
    made = method(4)
    parts = [type(part).__name__ for part in made.parts]
    if made.neuron != IF():
        parts.append(_short(made.neuron))
    tuned = "yes" if method.tuned else "no"
    needs = ", ".join(need.value for need in method.needs)
    return (
        f"| {method.name} | {method.paper} | {', '.join(parts)} | {type(made.schedule).__name__} | {tuned} | {needs} |"
    )


def _short(neuron: Neuron) -> str:
    """What differs from the neuron's defaults."""
    values = {field.name: getattr(neuron, field.name) for field in fields(neuron) if field.init}
    changed = {name: value for name, value in values.items() if value != getattr(type(neuron)(), name)}
    named = ", ".join(f"{name}={getattr(value, 'value', value)}" for name, value in changed.items())
    return f"{type(neuron).__name__}({named})" if named else type(neuron).__name__


def section(folder: Path) -> str:
    """The table of one network."""
    results = read_methods(folder)
    order = list(METHODS)
    results.sort(key=lambda result: order.index(result.method) if result.method in order else len(order))
    rows = {row.steps: row for result in results for row in result.rows}
    steps = sorted(rows)
    at = max((t for t in steps if t <= 8), default=0)
    groups = groupby(steps, lambda t: f"{rows[t].images:,} (ANN {rows[t].ann:.2f})")
    tested = "; ".join(f"{images} at T = {', '.join(map(str, those))}" for images, those in groups)
    lines = [
        f"\n## {folder.name}\n",
        "Top-1 accuracy in %, in brackets the steps from the first input to the answer on a device that steps all layers",
        f"at once; spikes per image and seconds of the conversion are those for T = {at}. Test images: {tested}.\n",
        f"| method | {' | '.join(f'T = {t}' for t in steps)} | spikes | seconds |",
        "|---" * (len(steps) + 3) + "|",
    ]
    for result in results:
        found = {row.steps: row for row in result.rows}
        cells = [f"{found[t].top1:.2f} [{found[t].latency.pipeline_steps}]" if t in found else "-" for t in steps]
        cost = [f"{found[at].events:,.0f}", f"{found[at].seconds:.0f}"] if at in found else ["-", "-"]
        lines.append("| " + " | ".join([result.method, *cells, *cost]) + " |")
    lines += [f"\n{result.method} was refused: {result.refused}." for result in results if result.refused]
    return "\n".join(lines) + "\n"


def page(results: Path) -> str:
    """The whole page."""
    folders = sorted(folder for folder in results.glob("*") if any(folder.glob("*.json")))
    if not folders:
        sys.exit(f"there are no results: run transpike compare NETWORK --methods all -o {results}/NETWORK")
    rows = "\n".join(about(method) for method in METHODS.values()) + "\n"
    return HEAD + rows + "".join(section(folder) for folder in folders) + PUBLISHED


if __name__ == "__main__":
    text = page(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "results" / "methods")
    (ROOT / "docs" / "methods-table.md").write_text(text, encoding="utf-8")
