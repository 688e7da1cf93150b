"""ONNX files on the command line."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import transpike as tp

pytest.importorskip("onnx")
pytest.importorskip("onnx2torch")


class OfOneImage(nn.Module):
    """A reshape that holds the number of samples it was exported with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(1, 2, 3), nn.Linear(72, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.conv(x).relu().reshape(x.shape[0], 2, 36).flatten(1))


def _export(model: nn.Module, name: str, *, dynamic: bool) -> None:
    axes = {"dynamic_axes": {"image": {0: "batch"}}} if dynamic else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (torch.randn(1, 1, 8, 8),), name, input_names=["image"], dynamo=False, **axes)


def test_inspect_knows_the_shape_from_the_file(transpike, tmp_path: Path) -> None:
    _export(OfOneImage(), "net.onnx", dynamic=True)
    code, out, err = transpike("inspect", "net.onnx")
    assert code == 0, err
    assert "1 site" in out
    assert "Relu" in out


def test_a_fixed_batch_is_refused_with_its_node(transpike, tmp_path: Path) -> None:
    _export(OfOneImage(), "net.onnx", dynamic=False)
    code, _, err = transpike("inspect", "net.onnx")
    assert code != 0
    assert "node '/Reshape' (Reshape)" in err
    assert "dynamic_axes" in err


def test_options_and_missing_files(transpike) -> None:
    code, _, err = transpike("inspect", "none.onnx")
    assert code != 0
    assert "there is no such file" in err
    code, _, err = transpike("inspect", "none.onnx", "--option", "width=8")
    assert code != 0
    assert "takes no options" in err


def test_convert_and_evaluate_answer_like_the_network_itself(transpike, networks: Path) -> None:
    """The same weights by both ways, so the same table."""
    _export(tp.load_ann("relu.safetensors"), "relu.onnx", dynamic=True)
    tables = []
    for name, more in (("relu.safetensors", ()), ("relu.onnx", ("--model", "relu.onnx"))):
        code, _, err = transpike("convert", name, "--dataset", "digits", "--method", "digits", "--steps", "6", "-o",
                                 f"{name}.snn")  # fmt: skip
        assert code == 0, err
        code, out, err = transpike("evaluate", f"{name}.snn", *more, "--dataset", "digits", "--steps", "6")
        assert code == 0, err
        tables.append([line for line in out.splitlines() if "%" in line])
    assert tables[0] == tables[1] != []
