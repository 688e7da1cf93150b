"""The program as a user calls it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike import zoo
from transpike.calibration import progress
from transpike.cli.main import main
from transpike.data import load_data


@pytest.fixture
def transpike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the program in an empty folder; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "_EVERY", float("inf"))  # on a slow machine, too, standard error is empty

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transpike", *words])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return int(code or 0), found.out, found.err

    return call


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small digits networks: plain ReLU and QCFS, a little trained, and the latter converted."""
    folder = tmp_path_factory.mktemp("networks")
    data = load_data("digits")
    torch.manual_seed(0)
    relu = zoo.build("digits-resnet", width=2, blocks=1)
    qcfs = tp.tailor(relu, tp.activations.QCFS(4, theta_init=2.0))
    for network, name in ((relu, "relu"), (qcfs, "qcfs")):
        tp.fit(network, data, epochs=2, learning_rate=0.05, device="cpu")
        tp.save(network, folder / f"{name}.safetensors", inputs=data.inputs)
    snn = tp.convert(qcfs, example_inputs=torch.stack([data.test[index][0] for index in range(4)]))
    tp.save(snn, folder / "snn.safetensors", inputs=data.inputs)
    return folder


@pytest.fixture
def networks(written: Path, tmp_path: Path) -> Path:
    """relu, qcfs and snn.safetensors in the current folder."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path
