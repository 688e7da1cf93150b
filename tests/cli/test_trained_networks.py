"""Trained networks by name on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike import zoo
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info
from transpike.zoo import trained

FACTS = zoo.ModelCard(
    name="digits-resnet-qcfs-4",
    network="digits-resnet",
    activation=tp.activations.QCFS(4),
    dataset="digits",
    mean=(),
    std=(),
    training=zoo.TrainingFacts("SGD along a cosine", 3, 0.1, 5e-4, 128, 0, "", 1000),
    test_images=300,
    ann_top1=97.5,
    schedules=(zoo.ScheduleAccuracy("trained thresholds", "plain", {1: 80.0, 4: 96.25}, {1: 1, 4: 4}),),
    record="zoo-digits.json",
)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.ModelCard:
    """The only trained network that there is."""
    monkeypatch.setattr(trained, "FOLDER", tmp_path / "weights")
    torch.manual_seed(0)
    network = zoo.build("digits-resnet", width=2, blocks=1).eval()
    inputs = tp.InputSpec((1, 8, 8), classes=tuple("0123456789"), dataset="digits")
    set_model_info(network, ModelInfo(model_info(network).source, inputs))
    return zoo.add(tp.tailor(network, FACTS.activation), FACTS)


def test_models_lists_it_and_shows_its_card(transpike, card: zoo.ModelCard) -> None:
    code, out, error = transpike("models")
    assert code == 0, error
    assert card.name in out
    assert "96.25" in out
    code, out, error = transpike("models", card.name)
    assert code == 0, error
    for word in ("SGD along a cosine", "digits-resnet", "zoo-digits.json", "T = 4: 96.25 % [4]", card.sha256):
        assert word in out


def test_an_unknown_one(transpike, card: zoo.ModelCard) -> None:
    code, _, error = transpike("models", "digits-qcfs")
    assert code == 1
    assert f"known: {card.name}" in error
    code, _, error = transpike("inspect", card.name[:-1])
    assert code == 1
    assert f"did you mean {card.name}" in error


def test_it_is_converted_by_name(transpike, card: zoo.ModelCard) -> None:
    code, _, error = transpike("convert", card.name, "-o", "snn.safetensors")
    assert code == 0, error
    snn, x = tp.load("snn.safetensors"), torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(snn.ann(x), zoo.load(card.name)(x))
    code, _, error = transpike("convert", card.name, "--option", "width=4", "-o", "other.safetensors")
    assert code == 1
    assert "takes no options" in error


def test_a_shipped_network_is_converted_without_its_images(
    transpike, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRANSPIKE_DATA", raising=False)
    name, output = "cifar10-resnet20-qcfs-4", tmp_path / "snn.safetensors"
    code, _, err = transpike("convert", name, "-o", output)
    assert (code, "converted without images, and checked on random numbers" in err) == (0, True)
    x = torch.rand(2, 3, 32, 32)
    snn, found = tp.convert(zoo.load(name), example_inputs=x), tp.load(output)
    assert tp.describe(output).info.inputs == model_info(zoo.load(name)).inputs
    with torch.no_grad():
        assert torch.equal(found(x, steps=2), snn(x, steps=2))
    for words in ((name, "--quantise", "8"), (name, "--dataset", "cifar10"), ("cifar10-resnet20-relu",)):
        code, _, err = transpike("convert", *words, "-o", output)
        assert (code, "the folder with cifar10 is not known" in err) == (1, True)
