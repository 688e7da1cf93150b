"""``transpike train-snn`` as a user runs it."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike.training import TETLoss


def test_help_has_an_example(transpike) -> None:
    code, out, _ = transpike("train-snn", "--help")
    assert code == 0
    assert "transpike train-snn snn.safetensors --steps 2 -o tuned.safetensors" in out
    assert "train-snn" in transpike("--help")[1]


def test_it_writes_what_python_trains(transpike, networks: Path) -> None:
    words = ("--steps", "2", "--epochs", "2", "--loss", "tet", "--tet-regulariser", "0.05", "--spike-penalty", "0.5")
    words = (*words, "--device", "cpu", "--teacher", "relu.safetensors", "-o", "tuned.safetensors")
    code, out, _ = transpike("train-snn", "snn.safetensors", *words)
    assert code == 0
    assert "operations %" in out
    assert re.search(r"kept: epoch [12], \d+\.\d\d % of the validation images at T = 2", out)
    assert not (networks / "tuned.ckpt").exists()
    snn, found = tp.load("snn.safetensors"), tp.load("tuned.safetensors")
    assert found.trained == tp.rules.ThroughTime(2, 2, "TETLoss", True, 0.5)
    teacher = tp.load_ann("relu.safetensors")
    settings = {"loss": TETLoss(0.05), "spike_penalty": 0.5, "device": "cpu"}
    tp.fit_snn(snn, tp.data.digits(), steps=2, epochs=2, teacher=teacher, **settings)
    for name, value in snn.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name
    assert transpike("evaluate", "tuned.safetensors", "--images", "20", "--steps", "2")[0] == 0


def test_memory_and_precision_are_those_of_python(transpike, networks: Path) -> None:
    words = ("--steps", "2", "--epochs", "1", "--device", "cpu", "--checkpoint-steps", "1", "--precision", "bf16-mixed")
    code, _, error = transpike("train-snn", "snn.safetensors", *words, "-o", "tuned.safetensors")
    assert code == 0, error
    snn, found = tp.load("snn.safetensors"), tp.load("tuned.safetensors")
    settings = {"precision": "bf16-mixed", "checkpoint_steps": 1, "device": "cpu"}
    tp.fit_snn(snn, tp.data.digits(), steps=2, epochs=1, **settings)
    for name, value in snn.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_batch_norm_is_that_of_python(transpike, networks: Path) -> None:
    words = ("--steps", "1", "--epochs", "1", "--device", "cpu", "--batch-norm", "tdbn")
    code, _, error = transpike("train-snn", "snn.safetensors", *words, "-o", "tuned.safetensors")
    assert code == 0, error
    snn, found = tp.load("snn.safetensors"), tp.load("tuned.safetensors")
    assert found.trained == tp.rules.ThroughTime(1, 1, "MeanLoss", True, 0.0, tp.rules.BatchNormMode.TDBN)
    tp.fit_snn(snn, tp.data.digits(), steps=1, epochs=1, batch_norm="tdbn", device="cpu")
    for name, value in snn.state_dict().items():
        assert torch.equal(value, found.state_dict()[name]), name


def test_an_interrupted_training_goes_on(transpike, networks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transpike.training import lightning_snn

    words = ("train-snn", "snn.safetensors", "-T", "1", "--epochs", "2", "--device", "cpu", "--teacher", "none")
    assert transpike(*words, "-o", "straight.safetensors")[0] == 0
    begin = lightning_snn._ThroughTime.on_train_epoch_start

    def interrupt(self) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        begin(self)

    monkeypatch.setattr(lightning_snn._ThroughTime, "on_train_epoch_start", interrupt)
    code, _, err = transpike(*words, "-o", "killed.safetensors")
    assert (code, "goes on when the same command is started again" in err) == (130, True)
    assert (networks / "killed.ckpt").exists()
    monkeypatch.undo()
    monkeypatch.chdir(networks)
    monkeypatch.setattr("sys.argv", ["transpike"])
    assert transpike(*words, "-o", "killed.safetensors")[0] == 0
    straight, resumed = (copy.deepcopy(tp.load(f"{name}.safetensors").state_dict()) for name in ("straight", "killed"))
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("qcfs.safetensors", "-T", "2"), "is not converted yet"),
        (("snn.safetensors", "-T", "0"), "--steps must be at least 1"),
        (("snn.safetensors", "-T", "2", "--loss", "ted"), "did you mean tet"),
        (
            ("snn.safetensors", "-T", "2", "--batch-norm", "tdbn", "--checkpoint-steps", "1"),
            "does not work with checkpoint_steps",
        ),
        (("snn.safetensors", "-T", "2", "--tet-regulariser", ".1"), "belongs to --loss tet"),
        (("snn.safetensors", "-T", "2", "--micro-batch", "100"), "micro_batch must divide batch_size"),
        (("snn.safetensors", "-T", "2", "--teacher", "absent.safetensors"), "no such file"),
    ],
)
def test_an_error_is_one_message(transpike, networks: Path, words: tuple[str, ...], message: str) -> None:
    code, _, err = transpike("train-snn", *words, "-o", "tuned.safetensors")
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_the_output_is_no_input(transpike, networks: Path) -> None:
    code, _, err = transpike("train-snn", "snn.safetensors", "-T", "2", "-o", "snn.safetensors")
    assert (code, "the output is a file that this command reads" in err) == (1, True)
