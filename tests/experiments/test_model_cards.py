"""From a training's state_dict to a card: the script benchmarks/zoo_entry.py, end to end."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import transpike as tp
from transpike.errors import CheckpointError, RecipeError
from transpike.experiments.model_cards import card_accuracies, network_of_weights
from transpike.experiments.recipe import Recipe, RecipeRow, Run, Training
from transpike.experiments.record import Record
from transpike.experiments.runner import run_recipe
from transpike.rules import Conversion
from transpike.schedules import OffsetSpike

QCFS = tp.activations.QCFS(4)
RECIPE = Recipe(
    name="tiny",
    about="",
    network="digits-resnet",
    data="digits",
    seed=0,
    calibration_images=32,
    weights=None,
    trainings=(Training("qcfs", 1, 0.05, activation=QCFS),),
    rows=(
        RecipeRow("plain", "qcfs", (Run(Conversion(), (1, 4)),), "10"),
        RecipeRow("cos", "qcfs", (Run(Conversion(), (2,), OffsetSpike(4)),), "10"),
    ),
)
FACTS = {
    "about": "SGD",
    "epochs": 2,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "batch_size": 128,
    "seed": 0,
    "start": "",
    "training_images": 45000,
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "zoo_entry.py"
    specification = importlib.util.spec_from_file_location("zoo_entry", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def call(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo_entry.py", *map(str, words)])
    script.main()


def state_dict(path: Path) -> torch.nn.Module:
    """Stands for a training elsewhere: a plain state_dict of a tailored network, thresholds of its own."""
    torch.manual_seed(4)
    network = tp.tailor(tp.zoo.build("digits-resnet"), tp.activations.QCFS(4, theta_init=1.25)).eval()
    torch.save(network.state_dict(), path)
    return network


def test_from_a_state_dict_to_a_card(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source, made = state_dict(tmp_path / "state.pt"), tmp_path / "net.safetensors"
    words = ("--network", "digits-resnet", "--dataset", "digits", "--activation", "qcfs:levels=4", "-o", made)
    call(script, monkeypatch, "network", tmp_path / "state.pt", *words)
    x = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(tp.load_ann(made)(x), source(x))
    record = run_recipe(RECIPE, tmp_path / "run", given={"qcfs": made}, device="cpu")
    (tmp_path / "training.json").write_text(json.dumps(FACTS))
    words = ("--name", "digits-qcfs-4", "--record", tmp_path / "run" / "result.json", "--row-network", "qcfs")
    folder = tmp_path / "weights"
    call(script, monkeypatch, "card", made, *words, "--training", tmp_path / "training.json", "--folder", folder)
    card = tp.zoo.card("digits-qcfs-4", folder)
    plain, cos = (row.report for row in record.rows)
    assert [(each.schedule, each.top1) for each in card.schedules] == [
        (plain.schedule, {1: plain.row(1).top1, 4: plain.row(4).top1}),
        (cos.schedule, {2: cos.row(2).top1}),
    ]
    assert card.schedules[1].pipeline_steps == {2: cos.row(2).latency.pipeline_steps}
    assert (card.test_images, card.ann_top1, card.activation) == (10, plain.ann_top1, QCFS)
    assert (card.training, card.record) == (tp.zoo.TrainingFacts(**FACTS), "result.json")
    with torch.no_grad():
        assert torch.equal(tp.zoo.load("digits-qcfs-4", folder=folder)(x), source(x))


def test_a_network_trained_through_time(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state_dict(tmp_path / "state.pt")
    data, made, tuned = tp.data.digits(), tmp_path / "net.safetensors", tmp_path / "tuned.safetensors"
    network = network_of_weights(str(tmp_path / "state.pt"), "digits-resnet", data, QCFS)
    tp.save(network, made)
    snn = tp.convert(network, example_inputs=torch.rand(2, 1, 8, 8))
    part = torch.utils.data.Subset(data.train, range(128))
    tp.fit_snn(snn, replace(data, train=part), steps=2, epochs=1, batch_norm="tdbn", device="cpu")
    tp.save(snn, tuned)
    (tmp_path / "training.json").write_text(json.dumps(FACTS))
    folder, record = tmp_path / "weights", tmp_path / "time.json"
    words = ("--ann", made, "--training", tmp_path / "training.json", "--record", record, "--folder", folder)
    call(script, monkeypatch, "spiking", tuned, "--name", "digits-time-2", *words, "--images", "40")
    card, loaded = tp.zoo.card("digits-time-2", folder), tp.zoo.load("digits-time-2", folder=folder)
    assert (
        card.through_time
        == snn.trained
        == tp.rules.ThroughTime(2, 1, "MeanLoss", True, 0.0, tp.rules.BatchNormMode.TDBN)
    )
    test = tp.data.loader(data.test, limit=40)
    report = tp.evaluate(snn, test, steps=8)
    assert [(each.schedule, each.top1) for each in card.schedules] == [
        ("plain", {t: report.row(t).top1 for t in (1, 2, 4, 8)})
    ]
    images, labels = next(iter(test))
    with torch.no_grad():
        assert card.ann_top1 == 100 * float((network(images).argmax(1) == labels).double().mean())
        assert torch.equal(loaded(images, steps=2), snn(images, steps=2))
    kept = json.loads(record.read_text())
    assert (card.test_images, card.record) == (kept["report"]["images"], "time.json") == (40, "time.json")
    assert kept["report"]["rows"][1]["top1"] == report.row(2).top1


def test_what_a_record_cannot_tell(tmp_path: Path) -> None:
    state_dict(tmp_path / "state.pt")
    data = tp.data.digits()
    network = network_of_weights(str(tmp_path / "state.pt"), "digits-resnet", data, QCFS)
    with pytest.raises(CheckpointError, match="do not fit"):
        network_of_weights(str(tmp_path / "state.pt"), "digits-resnet", data)
    tp.save(network, tmp_path / "net.safetensors")
    record: Record = run_recipe(RECIPE, tmp_path / "run", given={"qcfs": tmp_path / "net.safetensors"}, device="cpu")
    with pytest.raises(RecipeError, match=r"no network 'relu'(.|\n)*known: qcfs"):
        card_accuracies(record, "relu", network)
    row = record.rows[1]
    fewer = replace(row, runs=(replace(row.runs[0], report=replace(row.report, images=9)),))
    with pytest.raises(RecipeError, match=r"rows of \[9, 10\] test images"):
        card_accuracies(replace(record, rows=(record.rows[0], fewer)), "qcfs", network)
    with torch.no_grad():
        next(network.parameters()).mul_(2)
    with pytest.raises(RecipeError, match="of other weights"):
        card_accuracies(record, "qcfs", network)
