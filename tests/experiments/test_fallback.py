"""A training whose learning rate fails is tried again with the recipe's second one."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Subset

import transpike as tp
from transpike.data import Data
from transpike.errors import DivergedError
from transpike.experiments import networks, runner
from transpike.experiments.recipe import Recipe, RecipeRow, Run, Training
from transpike.experiments.record import Record, read_record
from transpike.experiments.runner import run_recipe
from transpike.rules import Conversion, Percentile

HUGE, GOOD = 1e30, 0.05
TRAINING = Training("relu", 2, HUGE, batch_size=32, fallback_rate=GOOD)
ROWS = (RecipeRow("plain", "relu", (Run(Conversion(Percentile()), (1, 2)),), "30"),)


def recipe(training: Training) -> Recipe:
    return Recipe("tiny", "", "digits-resnet", "digits", 0, 40, None, (training,), ROWS)


def run(training: Training, folder: Path, said: list[str] | None = None) -> Record:
    return run_recipe(
        recipe(training), folder, training_images=128, device="cpu", say=(said if said is not None else []).append
    )


def test_a_diverged_training_takes_the_second_rate(tmp_path: Path) -> None:
    said: list[str] = []
    record = run(TRAINING, tmp_path / "first", said)
    assert [line for line in said if "again with" in line] == [
        "relu: the loss became nan at learning rate 1e+30; again with 0.05"
    ]
    assert [each.learning_rate for each in record.trainings] == [GOOD]
    assert read_record(tmp_path / "first" / "result.json").trainings == record.trainings
    straight = run(replace(TRAINING, learning_rate=GOOD, fallback_rate=None), tmp_path / "straight")
    ours, theirs = (
        torch.nn.utils.parameters_to_vector(tp.load_ann(tmp_path / name / "relu.safetensors").parameters())
        for name in ("first", "straight")
    )
    assert torch.equal(ours, theirs)
    assert straight.rows[0].report.rows == record.rows[0].report.rows
    said.clear()
    again = run(TRAINING, tmp_path / "first", said)
    assert (again.trainings, len(said)) == (record.trainings, 1)
    assert "trained before" in said[0]


def test_without_a_second_rate_or_where_it_fails_too_the_run_ends(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the loss became"):
        run(replace(TRAINING, fallback_rate=None), tmp_path / "none")
    with pytest.raises(DivergedError, match="the loss became"):
        run(replace(TRAINING, fallback_rate=HUGE), tmp_path / "same")


def test_a_killed_second_try_goes_on_with_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    states = importlib.import_module("transpike.training.states")
    save = states.SafeStates.save_checkpoint

    def save_and_die(*args: Any, **kwargs: Any) -> None:
        save(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(states.SafeStates, "save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        run(TRAINING, tmp_path)
    monkeypatch.setattr(states.SafeStates, "save_checkpoint", save)
    assert json.loads((tmp_path / "cache" / "relu.json").read_text())["content"]["learning_rate"] == GOOD
    said: list[str] = []
    record = run(TRAINING, tmp_path, said)
    assert not [line for line in said if "again with" in line]
    assert record.trainings[0].learning_rate == GOOD


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One epoch decides, on 30 validation images that an untrained network gets wrong."""
    load = runner.load_data

    def few(*args: Any, **kwargs: Any) -> Data:
        data = load(*args, **kwargs)
        return replace(data, validation=Subset(data.validation, range(30)))

    monkeypatch.setattr(runner, "load_data", few)
    monkeypatch.setattr(networks, "_PATIENCE", 1)
    return


@pytest.mark.usefixtures("patient")
def test_a_training_at_chance_takes_the_second_rate(tmp_path: Path) -> None:
    said: list[str] = []
    idle = Training("relu", 1, 1e-12, fallback_rate=1e-13)  # learns nothing at either; the second try is kept
    record = run(idle, tmp_path / "idle", said)
    (line,) = [line for line in said if "again with" in line]
    assert "chance at 10.00 %" in line
    assert record.trainings[0].learning_rate == 1e-13
    said.clear()
    assert run(replace(idle, fallback_rate=None), tmp_path / "alone", said).trainings[0].learning_rate == 1e-12
    assert not [line for line in said if "again with" in line]
