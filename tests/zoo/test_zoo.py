from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import transpike as tp
from transpike import zoo
from transpike.errors import CheckpointError, ModelError


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_network_answers_and_converts(name: str) -> None:
    model = zoo.build(name).eval()
    x = torch.randn(2, *zoo.ZOO[name].inputs.shape)
    assert model(x).shape == (2, 10)
    found = tp.inspect(model, x)
    assert found.convertible
    assert len(found.plan.sites) == 19
    assert tp.card_of(model).source.name == name


@pytest.mark.parametrize(
    ("name", "parameters"),
    # He et al. 2016, table 6: 0.27 million; by hand: convolutions 267,696 (pad), BatchNorm 1,376, linear 650;
    # the 1x1 shortcuts add 16*32 + 32*64 weights and 2*(32 + 64) BatchNorm parameters
    [("cifar-resnet20", 269_722), ("cifar-resnet20-conv", 269_722 + 512 + 2048 + 192)],
)
def test_parameter_counts(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in zoo.build(name).parameters()) == parameters


def test_options_are_checked_and_kept() -> None:
    model = zoo.build("digits-resnet", width=4, blocks=1)
    assert tp.card_of(model).source.options == {"width": 4, "blocks": 1}
    with pytest.raises(ModelError, match="refuses its options"):
        zoo.build("digits-resnet", depth=3)
    with pytest.raises(ModelError, match="'pad' or 'conv'"):
        zoo.build("cifar-resnet20", shortcut="B")
    with pytest.raises(ModelError, match="known: cifar-resnet20"):
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
