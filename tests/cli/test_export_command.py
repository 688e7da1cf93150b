"""``transpike export`` as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike.cli.export import EXPORTS
from transpike.interop import NIR_TARGETS

nir = pytest.importorskip("nir")


def test_help_lists_the_table(transpike) -> None:
    code, out, _ = transpike("export", "--help")
    assert code == 0
    assert "transpike export snn.safetensors -o net.nir --target sinabs" in " ".join(out.split())
    assert set(NIR_TARGETS) <= set(EXPORTS)
    for name in EXPORTS:
        assert name in out


def test_with_images(transpike, networks: Path) -> None:
    words = ("--target", "sinabs", "-T", "4", "--dataset", "digits", "--images", "60", "--samples", "3")
    code, out, err = transpike("export", "snn.safetensors", "-o", "net.nir", *words)
    assert code == 0
    for part in (
        "60 test images of digits",
        "accuracy %",
        "several spikes per step",
        "written: net.nir, net.samples.nir",
    ):
        assert part in out
    assert "the file is made for T = 4" in err
    snn = tp.load("snn.safetensors")
    x = torch.rand(2, *snn.capture.input_shapes[0])
    assert torch.equal(tp.from_nir("net.nir")(x, steps=4), snn(x, steps=4))
    assert nir.read_data("net.samples.nir").nodes["input"].observables["current"].data.shape[:2] == (3, 4)


def test_without_images_it_says_so(transpike, networks: Path) -> None:
    code, out, _ = transpike("export", "snn.safetensors", "-o", "net.nir", "--no-source", "-T", "3")
    assert code == 0
    assert "16 random inputs (name images with --dataset)" in out
    assert "accuracy %" not in out
    assert "100.00" in out
    assert not Path("net.samples.nir").exists()
    assert "layers" not in nir.read("net.nir").metadata["transpike"]


def test_refusals(transpike, networks: Path) -> None:
    code, _, err = transpike("export", "snn.safetensors", "-o", "net.nir", "--target", "sinaps")
    assert code == 1
    assert "did you mean sinabs" in err
    code, _, err = transpike("export", "snn.safetensors", "-o", "net.onnx", "--target", "norse")
    assert code == 1
    assert "-o net.nir" in err
    assert (
        transpike("convert", "relu.safetensors", "--method", "accumulate", "-T", "4", "-o", "acc.safetensors")[0] == 0
    )
    code, _, err = transpike("export", "acc.safetensors", "-o", "net.nir")
    assert code == 1
    assert "nothing is written" in err
    assert not list(Path().glob("*.nir"))


def test_a_python_file(transpike, networks: Path) -> None:
    code, out, err = transpike("export", "snn.safetensors", "-o", "net.py", "--target", "pytorch")
    assert code == 0, err
    assert "net.weights.safetensors" in out
    x = torch.rand(2, *tp.load("snn.safetensors").capture.input_shapes[0])
    program = f"import torch, net; torch.save(net.load()(torch.tensor({x.tolist()}), steps=3), 'answer.pt')"
    subprocess.run([sys.executable, "-c", program], check=True)
    torch.testing.assert_close(torch.load("answer.pt"), tp.load("snn.safetensors")(x, steps=3))
    code, _, err = transpike("export", "snn.safetensors", "-o", "net.py", "--target", "pytorch", "--samples", "2")
    assert code == 1
    assert "--samples" in err


def test_onnx_files(transpike, networks: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    code, out, err = transpike("export", "snn.safetensors", "-o", "step.onnx", "--target", "onnx-step")
    assert code == 0, err
    assert "step.onnx" in out
    transpike("convert", "relu.safetensors", "--method", "accumulate", "-T", "4", "-o", "acc.safetensors")
    for form in ("quantised", "staircase"):
        code, out, err = transpike("export", "acc.safetensors", "-o", f"{form}.onnx", "--target", f"onnx-{form}")
        assert code == 0, err
        assert Path(f"{form}.onnx").exists()
    code, _, err = transpike("export", "snn.safetensors", "-o", "no.onnx", "--target", "onnx-quantised")
    assert code == 1
    assert "AccumulateThenFire" in err
    assert not Path("no.onnx").exists()
