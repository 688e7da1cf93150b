"""Several seeds of the last training: each network is that of a run with this seed, and rows have mean and spread."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import transpike as tp
from transpike.experiments.change_recipe import repeat, select_rows
from transpike.experiments.networks import fresh_network
from transpike.experiments.recipe import Recipe, RecipeRow, Run, Training
from transpike.experiments.record import Record, Spread, read_record
from transpike.experiments.runner import run_recipe
from transpike.report import record_table
from transpike.rules import Conversion, Percentile

RECIPE = Recipe(
    name="tiny",
    about="",
    network="digits-resnet",
    data="digits",
    seed=0,
    calibration_images=32,
    weights=None,
    trainings=(
        Training("relu", 2, 0.05, batch_size=32),
        Training("qcfs", 1, 0.05, start="relu", batch_size=32, activation=tp.activations.QCFS(4, theta_init=1.0)),
    ),
    rows=(
        RecipeRow("relu", "relu", (Run(Conversion(Percentile()), (2,)),), "100"),
        RecipeRow(
            "qcfs", "qcfs", (Run(Conversion(), (1, 2)),), "100", 0, {2: 10.0}, published_in="there", published_ann=20.0
        ),
    ),
)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    folder = tmp_path_factory.mktemp("seeds")
    return run_recipe(repeat(RECIPE, [3, 0]), folder, training_images=256, device="cpu"), folder


def weights(path: Path) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in tp.load_ann(path).parameters()])


def test_the_last_trainings_alone_are_repeated() -> None:
    made = repeat(RECIPE, [3, 0])
    assert [(each.name, each.seed, each.start) for each in made.trainings] == [
        ("relu", None, None),
        ("qcfs-seed3", 3, "relu"),
        ("qcfs-seed0", 0, "relu"),
    ]
    assert [(row.network, row.repeats) for row in made.rows] == [("relu", ()), ("qcfs-seed3", ("qcfs-seed0",))]
    assert select_rows(made, "qcfs").trainings == made.trainings
    for wrong in ([], [1, 1], [-1]):
        with pytest.raises(ValueError, match="seed"):
            repeat(RECIPE, wrong)


def test_a_repeat_is_the_run_with_that_seed(repeated: tuple[Record, Path], tmp_path: Path) -> None:
    """Seed 0 is the recipe's own, so the network named for it is the one of the recipe as it stands."""
    record, folder = repeated
    plain = run_recipe(RECIPE, tmp_path, training_images=256, device="cpu")
    assert torch.equal(weights(folder / "qcfs-seed0.safetensors"), weights(tmp_path / "qcfs.safetensors"))
    assert not torch.equal(weights(folder / "qcfs-seed3.safetensors"), weights(tmp_path / "qcfs.safetensors"))
    assert torch.equal(weights(folder / "relu.safetensors"), weights(tmp_path / "relu.safetensors"))
    (own,) = record.rows[1].repeats
    assert (own.network, own.runs[0].report.rows) == ("qcfs-seed0", plain.rows[1].report.rows)
    assert own.runs[0].report.rows != record.rows[1].report.rows
    assert read_record(folder / "result.json") == record


def test_mean_and_spread(repeated: tuple[Record, Path]) -> None:
    record, _ = repeated
    row = record.rows[1]
    both = [[each.top1 for each in runs[0].report.rows] for runs in (row.runs, row.repeats[0].runs)]
    for index, t in enumerate((1, 2)):
        values = [found[index] for found in both]
        assert row.top1[t].mean == pytest.approx(np.mean(values))
        assert row.top1[t].deviation == pytest.approx(np.std(values, ddof=1))
    assert row.differences == {2: pytest.approx(np.mean([found[1] for found in both]) - 10.0)}
    assert row.ann.values == (row.runs[0].ann_top1, row.repeats[0].runs[0].ann_top1)
    assert str(Spread((90.0, 92.0))) == "91.00 ± 1.41"
    assert (str(Spread((90.0,))), Spread((90.0,)).deviation) == ("90.00", 0.0)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(record_table(record))
    shown = console.export_text()
    assert "mean and standard deviation over seeds" in shown
    assert f"{row.top1[2].mean:.2f} ± {row.top1[2].deviation:.2f}" in shown
    assert f"{row.ann.mean - 20:+.2f}" in shown


def test_a_training_from_fresh_weights_takes_those_of_its_seed(tmp_path: Path) -> None:
    """With no learning to speak of, the network keeps the weights that its seed drew."""
    training = Training("relu", 1, 1e-12, weight_decay=0.0)
    recipe = replace(RECIPE, trainings=(training,), rows=RECIPE.rows[:1])
    run_recipe(repeat(recipe, [5]), tmp_path, training_images=16, device="cpu")
    fresh = fresh_network("digits-resnet", tp.data.digits(), 5)
    wanted = torch.cat([parameter.detach().flatten() for parameter in fresh.parameters()])
    assert torch.allclose(weights(tmp_path / "relu-seed5.safetensors"), wanted, atol=1e-6)
    other = fresh_network("digits-resnet", tp.data.digits(), 0)
    assert not torch.allclose(next(other.parameters()), next(fresh.parameters()), atol=1e-2)
