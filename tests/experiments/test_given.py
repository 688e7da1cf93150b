"""Networks that a run is given: rows are those of the network itself, nothing is trained, and the record says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import transpike as tp
from transpike import zoo
from transpike.data import loader, random_subset
from transpike.data import test_images as images_of
from transpike.errors import CheckpointError, ModelError, RecipeError
from transpike.experiments import networks as training_side
from transpike.experiments import runner
from transpike.experiments.recipe import PRETRAINED, Recipe, RecipeRow, Run, Training
from transpike.experiments.record import GivenNetwork, Record, read_record
from transpike.experiments.runner import run_recipe
from transpike.rules import Conversion, Percentile
from transpike.serialization.digest import digest
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
from transpike.zoo import trained

RUNS = (Run(Conversion(Percentile()), (1, 2)),)
RECIPE = Recipe(
    name="tiny",
    about="",
    network="digits-resnet",
    data="digits",
    seed=0,
    calibration_images=32,
    weights=None,
    trainings=(Training("relu", 1, 0.05), Training("qcfs", 1, 0.05, start="relu", activation=tp.activations.QCFS(2))),
    rows=(
        RecipeRow("first (N=1)", "relu", RUNS, "20"),
        RecipeRow("second", "relu", RUNS, "20"),
        RecipeRow("third", "qcfs", (Run(Conversion(), (2,)),), "20"),
        RecipeRow("theirs", "", (), published={2: 50.0}, published_in="there"),
    ),
)


def network(seed: int, inputs: tp.InputSpec | None = None) -> nn.Module:
    torch.manual_seed(seed)
    built = zoo.build("digits-resnet", width=2, blocks=1).eval()
    set_model_info(built, ModelInfo(model_info(built).source, inputs or model_info(built).inputs))
    return built


def saved(seed: int, folder: Path, inputs: tp.InputSpec | None = None, activation: object = None) -> Path:
    made = network(seed, inputs)
    made = made if activation is None else tp.tailor(made, activation)
    tp.save(made, folder / f"net{seed}.safetensors")
    return folder / f"net{seed}.safetensors"


def run(folder: Path, given: dict[str, str | Path], recipe: Recipe = RECIPE) -> Record:
    return run_recipe(recipe, folder, given=given, training_images=64, device="cpu")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a network was trained")

    monkeypatch.setattr(training_side, "fit", never)


def rows_by_hand(model: nn.Module, data: tp.data.Data, at: tuple[int, ...] = (1, 2)) -> tuple[object, ...]:
    calibration = [images for images, _ in loader(random_subset(data.calibration, 32, 0))]
    snn = tp.convert(model, RUNS[0].conversion, calibration=calibration, example_inputs=calibration[0][:4])
    return tp.evaluate(snn, loader(images_of(data, "20")), steps=at[-1], at=at).rows


@pytest.mark.usefixtures("untrained")
def test_networks_are_given_by_name_and_by_row(tmp_path: Path) -> None:
    files = {
        "relu": saved(1, tmp_path),
        "first (N=1)": saved(2, tmp_path),
        "qcfs": saved(3, tmp_path, None, tp.activations.QCFS(2)),
    }
    record = run(tmp_path / "out", {name: str(file) for name, file in files.items()})
    small = random_subset(tp.data.digits().calibration, 64, 0)
    data = replace(tp.data.digits(), calibration=small)
    first, second, third, theirs = record.rows
    assert first.report.rows == rows_by_hand(network(2), data)
    assert second.report.rows == rows_by_hand(network(1), data)
    assert first.report.rows != second.report.rows
    assert (first.network, second.network, third.network, theirs.network) == ("first (N=1)", "relu", "qcfs", "")
    assert theirs.published == {2: 50.0}
    assert record.trainings == ()
    wanted = tuple(GivenNetwork(name, str(file), digest(tp.load_ann(file))) for name, file in files.items())
    assert record.given == wanted
    assert read_record(tmp_path / "out" / "result.json") == record


def test_other_networks_are_trained_from_a_given_one(tmp_path: Path) -> None:
    file = saved(1, tmp_path)
    record = run(tmp_path / "out", {"relu": file})
    assert [each.name for each in record.trainings] == ["qcfs"]
    qcfs = tp.load_ann(tmp_path / "out" / "qcfs.safetensors")
    assert model_info(qcfs).source == model_info(network(1)).source
    assert not (tmp_path / "out" / "relu.safetensors").exists()


@pytest.mark.usefixtures("untrained")
def test_another_network_makes_other_rows_in_the_same_folder(tmp_path: Path) -> None:
    recipe = replace(RECIPE, rows=RECIPE.rows[1:2], trainings=RECIPE.trainings[:1])
    one = run(tmp_path / "out", {"relu": saved(1, tmp_path)}, recipe)
    two = run(tmp_path / "out", {"relu": saved(2, tmp_path)}, recipe)
    assert one.rows[0].report.rows != two.rows[0].report.rows
    assert one.rows[0].runs[0].digest != two.rows[0].runs[0].digest


@pytest.mark.usefixtures("untrained")
def test_each_network_sees_images_with_its_own_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for load_data scales by ``like``, as the CIFAR sets do; the digits have no scale."""
    load = runner.load_data

    class Scaled(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, part: torch.utils.data.Dataset, mean: float, std: float) -> None:  # type: ignore[type-arg]
            self.part, self.mean, self.std = part, mean, std

        def __len__(self) -> int:
            return len(self.part)  # type: ignore[arg-type]

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image, label = self.part[index]
            return (image - self.mean) / self.std, label

    def opened(*args: object, like: tp.InputSpec | None = None, **how: object) -> tp.data.Data:
        data = load(*args, **how)
        mean, std = (0.0, 1.0) if like is None else (like.mean[0], like.std[0])
        parts = {name: Scaled(getattr(data, name), mean, std) for name in ("calibration", "validation", "test")}
        return replace(data, inputs=replace(data.inputs, mean=(mean,), std=(std,)), **parts)

    monkeypatch.setattr(runner, "load_data", opened)
    inputs = tp.InputSpec((1, 8, 8), (0.5,), (0.25,), tuple("0123456789"), "digits")
    recipe = replace(RECIPE, rows=RECIPE.rows[:2], trainings=RECIPE.trainings[:1])
    files: dict[str, str | Path] = {"relu": saved(1, tmp_path), "first (N=1)": saved(2, tmp_path, inputs)}
    record = run(tmp_path / "out", files, recipe)
    for row, model, like in ((record.rows[0], network(2), inputs), (record.rows[1], network(1), None)):
        data = opened("digits", like=like)
        data = replace(data, calibration=random_subset(data.calibration, 64, 0))
        assert row.report.rows == rows_by_hand(model, data)


@pytest.mark.usefixtures("untrained")
def test_pretrained_weights_and_trained_networks_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "weights")
    facts = zoo.TrainingFacts("SGD", 1, 0.1, 0.0, 1, 0, "", 1)
    inputs = model_info(network(5)).inputs
    assert inputs is not None
    card = zoo.ModelCard("own", "digits-resnet", None, "digits", inputs.mean, inputs.std, facts, 1, 50.0, (), "r.json")
    zoo.add(network(5), card)
    row = RecipeRow("pretrained", PRETRAINED, RUNS, "20")
    recipe = replace(RECIPE, weights="nowhere.pt", trainings=(), rows=(row,))
    record = run(tmp_path / "out", {PRETRAINED: "own"}, recipe)
    assert (record.weights, [each.source for each in record.given]) == (None, ["own"])
    with pytest.raises(ModelError, match=r"'owm' is neither(.|\n)*own"):
        run(tmp_path / "out", {PRETRAINED: "owm"}, recipe)


def test_what_is_refused(tmp_path: Path) -> None:
    file = saved(1, tmp_path)
    with pytest.raises(RecipeError, match=r"'rely'(.|\n)*did you mean relu"):
        run(tmp_path / "out", {"rely": file})
    with pytest.raises(RecipeError, match="'theirs'"):
        run(tmp_path / "out", {"theirs": file})
    with pytest.raises(CheckpointError, match="no such file"):
        run(tmp_path / "out", {"relu": tmp_path / "none.safetensors"})
    converted = tp.convert(
        network(1), RUNS[0].conversion, calibration=torch.rand(8, 1, 8, 8), example_inputs=torch.rand(2, 1, 8, 8)
    )
    tp.save(converted, tmp_path / "snn.safetensors")
    with pytest.raises(CheckpointError, match="holds a spiking network"):
        run(tmp_path / "out", {"relu": tmp_path / "snn.safetensors"})
    other = saved(2, tmp_path, tp.InputSpec((1, 8, 8), dataset="cifar10"))
    with pytest.raises(RecipeError, match="trained for cifar10, the recipe is about digits"):
        run(tmp_path / "out", {"relu": other})
