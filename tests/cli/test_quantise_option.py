"""``transpike convert --quantise``."""

from __future__ import annotations

from pathlib import Path

import torch

import transpike as tp
from transpike import zoo
from transpike.kernels import KernelPreference


def test_convert_quantises(transpike, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tp.save(zoo.build("digits-resnet"), tmp_path / "ann.safetensors")
    words = ["convert", "ann.safetensors", "--method", "accumulate", "--steps", "4", "--dataset", "digits"]
    code, out, _ = transpike(*words, "--quantise", "6:fraction=2", "-o", "snn.safetensors")
    assert code == 0
    assert "quantised to int6" in out
    snn = tp.load(tmp_path / "snn.safetensors")
    assert snn.conversion.quantise == tp.Quantisation(6, fraction=2)
    x = torch.rand(4, *snn.capture.input_shapes[0])
    assert torch.equal(snn(x, steps=4), snn(x, steps=4, kernel=KernelPreference.REFERENCE))
    code, _, err = transpike(*words, "--quantise", "9", "-o", "snn.safetensors")
    assert code != 0
    assert "bits must be a whole number from 2 to 8" in err
