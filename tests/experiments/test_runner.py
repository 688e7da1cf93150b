"""The runner: rows are those of evaluate, a killed run goes on to the same end, and what changed is noticed."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, Subset

import transpike as tp
from transpike import zoo
from transpike.data import Data, augmented_views, digits, loader, random_subset
from transpike.data import test_images as images_of
from transpike.errors import DataError, RecipeError
from transpike.experiments import runner
from transpike.experiments.recipe import Recipe, RecipeRow, Run, Training, recipes
from transpike.experiments.record import Record, read_record
from transpike.experiments.runner import run_recipe
from transpike.rules import BlockReconstruction, Conversion, HalfThreshold, Percentile
from transpike.schedules import AccumulateThenFire, OffsetSpike

TINY = Recipe(
    name="tiny",
    about="",
    network="digits-resnet",
    data="digits",
    seed=0,
    calibration_images=40,
    weights=None,
    trainings=(Training("relu", 2, 0.05),),
    rows=(
        RecipeRow("plain", "relu", (Run(Conversion(Percentile()), (1, 2)),), "230"),
        RecipeRow("each", "relu", tuple(Run(tp.methods["minimum-mse"](t), (t,)) for t in (1, 2)), "30"),
        RecipeRow("other schedule", "relu", (Run(Conversion(Percentile()), (2,), OffsetSpike(2)),), "30"),
    ),
)


class Killed(Exception):
    pass


def numbers(record: Record) -> Any:
    """All that does not depend on the clock."""
    return [(row.label, run.digest, run.report.rows, run.ann_top1) for row in record.rows for run in row.runs]


def run(recipe: Recipe, folder: Path, said: list[str] | None = None) -> Record:
    return run_recipe(recipe, folder, device="cpu", say=(said if said is not None else []).append)


@pytest.fixture(autouse=True, scope="module")
def few_images() -> Iterator[None]:
    """Training sees 128 images and validation 50; the test images are all there."""
    load = runner.load_data

    def few(*args: Any, **kwargs: Any) -> Data:
        data = load(*args, **kwargs)
        parts = {"train": data.train, "calibration": data.calibration}
        parts = {name: Subset(part, range(128)) for name, part in parts.items()}
        return replace(data, validation=Subset(data.validation, range(50)), **parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load_data", few)
        yield


def trained_in(folder: Path, straight: tuple[Record, Path]) -> Path:
    """The folder, with the trained network of a straight run and nothing else."""
    (folder / "cache").mkdir()
    for name in ("relu.safetensors", "cache/relu.json"):
        shutil.copy(straight[1] / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    folder = tmp_path_factory.mktemp("straight")
    return run(TINY, folder), folder


def test_rows_equal_evaluate_by_hand(straight: tuple[Record, Path]) -> None:
    record, folder = straight
    data = runner.load_data("digits")
    calibration = [images for images, _ in loader(random_subset(data.calibration, 40, 0))]
    model = tp.load_ann(folder / "relu.safetensors")
    for row, result in zip(TINY.rows, record.rows, strict=True):
        for planned, found in zip(row.runs, result.runs, strict=True):
            snn = tp.convert(model, planned.conversion, calibration=calibration, example_inputs=calibration[0][:4])
            test = loader(images_of(data, row.images))
            report = tp.evaluate(snn, test, steps=planned.at[-1], at=planned.at, schedule=planned.schedule)
            assert (found.report.rows, found.report.sites) == (report.rows, report.sites)
            assert found.ann_top1 == pytest.approx(report.ann_top1)
            assert found.conversion == snn.conversion
    assert [row.steps for row in record.reports["each"].rows] == [1, 2]
    assert tp.load(folder / "0-spiking.safetensors").conversion == record.rows[0].runs[0].conversion
    assert tp.load(folder / "1-T2-spiking.safetensors").conversion == record.rows[1].runs[1].conversion


def test_the_record_says_everything(straight: tuple[Record, Path]) -> None:
    record, folder = straight
    assert read_record(folder / "result.json") == record
    assert record.finished
    stored = json.loads((folder / "result.json").read_text())
    assert (stored["seed"], stored["calibration_images"], stored["name"]) == (0, 40, "tiny")
    assert stored["rows"][0]["runs"][0]["report"]["images"] == 230
    assert {"cpu", "cores", "threads", "python", "torch", "transpike", "commit", "date"} <= set(stored["environment"])
    assert stored["rows"][1]["runs"][0]["environment"]["date"] <= stored["environment"]["date"]
    assert len(stored["digest"]) == 64


def test_killed_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[Record, Path]) -> None:
    states = importlib.import_module("transpike.training.states")
    save = states.SafeStates.save_checkpoint

    def save_and_die(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(states.SafeStates, "save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        run(TINY, tmp_path)
    monkeypatch.setattr(states.SafeStates, "save_checkpoint", save)
    assert (tmp_path / "relu.ckpt").is_file()
    with pytest.raises(RecipeError, match="another version of the recipe"):  # its first epoch is not this one's
        run(replace(TINY, trainings=(replace(TINY.trainings[0], learning_rate=0.01),)), tmp_path)
    assert numbers(run(TINY, tmp_path)) == numbers(straight[0])


@pytest.mark.parametrize("batch", [1, 2])
def test_killed_while_it_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: tuple[Record, Path], batch: int
) -> None:
    evaluation = importlib.import_module("transpike.evaluation.evaluate")
    monkeypatch.setattr(evaluation, "_SAVE_EVERY", 0.0)
    add, counted = evaluation._Counter.add, []

    def count(self: Any, images: torch.Tensor, labels: torch.Tensor, before: int) -> None:
        counted.append(len(images))
        if len(counted) == batch + 1:
            raise Killed
        add(self, images, labels, before)

    monkeypatch.setattr(evaluation._Counter, "add", count)
    trained_in(tmp_path, straight)
    with pytest.raises(Killed):
        run(TINY, tmp_path)
    assert counted == [100, 100, 30][: batch + 1]
    counted[:] = [0] * 9  # never again
    monkeypatch.setattr(runner, "convert", lambda *args, **kwargs: (counted.append(-1), tp.convert(*args, **kwargs))[1])
    assert numbers(run(TINY, tmp_path)) == numbers(straight[0])
    assert (
        counted[9 : 9 + 3 - batch] == [100, 100, 30][batch:]
    )  # the rest of the first row, which is not converted again
    assert not list((tmp_path / "cache").glob("*-evaluation.json"))


def test_what_changed_is_run_again(straight: tuple[Record, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = straight
    first = TINY.rows[0]

    def again(recipe: Recipe) -> list[str]:
        said: list[str] = []
        run(recipe, folder, said)
        return [line.split(",")[0] for line in said if "trained before" not in line]

    assert again(TINY) == []
    other = replace(first, runs=(Run(Conversion(Percentile(), HalfThreshold()), (1, 2)),))
    assert again(replace(TINY, rows=(other,))) == ["plain"]
    assert again(replace(TINY, rows=(replace(first, calibration_views=1),))) == ["plain"]
    assert again(replace(TINY, rows=(replace(first, images="229"),))) == ["plain"]
    assert again(replace(TINY, rows=(replace(first, runs=(Run(Conversion(Percentile()), (1,)),)),))) == ["plain"]
    assert again(replace(TINY, calibration_images=39)) == ["plain", "each", "each", "other schedule"]
    assert again(TINY) == []  # nothing that was known is lost
    load = runner.load_data

    class Relabelled(Dataset[Any]):
        def __init__(self, data: Any, index: int) -> None:
            self.data, self.index = data, index

        def __len__(self) -> int:
            return len(self.data)

        def __getitem__(self, index: int) -> Any:
            image, label = self.data[index]
            return image, (label + 1) % 10 if index == self.index else label

        def __iter__(self) -> Iterator[Any]:
            return (self[index] for index in range(len(self)))

    def relabelled(*args: Any, **kwargs: Any) -> Data:
        data: Data = load(*args, **kwargs)
        return replace(data, test=Relabelled(data.test, 227))  # in the last batch of the first row alone

    monkeypatch.setattr(runner, "load_data", relabelled)
    assert again(TINY) == ["plain"]
    monkeypatch.setattr(
        runner,
        "load_data",
        lambda *a, **k: replace(load(*a, **k), calibration=Relabelled(load(*a, **k).calibration, 127)),
    )
    with pytest.raises(RecipeError, match="or on other data"):
        again(TINY)


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("result.json", "cache/relu.json"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"mine": 1}')
        with pytest.raises(DataError, match="is left as it is"):
            run(TINY, tmp_path)
        assert file.read_text() == '{"mine": 1}'
        file.unlink()


def _one_of_each(recipe: Recipe) -> Recipe:
    """Where rows of a family differ in the network and the numbers alone, one of them, and the trainings it needs."""
    activations = {training.name: training.activation for training in recipe.trainings}
    kinds: dict[Any, str] = {}
    for row in recipe.rows:
        parts = [type(part).__name__ for run in row.runs for part in (*run.conversion.parts, run.schedule)]
        kinds.setdefault((type(activations.get(row.network)).__name__, *parts), row.label)
    if not recipe.name.startswith(("cos-", "sliprelu-")):
        return recipe
    rows = tuple(row for row in recipe.rows if row.label in kinds.values())
    used = {row.network for row in rows}
    offsets = tuple(replace(row, images="5") for row in recipe.offsets if row.network in used)
    trainings = tuple(one for one in recipe.trainings if one.name in used)
    return replace(recipe, rows=rows, offsets=offsets, trainings=trainings)


def small(recipe: Recipe) -> Recipe:
    """The same on the digits: few images, one epoch, T up to 2, two iterations of reconstruction."""

    def shrunk(run: Run) -> Run:
        corrections = tuple(
            replace(part, iterations=2) if isinstance(part, BlockReconstruction) else part
            for part in run.conversion.corrections
        )
        return replace(run, conversion=replace(run.conversion, corrections=corrections), at=(1, 2))

    rows = tuple(replace(row, images="20", runs=tuple(map(shrunk, row.runs[:1]))) for row in recipe.rows)
    recipe = _one_of_each(replace(recipe, rows=rows))
    plain = {"epochs": 1, "precision": "32-true", "warmup_steps": 0, "network": None}
    trainings = tuple(replace(one, **plain) for one in recipe.trainings)
    known = {"network": "digits-resnet", "data": "digits", "calibration_images": 32, "preparation": "standard"}
    return replace(recipe, trainings=trainings, **known)


@pytest.mark.parametrize("name", list(recipes()))
def test_every_recipe_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setenv("TRANSPIKE_PRETRAINED", str(tmp_path))
    recipe = small(recipes()[name])
    if recipe.weights is not None:
        torch.save(zoo.build("digits-resnet").state_dict(), tmp_path / recipe.weights)
    record = run(recipe, tmp_path / "out")
    assert [row.label for row in record.rows] == [row.label for row in recipe.rows]
    assert all(bool(row.runs) == bool(row.network) for row in record.rows)
    assert all(run.report.images == 20 for row in record.rows for run in row.runs)
    assert [found.row for found in record.offsets] == list(recipe.offsets)
    assert bool(record.offsets) == name.startswith("cos-cifar")
    assert record.finished


def test_pretrained_weights_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSPIKE_PRETRAINED", raising=False)
    with pytest.raises(RecipeError, match="TRANSPIKE_PRETRAINED"):
        run(replace(TINY, weights="w.th"), tmp_path)


def test_a_row_with_views_calibrates_on_them(straight: tuple[Record, Path]) -> None:
    _, folder = straight
    data = runner.load_data("digits")
    calibration = [images for images, _ in loader(random_subset(data.calibration, 40, 0))]
    seen = augmented_views(calibration, 2)
    assert [len(images) for images in seen] == [40] * 3
    assert torch.equal(seen[0], calibration[0])
    assert not torch.equal(seen[1], seen[2])
    assert all(torch.equal(a, b) for a, b in zip(seen, augmented_views(calibration, 2), strict=True))
    conversion = Conversion(Percentile(95.0), schedule=AccumulateThenFire(2))
    row = RecipeRow("views", "relu", (Run(conversion, (2,)),), "30", calibration_views=2)
    record = run(replace(TINY, rows=(row,)), folder)
    model = tp.load_ann(folder / "relu.safetensors")
    snn = tp.convert(model, conversion, calibration=seen, example_inputs=seen[0][:4])
    expected = tp.evaluate(snn, loader(images_of(data, "30")), steps=2, at=[2])
    assert record.rows[0].runs[0].report.rows == expected.rows


def test_words_for_test_images() -> None:
    data = digits()
    assert len(images_of(data, "all")) == len(data.test)
    assert len(images_of(data, "12")) == 12
    for wrong in ("some", "0", "-3"):
        with pytest.raises(DataError, match="'all', 'fixed' or a number"):
            images_of(data, wrong)
