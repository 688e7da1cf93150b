"""Quantised networks on their way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike.errors import ExportError


@pytest.fixture
def snn() -> tp.SpikingNetwork:
    torch.manual_seed(0)
    model = tp.zoo.build("digits-resnet", width=4, blocks=1).eval()
    x = torch.rand(16, 1, 8, 8)
    return tp.quantise(tp.convert(model, tp.methods["maximum"](), calibration=x, example_inputs=x), calibration=x)


@pytest.mark.parametrize("target", ["plain", "sinabs"])
def test_nir_refuses_them_with_one_reason(snn: tp.SpikingNetwork, target: str) -> None:
    pytest.importorskip("nir")
    with pytest.raises(ExportError, match=r"for 1 reason[\s\S]*export the network that it was made from"):
        tp.to_nir(snn, target=target, steps=4)


def test_plain_pytorch_refuses_them_before_it_writes(snn: tp.SpikingNetwork, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a quantised network"):
        tp.to_torch(snn, tmp_path / "net.py")
    assert not list(tmp_path.iterdir())


def test_onnx_gives_the_same_answers(snn: tp.SpikingNetwork, tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    check = tp.to_onnx(snn, tmp_path / "step.onnx").check
    assert check is not None
    assert check.differing == 0
