"""Tables of both papers: what was published beside what our records hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from records import RESULTS, percent, table

from transpike.experiments.offset_rows import OffsetResult, OffsetRow
from transpike.experiments.recipe import RecipeRow, find_recipe
from transpike.experiments.record import Record, RowResult, read_record

FAMILIES = (
    "sliprelu-cifar10",
    "sliprelu-cifar100",
    "sliprelu-imagenet",
    "cos-cifar10",
    "cos-cifar100",
    "cos-imagenet",
)
"""Recipes that each hold tables of a paper."""


def paper_table(family: str) -> str:
    """The rows of a family, published and ours, and the readings that its recipe takes."""
    recipe = find_recipe(family)
    ours = measured(family)
    steps = sorted({t for row in recipe.rows for t in row.published})
    rows: list[tuple[str, ...]] = []
    for row in recipe.rows:
        cells = [percent(row.published.get(t)) for t in steps]
        rows.append((row.label, row.published_in, _state(row, ours), percent(row.published_ann), *cells))
        for record, result in ours.get(row.label, ()):
            found = result.top1
            cells = [str(found[t]) if t in found else "" for t in steps]
            rows.append(("", "ours", _size(record, result), str(result.ann), *cells))
    head = ("row", "source", "ours", "ANN", *(f"T = {t}" for t in steps))
    note = f"`transpike run {family}`, {len(recipe.trainings)} trainings. Readings:\n\n" + "\n".join(readings(family))
    return table(head, rows, left=3) + "\n" + offset_tables(family) + note + "\n"


def offset_tables(family: str) -> str:
    """Offset spikes of a family, published and ours: by schedule, and by layer where the paper has that."""
    recipe = find_recipe(family)
    ours: dict[str, list[OffsetResult]] = {}
    for record in records(family):
        for found in record.offsets:
            ours.setdefault(found.row.label, []).append(found)
    names = ("plain", "cos:1", "cos:2", "cos:4")
    rows: list[tuple[str, ...]] = []
    layers: list[str] = []
    for row in recipe.offsets:
        paper = row.published
        cells = [f"{percent(paper.ratio.get(name))} / {percent(paper.mse.get(name), 3)}" for name in names]
        rows.append((row.label, paper.source, "below" if row.label in ours else "not yet trained", *cells))
        for found in ours.get(row.label, ()):
            last = {label: offsets.sites[-1] for label, offsets in found.free.items()}
            cells = [f"{100 * last[name].exact:.2f} / {last[name].mse:.3f}" for name in names]
            rows.append(("", "ours", f"tested on {found.images:,}", *cells))
        if paper.sites:
            layers.append(_layers(row, ours.get(row.label, ())))
    if not rows:
        return ""
    about = "Neurons of the last hidden layer without offset spike in % / their mean squared offset:\n\n"
    return "\n".join([about + table(("row", "source", "ours", *names), rows, left=3), *layers, ""])


def _layers(row: OffsetRow, ours: Sequence[OffsetResult]) -> str:
    """Ratios by layer, as in Table S2."""
    names = {"input": "right inputs", "output": "right outputs", "constrained": "right outputs, input right"}
    rows = [(what, "published", *(percent(v) for v in row.published.sites[key])) for key, what in names.items()]
    last = f"cos:{row.iterations}"
    for found in ours:
        sites = found.free[last].sites
        values = {
            "input": [100 * site.right_inputs for site in sites],
            "output": [100 * site.exact for site in sites],
            "constrained": [100 * site.exact for site in found.constrained[last].sites],
        }
        rows += [(what, "ours", *(percent(value) for value in values[key])) for key, what in names.items()]
    count = len(row.published.sites["output"])
    heads = [f"L{number}" for number in range(1, count + 1)]
    about = f"{row.label}, {last}, by layer, in % (Table S2):\n\n"
    return about + table(("ratio", "source", *heads), rows, left=2)


def records(family: str) -> list[Record]:
    """The records in ``results/papers`` that hold parts of a family."""
    found = [read_record(path) for path in sorted((RESULTS / "papers").glob("*.json"))]
    return [record for record in found if record.name == family]


def measured(family: str) -> dict[str, list[tuple[Record, RowResult]]]:
    """Rows of the records in ``results/papers`` by label; several records may hold parts of a family."""
    found: dict[str, list[tuple[Record, RowResult]]] = {}
    for record in records(family):
        for row in record.rows:
            if row.runs:
                found.setdefault(row.label, []).append((record, row))
    return found


def readings(family: str) -> list[str]:
    """The list at the head of a recipe: which reading it takes where a paper contradicts itself or its code."""
    text = (files("transpike.experiments") / "recipes" / f"{family}.toml").read_text(encoding="utf-8")
    lines = text.split("\n\n", 1)[0].splitlines()[1:]
    return [line.removeprefix("# ") if line.startswith("# *") else f"  {line[1:].lstrip()}" for line in lines]


def _state(row: RecipeRow, ours: dict[str, list[tuple[Record, RowResult]]]) -> str:
    if not row.runs:
        return "published only"
    return "below" if row.label in ours else "not yet trained"


def _size(record: Record, result: RowResult) -> str:
    """What a training of ours had, beside the paper's 300 epochs on all images."""
    training = next((each for each in record.trainings if each.name == result.network), None)
    epochs = f"{training.epochs} epochs, " if training else ""
    given = next((each for each in record.given if each.name == result.network), None)
    epochs = f"network given: {Path(given.source).name.removesuffix('.safetensors')}, " if given else epochs
    seeds = f"mean and standard deviation of {1 + len(result.repeats)} seeds, " if result.repeats else ""
    trained = f"{record.training_images:,} training images, " if record.training_images else ""
    return f"{epochs}{seeds}{trained}tested on {result.report.images:,}"


BLOCKS: dict[str, Callable[[], str]] = {
    family.replace("-", "_"): lambda family=family: paper_table(family)  # type: ignore[misc]
    for family in FAMILIES
}
