"""Tables of both papers: what was published beside what our records hold."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from records import RESULTS, percent, table

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
    return table(head, rows, left=3) + "\n" + note + "\n"


def measured(family: str) -> dict[str, list[tuple[Record, RowResult]]]:
    """Rows of the records in ``results/papers`` by label; several records may hold parts of a family."""
    found: dict[str, list[tuple[Record, RowResult]]] = {}
    for path in sorted((RESULTS / "papers").glob("*.json")):
        record = read_record(path)
        for row in record.rows:
            if record.name == family and row.runs:
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
