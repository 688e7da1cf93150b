"""Rows about offset spikes: those of the papers' tables, and numbers that equal a count by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

import transpike as tp
from transpike.data import loader
from transpike.data import test_images as images_of
from transpike.errors import RecipeError
from transpike.experiments import runner
from transpike.experiments.change_recipe import repeat, resize, select_rows
from transpike.experiments.offset_rows import OffsetRow, PublishedOffsets
from transpike.experiments.recipe import Recipe, RecipeRow, Run, Training, parse_recipe, recipes
from transpike.experiments.record import Record, read_record
from transpike.experiments.runner import run_recipe
from transpike.report import record_offsets_table
from transpike.rules import Conversion
from transpike.schedules import OffsetSpike, Plain

PRINTED = Path(__file__).parents[1] / "fixtures" / "papers" / "offsets"
QCFS = tp.activations.QCFS(2, theta_init=1.0)
ROW = OffsetRow(
    "offsets", "qcfs", 2, 2, "30", PublishedOffsets("there", {"plain": 50.0, "cos:2": 90.0}, {"plain": 0.5})
)
RECIPE = Recipe(
    name="tiny",
    about="",
    network="digits-resnet",
    data="digits",
    seed=0,
    calibration_images=32,
    weights=None,
    trainings=(Training("other", 1, 0.05), Training("qcfs", 1, 0.05, activation=QCFS)),
    rows=(
        RecipeRow("plain", "qcfs", (Run(Conversion(), (1,)),), "10"),
        RecipeRow("relu", "other", (Run(Conversion(tp.rules.Percentile()), (1,)),), "10"),
    ),
    offsets=(ROW,),
)


def test_table_3_is_that_of_the_recipes() -> None:
    lines = [line.split("\t") for line in (PRINTED / "cos-table-3.tsv").read_text().splitlines()[2:]]
    family, seen = "", 0
    for data, network, *cells in lines:
        family = f"cos-{data.lower().replace('-', '')}" if data else family
        (row,) = [each for each in recipes()[family].offsets if each.label == f"{network}, offset spikes"]
        names = ("plain", "cos:1", "cos:2", "cos:4")
        assert row.published.ratio == dict(zip(names, (float(cell.rstrip("%")) for cell in cells[::2]), strict=True))
        assert row.published.mse == dict(zip(names, map(float, cells[1::2]), strict=True))
        activation = next(each.activation for each in recipes()[family].trainings if each.name == row.network)
        assert isinstance(activation, tp.activations.SlipReLU)
        assert activation.levels == row.probe_steps
        seen += 1
    assert seen == 4


def test_table_s2_is_that_of_the_recipe() -> None:
    lines = [line.split("\t") for line in (PRINTED / "cos-table-s2.tsv").read_text().splitlines()[1:]]
    found = recipes()["cos-cifar10"].offsets[0].published.sites
    for key, (_, *cells) in zip(("input", "output", "constrained"), lines, strict=True):
        assert found[key] == tuple(float(cell.rstrip("%")) for cell in cells)


def fresh(folder: Path) -> Path:
    torch.manual_seed(0)
    network = tp.tailor(tp.zoo.build("digits-resnet", width=4, blocks=1).eval(), QCFS).train()
    with torch.no_grad():  # gives BatchNorm statistics with which neurons fire
        for images, _ in loader(tp.data.digits().calibration, 100, 1000):
            network(images)
    network.eval()
    tp.save(network, folder / "qcfs.safetensors")
    return folder / "qcfs.safetensors"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path, Path]:
    folder = tmp_path_factory.mktemp("offsets")
    file = fresh(folder)
    recipe = select_rows(RECIPE, "qcfs")
    return run_recipe(recipe, folder / "run", given={"qcfs": file}, device="cpu"), folder / "run", file


def test_numbers_equal_a_count_by_hand(measured: tuple[Record, Path, Path]) -> None:
    """Psi is L a / theta less the spikes of a run, with the activations read by hooks of the ANN."""
    record, _, file = measured
    (found,) = record.offsets
    ann = tp.load_ann(file)
    batches = list(loader(images_of(tp.data.digits(), "30")))
    snn = tp.convert(ann, example_inputs=batches[0][0][:4])
    assert list(found.free) == ["plain", "cos:1", "cos:2"]
    for label, schedule in {"plain": Plain(), "cos:1": OffsetSpike(2), "cos:2": OffsetSpike(2, 2)}.items():
        name = snn.sites[-1].name
        exact = total = squares = 0.0
        for images, _ in batches:
            counts: list[torch.Tensor] = []
            wanted: list[torch.Tensor] = []

            def observe(site: str, _: torch.Tensor, events: torch.Tensor) -> None:
                if site == name:  # noqa: B023
                    counts.append(events[:2].sum(0))  # noqa: B023

            handle = ann.get_submodule(name).register_forward_hook(lambda _m, _i, out: wanted.append(out))  # noqa: B023
            with torch.no_grad():
                ann(images)
                snn(images, steps=2, schedule=schedule, observe=observe)
            handle.remove()
            psi = (2 * wanted[0] / snn.site(name).theta - counts[0]).round()
            exact, total = exact + float((psi == 0).sum()), total + psi.numel()
            squares += float(psi.square().sum())
        last = found.free[label].sites[-1]
        assert last.exact == pytest.approx(exact / total, abs=2e-4)
        assert last.mse == pytest.approx(squares / total, abs=2e-3)
    assert 0 < found.free["plain"].sites[-1].exact < 1
    assert (found.images, found.row) == (30, ROW)
    assert all(site.exact == 1 for site in found.constrained["cos:2"].sites)


def test_the_record_keeps_them_and_is_read_again(
    measured: tuple[Record, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, folder, file = measured
    assert record.finished
    assert read_record(folder / "result.json") == record
    shown = Console(width=160, record=True, file=io.StringIO())
    shown.print(record_offsets_table(record))
    lines = [line.split() for line in shown.export_text().splitlines()]
    last = {label: offsets.sites[-1] for label, offsets in record.offsets[0].free.items()}
    cells = [word for site in last.values() for word in (f"{100 * site.exact:.2f}", "/", f"{site.mse:.3f}")]
    assert ["offsets", "30", *cells] in lines
    assert ["published", "50.00", "/", "0.500", "-", "/", "-", "90.00", "/", "-"] in lines

    def never(*_: object, **__: object) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(runner, "count_offsets", never)
    again = run_recipe(select_rows(RECIPE, "qcfs"), folder, given={"qcfs": file}, device="cpu")
    assert again.offsets == record.offsets
    alone = run_recipe(select_rows(RECIPE, "offsets"), folder, given={"offsets": file}, device="cpu")
    assert (alone.rows, alone.finished, alone.trainings) == ((), True, ())
    assert alone.offsets[0].free == record.offsets[0].free


def test_selections_and_sizes_take_them_along() -> None:
    assert [each.name for each in select_rows(RECIPE, "offsets").trainings] == ["qcfs"]
    assert select_rows(RECIPE, "other").offsets == ()
    assert resize(RECIPE, images="7").offsets == (replace(ROW, images="7"),)
    assert repeat(RECIPE, [4, 5]).offsets == (replace(ROW, network="qcfs-seed4"),)
    with pytest.raises(RecipeError, match="rows: plain, relu, offsets"):
        select_rows(RECIPE, "nothing")


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of \['cos:3'\], which it does not measure"):
        replace(ROW, published=PublishedOffsets("there", {"cos:3": 50.0}))
    with pytest.raises(ValueError, match="percentages"):
        PublishedOffsets("there", {"plain": 101.0})
    with pytest.raises(ValueError, match="source"):
        PublishedOffsets("", {"plain": 50.0})
    with pytest.raises(ValueError, match="a number for every layer"):
        PublishedOffsets("there", sites={"input": (1.0,), "output": (1.0, 2.0)})
    with pytest.raises(ValueError, match="names the network 'none'"):
        replace(RECIPE, offsets=(replace(ROW, network="none"),))
    text = 'about = ""\nnetwork = "digits-resnet"\ndata = "digits"\nseed = 0\ncalibration_images = 8\nsteps = 1\n'
    text += '[[train]]\nname = "a"\nepochs = 1\nlearning_rate = 0.1\n[[row]]\nlabel = "r"\nnetwork = "a"\n'
    good = text + '[[offsets]]\nlabel = "o"\nnetwork = "a"\niterations = 1\n'
    assert parse_recipe(good, "t").offsets == (OffsetRow("o", "a", iterations=1),)
    with pytest.raises(RecipeError, match="malformed"):
        parse_recipe(good + "rho = 2\n", "t")
