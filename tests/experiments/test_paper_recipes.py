"""The recipes of both papers against the papers' own tables, cell by cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from transpike.activations import SlipReLU
from transpike.data import Preparation
from transpike.experiments.recipe import Recipe, RecipeRow, Run, recipes
from transpike.rules import Conversion
from transpike.schedules import OffsetSpike, Residual

TABLES = Path(__file__).parents[1] / "fixtures" / "papers"
FAMILIES = {
    "sliprelu-table-1": "sliprelu-cifar10",
    "sliprelu-table-2": "sliprelu-cifar100",
    "sliprelu-table-3": "sliprelu-cifar10",
    "sliprelu-table-4": "sliprelu-imagenet",
    "cos-table-s1": "cos-cifar10",
    "cos-table-s3": "cos-cifar100",
    "cos-table-s4": "cos-imagenet",
}
"""Tables of one data set; COS, Tables 1 and 2 have two."""
Cells = tuple[str, str, str, float | None, dict[int, float]]
"""Family, network, method as printed, accuracy of the ANN and accuracies by T."""


def number(cell: str) -> float | None:
    return None if cell in ("-", "") else float(cell.rstrip("%"))


def columns(steps: list[int], cells: list[str]) -> dict[int, float]:
    found = {t: number(cell) for t, cell in zip(steps, cells, strict=True)}
    return {t: value for t, value in found.items() if value is not None}


def printed(table: str) -> Iterator[Cells]:
    """The rows of a paper's table."""
    lines = [line.split("\t") for line in (TABLES / f"{table}.tsv").read_text().splitlines()]
    head, *body = lines
    steps = [int(re.findall(r"\d+", cell)[-1]) for cell in head if cell.startswith("T=") or cell.startswith("T $")]
    family, network, model = FAMILIES.get(table, ""), "", ""
    for cells in body:
        if table == "sliprelu-table-3":  # model, method, architecture, accuracy, T
            model = cells[0] or model
            yield family, cells[2], model, None, {int(cells[4]): float(cells[3])}
        elif table == "cos-table-2":
            family = f"cos-{cells[0].lower().replace('-', '')}" if cells[0] else family
            yield family, cells[3], cells[1], None, columns([int(cells[5])], cells[4:5])
        elif table.startswith("sliprelu"):
            # In some rows the empty first cell is lost, and another stands at the end.
            cells = cells if len(cells[0]) < 12 and not cells[0].startswith("SlipReLU") else ["", *cells[:-1]]
            network = cells[0] or network
            yield family, network, cells[1], number(cells[2]), columns(steps, cells[3:])
        elif table in ("cos-table-1", "cos-table-s1"):
            if cells[0].endswith("Dataset"):
                family = f"cos-{cells[0].split()[0].lower().replace('-', '')}"
                continue
            network = cells[2] or network
            yield family, network, cells[0], number(cells[1]), columns(steps, cells[3:])
        else:  # data set, network, method, accuracies
            network = cells[1] or network
            yield family, network, cells[2], None, columns(steps, cells[3:])


def label(table: str, family: str, network: str, method: str) -> str:
    """What the recipe calls a row."""
    rho = 8 if family == "cos-imagenet" and table != "cos-table-2" else 4
    own = {"VGG-16": "N=2, c=0.2", "ResNet-18": "N=1, c=0.4"}.get(network, "N=4, c=0.3")
    words = {
        "SlipReLU (Ours)": f"SlipReLU ({own})",
        "Random Initialization": "random v(0)",
        r"$v^l(0) \leftarrow \theta^l/2$": "v(0) = theta/2",
        r"$v^l(0) \leftarrow v^l(\rho), \rho = 4$": "lightweight (rho=4)",
        "lightweight(ours)": f"lightweight (rho={rho})",
        "shifting(ours)": f"COS (rho={rho})",
    }
    if method.startswith("Ours"):
        return f"{network}, COS (rho={rho})"
    return f"{network}, {words.get(method, re.sub(r' [(][A-Z][^()]*, 20..[)]', '', method))}"


def rows(family: str) -> dict[str, RecipeRow]:
    return {row.label: row for row in recipes()[family].rows}


ALL = sorted(path.stem for path in TABLES.glob("*.tsv"))


def cited(table: str, source: str) -> bool:
    """Whether the source of a row names a table."""
    paper, what = table.split("-table-")
    return source.lower().startswith(paper) and what in re.findall(r"\bs?\d\b", source.lower().split("fig")[0])


def test_all_tables_are_there() -> None:
    assert len(ALL) == 9
    assert sum(len(list(printed(table))) for table in ALL) == 19 + 20 + 12 + 7 + 17 + 10 + 13 + 4 + 7


@pytest.mark.parametrize("table", ALL)
def test_every_cell_of_a_table_stands_in_a_recipe(table: str) -> None:
    found = 0
    for family, network, method, ann, top1 in printed(table):
        row = rows(family)[label(table, family, network, method)]
        assert cited(table, row.published_in), row
        assert top1.items() <= row.published.items(), row
        assert ann is None or row.published_ann == ann, row
        found += len(top1)
    assert found > 5


@pytest.mark.parametrize("family", sorted({*FAMILIES.values(), "cos-cifar100"}))
def test_nothing_is_published_that_no_table_has(family: str) -> None:
    known: dict[str, dict[int, float]] = {}
    anns: dict[str, float | None] = {}
    for table in ALL:
        for of, network, method, ann, top1 in printed(table):
            if of == family:
                name = label(table, of, network, method)
                known.setdefault(name, {}).update(top1)
                anns[name] = ann or anns.get(name)
    for name, row in rows(family).items():
        assert row.published == known.get(name, {}), name
        assert row.published_ann == anns.get(name), name
        assert row.published or "Fig." in row.published_in or row.published_in == "transpike", name


@pytest.mark.parametrize("family", sorted({*FAMILIES.values(), "cos-cifar100"}))
def test_what_was_published_is_measured_at_the_same_steps(family: str) -> None:
    for row in rows(family).values():
        at = [t for run in row.runs for t in run.at]
        assert not row.runs or set(row.published) <= set(at), row.label


def training(recipe: Recipe, name: str) -> tuple[object, ...]:
    (found,) = [each for each in recipe.trainings if each.name == name]
    return found.network, found.epochs, found.learning_rate, found.fallback_rate, found.weight_decay, found.batch_size


def test_settings_are_the_papers() -> None:
    found = recipes()
    slip = found["sliprelu-cifar10"]
    assert training(slip, "vgg16-slip-2-0.2") == ("cifar-vgg16", 300, 0.1, 0.05, 5e-4, 128)
    assert training(slip, "vgg16-slip-4-0.9") == ("cifar-vgg16", 300, 0.1, None, 5e-4, 128)
    assert training(found["cos-cifar10"], "resnet18-qcfs") == ("cifar-resnet18", 300, 0.1, None, 5e-4, 50)
    assert training(found["cos-cifar100"], "resnet20-qcfs") == (None, 300, 0.02, None, 5e-4, 50)
    expected = ("imagenet-resnet34-papers", 300, 0.1, None, 1e-4, 50)
    assert training(found["cos-imagenet"], "resnet34-qcfs") == expected
    prepared = {name: found[name].preparation for name in ("sliprelu-cifar100", "cos-cifar10", "cos-imagenet")}
    assert list(prepared.values()) == [Preparation.SLIPRELU, Preparation.COS, Preparation.STANDARD]


def test_activations_are_those_that_labels_say() -> None:
    levels = {"cos-cifar10": {4}, "cos-cifar100": {4, 8}, "cos-imagenet": {8, 16}}
    seen: dict[str, set[int]] = {}
    for family in {*FAMILIES.values(), "cos-cifar100"}:
        recipe = recipes()[family]
        activations = {each.name: each.activation for each in recipe.trainings}
        for row in recipe.rows:
            activation = activations.get(row.network)
            said = re.search(r"SlipReLU \(N=(\d+), c=([\d.]+)\)", row.label)
            if said:
                assert activation == SlipReLU(int(said[1]), float(said[2])), row.label
            elif "QCFS" in row.label:
                assert isinstance(activation, SlipReLU)
                assert (activation.slope, activation.shift) == (0.0, 0.5)
                seen.setdefault(family, set()).add(activation.levels)
            elif "ReLU" in row.label:
                assert activation is None
    assert {family: seen[family] for family in levels} == levels


def test_schedules_of_cos_rows() -> None:
    steps = (1, 2, 4, 8, 16, 32)
    found = rows("cos-cifar100")
    assert found["VGG-16, COS (rho=4)"].runs == (Run(Conversion(), steps, OffsetSpike(4)),)
    assert found["ResNet-20, COS (rho=8), 4 iterations"].runs == (Run(Conversion(), steps, OffsetSpike(8, 4)),)
    assert found["VGG-16, lightweight (rho=4)"].runs == (Run(Conversion(), steps, Residual(4)),)
    for row in found.values():
        said = re.search(r"rho=(\d+)", row.label)
        if said and row.runs:
            assert getattr(row.runs[0].schedule, "probe_steps", None) == int(said[1])


def test_methods_out_of_scope_are_only_published() -> None:
    listed = {
        name for family in {*FAMILIES.values(), "cos-cifar100"} for name, row in rows(family).items() if not row.runs
    }
    methods = {name.split(", ")[1] for name in listed}
    outside = {"TSC", "HC", "TSSL", "tdBN", "TET", "NAS", "NA", "Dual-Phase", "Diet-SNN", "RecDis-SNN", "HC-STDB"}
    assert methods == outside | {"DSR", "STBP-tdBN", "PLIF"}
