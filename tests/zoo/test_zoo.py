from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import transpike as tp
from transpike import zoo
from transpike.errors import CheckpointError, ModelError

SITES = {
    "digits-resnet": 19,
    "cifar-resnet20": 19,
    "cifar-resnet20-conv": 19,
    "cifar-vgg16": 15,
    "cifar-vgg16-linear": 13,
    "cifar-resnet18": 17,
    "cifar-resnet34": 33,
    "cifarnet": 7,
    "cifar-alexnet": 7,
    "imagenet-vgg16": 15,
    "imagenet-resnet18": 17,
    "imagenet-resnet34": 33,
    "imagenet-resnet34-papers": 33,
}


@pytest.mark.parametrize("name", SITES)
def test_every_network_answers_and_converts(name: str) -> None:
    small = {"image_size": 32} if name == "imagenet-vgg16" else {}
    model = zoo.build(name, **small).eval()
    shape = (3, 32, 32) if name.startswith("imagenet") else zoo.ZOO[name].inputs.shape
    x = torch.randn(2, *shape)
    assert model(x).shape == (2, 1000 if name.startswith("imagenet") else 10)
    found = tp.inspect(model, x)
    assert found.convertible
    assert len(found.plan.sites) == SITES[name]
    assert tp.serialization.model_info.model_info(model).source.name == name


def test_no_network_is_forgotten() -> None:
    assert set(SITES) == set(zoo.ZOO)


def measure(name: str) -> tuple[int, int, int]:
    """Parameters, multiply-adds and neurons (before pooling) of one image, without computing anything."""
    with torch.device("meta"):
        model = zoo.build(name).eval()
        x = torch.empty(1, *zoo.ZOO[name].inputs.shape)
    counts = {"macs": 0, "neurons": 0}

    def layer(module, _, out) -> None:
        counts["macs"] += out[0].numel() * module.weight[0].numel()

    def neurons(_, __, out) -> None:
        counts["neurons"] += out[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(layer)
        elif isinstance(module, nn.ReLU):
            module.register_forward_hook(neurons)
    model(x)
    return sum(p.numel() for p in model.parameters()), counts["macs"], counts["neurons"]


@pytest.mark.parametrize(
    ("name", "giga_macs", "neurons"),
    # published figures of the networks; ResNet-20 calls ReLU as a function, its neurons are counted below
    [
        ("cifar-vgg16", 0.332, 284_672),
        ("cifar-resnet18", 0.555, 557_056),
        ("cifar-resnet20", 0.041, None),
        ("cifar-resnet20-conv", 0.041, None),
        ("imagenet-resnet34", 3.66, 3_562_496),
        ("imagenet-vgg16", 15.47, 13_555_712),
    ],
)
def test_multiply_adds_and_neurons(name: str, giga_macs: float, neurons: int | None) -> None:
    _, macs, found = measure(name)
    assert macs / 1e9 == pytest.approx(giga_macs, abs=0.5 * 10 ** -len(str(giga_macs).split(".")[1]))
    assert neurons in (None, found)


def test_neurons_of_resnet20() -> None:
    found = tp.inspect(zoo.build("cifar-resnet20"), torch.rand(2, 3, 32, 32))
    assert sum(site.neurons for site in found.plan.sites) == 188_416


def test_the_papers_resnet34_does_sixteen_times_the_work() -> None:
    ratio = measure("imagenet-resnet34-papers")[1] / measure("imagenet-resnet34")[1]
    assert 15 < ratio < 17


@pytest.mark.parametrize(
    ("name", "parameters"),
    # He et al. 2016, table 6: 0.27 million; by hand: convolutions 267,696 (pad), BatchNorm 1,376, linear 650;
    # the 1x1 shortcuts add 16*32 + 32*64 weights and 2*(32 + 64) BatchNorm parameters.
    # ImageNet: torchvision documents 138,365,992 (vgg16_bn), 11,689,512 (resnet18) and 21,797,672 (resnet34).
    [
        ("cifar-resnet20", 269_722),
        ("cifar-resnet20-conv", 269_722 + 512 + 2048 + 192),
        ("imagenet-vgg16", 138_365_992),
        ("imagenet-resnet18", 11_689_512),
        ("imagenet-resnet34", 21_797_672),
    ],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    assert measure(name)[0] == parameters


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (zoo.VGG16, {"head": "deep"}),
        (zoo.VGG16, {"image_size": 40}),
        (zoo.ResNet, {"depth": 50}),
        (zoo.ResNet, {"stem": "x"}),
    ],
)
def test_wrong_options(cls, wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cls(**wrong)


def test_options_are_checked_and_kept() -> None:
    model = zoo.build("digits-resnet", width=4, blocks=1)
    assert tp.serialization.model_info.model_info(model).source.options == {"width": 4, "blocks": 1}
    with pytest.raises(ModelError, match="refuses its options"):
        zoo.build("digits-resnet", depth=3)
    with pytest.raises(ModelError, match="'pad' or 'conv'"):
        zoo.build("cifar-resnet20", shortcut="B")
    with pytest.raises(ModelError, match=r"known: digits-resnet, cifar-resnet20, .*cifar-alexnet"):
        zoo.build("lenet")


def test_load_weights_looks_through_wrappers(tmp_path: Path) -> None:
    source, target = zoo.build("digits-resnet", width=2, blocks=1), zoo.build("digits-resnet", width=2, blocks=1)
    state = source.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "a.th")
    zoo.load_weights(target, tmp_path / "a.th")
    assert all(torch.equal(v, target.state_dict()[k]) for k, v in state.items())
    save_file(state, str(tmp_path / "b.safetensors"))
    zoo.load_weights(target, tmp_path / "b.safetensors")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_load_weights_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = zoo.build("digits-resnet", width=2, blocks=1)
    with pytest.raises(CheckpointError, match="no such file"):
        zoo.load_weights(model, tmp_path / "absent.pt")
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        zoo.load_weights(model, tmp_path / "evil.pt")
    assert "executed" not in capsys.readouterr().out
    (tmp_path / "half.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        zoo.load_weights(model, tmp_path / "half.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        zoo.load_weights(model, tmp_path / "list.pt")
    torch.save(zoo.build("digits-resnet", width=4, blocks=1).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="do not fit"):
        zoo.load_weights(model, tmp_path / "other.pt")
