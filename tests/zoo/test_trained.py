"""Trained networks by name: what is loaded is what was added, and a card that does not fit its weights is noticed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.table import Table
from torch import nn

import transpike as tp
from transpike import zoo
from transpike.cli.find_model import find_converted, find_model
from transpike.errors import CheckpointError, ModelError
from transpike.experiments.given import take_given
from transpike.experiments.recipe import find_recipe
from transpike.report import card_table, trained_table
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
from transpike.zoo.trained import FOLDER

INPUTS = tp.InputSpec((1, 8, 8), (0.5,), (0.25,), tuple("0123456789"), "digits")
CARD = zoo.ModelCard(
    name="digits-resnet-qcfs-4",
    network="digits-resnet",
    activation=tp.activations.QCFS(4),
    dataset="digits",
    mean=(0.5,),
    std=(0.25,),
    training=zoo.TrainingFacts("SGD, a cosine, cross-entropy", 3, 0.1, 5e-4, 128, 0, "", 1000),
    test_images=300,
    ann_top1=97.5,
    schedules=(
        zoo.ScheduleAccuracy("trained thresholds", "plain", {1: 80.0, 4: 96.25, 16: 97.0}, {1: 1, 4: 4, 16: 16}),
    ),
    record="zoo-digits.json",
)


def network(activation: bool = True) -> nn.Module:
    torch.manual_seed(3)
    built = zoo.build("digits-resnet", width=2).eval()
    set_model_info(built, ModelInfo(model_info(built).source, INPUTS))
    return tp.tailor(built, CARD.activation) if activation else built


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    zoo.add(network(), CARD, tmp_path)
    return tmp_path


def test_what_is_loaded_is_what_was_added(filled: Path) -> None:
    x = torch.randn(3, 1, 8, 8)
    loaded, source = zoo.load(CARD.name, folder=filled), network().eval()
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x), source(x))
    assert model_info(loaded).inputs == INPUTS
    snn = tp.convert(loaded, example_inputs=x)
    assert snn(x, steps=2).shape == (2, 3, 10)


def test_a_card_is_read_as_it_was_written(filled: Path) -> None:
    bytes_ = (filled / f"{CARD.name}.safetensors").read_bytes()
    (found,) = zoo.cards(filled).values()
    assert found == replace(CARD, sha256=hashlib.sha256(bytes_).hexdigest())
    assert zoo.card(CARD.name, filled) == found
    assert list(found.schedules[0].top1.items()) == [(1, 80.0), (4, 96.25), (16, 97.0)]
    stored = json.loads((filled / f"{CARD.name}.json").read_text())
    assert (stored["training"]["epochs"], stored["activation"]["levels"], stored["licence"]) == (3, 4, "MIT")


def test_a_plain_relu_network_has_a_card_too(tmp_path: Path) -> None:
    zoo.add(network(activation=False), replace(CARD, name="relu", activation=None), tmp_path)
    assert isinstance(zoo.load("relu", folder=tmp_path), zoo.DigitsResNet)


def test_an_unknown_name_lists_what_there_is(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(ModelError, match=rf"'digits-qcfs'(.|\n)*known: {CARD.name}"):
        zoo.load("digits-qcfs", folder=filled)
    with pytest.raises(ModelError, match="there are none in"):
        zoo.load("digits-qcfs", folder=tmp_path_factory.mktemp("empty"))


def test_one_changed_byte_is_noticed(filled: Path) -> None:
    path = filled / f"{CARD.name}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        zoo.load(CARD.name, folder=filled)


def test_other_intact_weights_under_a_card_are_noticed(filled: Path) -> None:
    other = network()
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    tp.save(other, filled / f"{CARD.name}.safetensors")
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        zoo.load(CARD.name, folder=filled)


def test_missing_weights_and_broken_cards(filled: Path) -> None:
    path = filled / f"{CARD.name}.json"
    path.rename(filled / "renamed.json")
    with pytest.raises(CheckpointError, match=f"that of '{CARD.name}'"):
        zoo.cards(filled)
    (filled / "renamed.json").unlink()
    path.write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        zoo.cards(filled)
    zoo.add(network(), CARD, filled)
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        zoo.load(CARD.name, folder=filled)


@pytest.mark.parametrize(
    ("field", "value"),
    [("network", "cifar-resnet20"), ("activation", None), ("mean", (0.25,)), ("dataset", "cifar10")],
)
def test_a_card_that_says_otherwise_than_the_network_is_refused(tmp_path: Path, field: str, value: object) -> None:
    with pytest.raises(ModelError, match=f"the card says {field} "):
        zoo.add(network(), replace(CARD, **{field: value}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_converted_network_that_was_not_trained_since_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is converted"):
        zoo.add(tp.convert(network(), example_inputs=torch.randn(2, 1, 8, 8)), CARD, tmp_path)


def cells(table: Table) -> list[object]:
    return [cell for column in table.columns for cell in column.cells]


def tuned() -> tp.SpikingNetwork:
    snn = tp.convert(network(), example_inputs=torch.randn(2, 1, 8, 8))
    data = tp.data.digits()
    few = tp.data.Data(data.inputs, *[torch.utils.data.Subset(data.validation, range(20))] * 4)
    tp.fit_snn(snn, few, steps=2, epochs=1, device="cpu")
    return snn


def test_a_network_trained_through_time_comes_back_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snn = tuned()
    card = replace(CARD, name="time-2", through_time=snn.trained)
    zoo.add(snn, card, tmp_path)
    loaded, x = zoo.load("time-2", folder=tmp_path), torch.rand(3, 1, 8, 8)
    assert isinstance(loaded, tp.SpikingNetwork)
    with torch.no_grad():
        assert torch.equal(loaded(x, steps=2), snn(x, steps=2))
    assert zoo.card("time-2", tmp_path).through_time == snn.trained
    monkeypatch.setattr("transpike.zoo.trained.FOLDER", tmp_path)
    assert isinstance(find_converted("time-2"), tp.SpikingNetwork)
    with pytest.raises(ModelError, match=r"converted already(.|\n)*transpike evaluate time-2"):
        find_model("time-2")
    with pytest.raises(ModelError, match="nor a trained network that is not converted"):
        take_given(find_recipe("cos-cifar10"), {"resnet20-qcfs": "time-2"})
    text = "".join(str(cell) for table in (card_table(card), trained_table({"time-2": card})) for cell in cells(table))
    assert "trained through time at T = 2" in text
    assert "from 97.50" in text
    for wrong in (None, replace(snn.trained, steps=4)):
        with pytest.raises(ModelError, match="the card says through_time"):
            zoo.add(snn, replace(card, name="other", through_time=wrong), tmp_path)
    with pytest.raises(ModelError, match="the card says through_time"):
        zoo.add(network(), replace(card, name="other"), tmp_path)


def test_cards_of_older_versions_are_read(filled: Path) -> None:
    path = filled / f"{CARD.name}.json"
    stored = json.loads(path.read_text())
    del stored["through_time"]
    path.write_text(json.dumps(stored))
    assert zoo.card(CARD.name, filled).through_time is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "../up"}, "name must be"),
        ({"ann_top1": 101.0}, "percentage"),
        ({"sha256": "12"}, "sha256"),
        ({"test_images": 0}, "test_images"),
    ],
)
def test_what_a_card_refuses(change: dict[str, object], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        replace(CARD, **change)
    with pytest.raises(ValueError, match="same numbers of steps"):
        replace(CARD.schedules[0], pipeline_steps={1: 1})


def test_every_shipped_network_is_whole() -> None:
    """Weights without a card, cards without weights and wrong digests do not get into the library."""
    assert {path.stem for path in FOLDER.glob("*.safetensors")} == set(zoo.cards())
    for name, card in zoo.cards().items():
        info = tp.describe(zoo.weights_file(name)).info
        assert info.inputs is not None
        assert (info.source.name, info.inputs.mean, info.inputs.std) == (card.network, card.mean, card.std)
        loaded, x = zoo.load(name), torch.zeros(1, *info.inputs.shape)
        answer = loaded(x) if card.through_time is None else loaded(x, steps=1)[-1]
        assert answer.shape == (1, len(info.inputs.classes))
        assert zoo.weights_file(name).stat().st_size < 2_000_000
