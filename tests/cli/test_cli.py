"""The program as a user runs it: in a process of its own, in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import transpike as tp
from transpike.cli.options import Rule
from transpike.rules import THRESHOLD_RULES


def test_the_installed_program() -> None:
    program = Path(sys.executable).parent / "transpike"
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("transpike 0.")


@pytest.mark.parametrize("command", ["inspect", "train", "convert", "evaluate", "compare", "run"])
def test_every_help_has_an_example(transpike, command: str) -> None:
    code, out, _ = transpike(command, "--help")
    assert code == 0
    assert f"transpike {command}" in out
    assert "Example" in out


def test_every_threshold_rule_has_its_word() -> None:
    assert {rule.value for rule in Rule} == set(THRESHOLD_RULES)


def test_from_training_to_evaluation(transpike, tmp_path: Path) -> None:
    small = ("--option", "width=2", "--option", "blocks=1", "--epochs", "2", "--learning-rate", "0.05")
    code, out, err = transpike("train", "digits-resnet", "-o", "relu.safetensors", *small)
    assert (code, err) == (0, "")
    assert "validation" in out
    code, out, _ = transpike(
        "train", "relu.safetensors", "--activation", "slip", "--levels", "2", "--epochs", "1", "-o", "slip.safetensors"
    )
    assert code == 0
    assert "stem.2" in out  # what was replaced, and where
    assert "zoo/digits.py" in out
    norm = ("--activation", "rate-norm", "--theta-percentile", "100", "--epochs", "1", "-o", "norm.safetensors")
    code, out, _ = transpike("train", "relu.safetensors", *norm)
    assert code == 0
    assert "RateNorm(" in out
    code, out, _ = transpike("convert", "slip.safetensors", "-o", "snn.safetensors")
    assert code == 0
    assert "7 sites" in out
    code, out, _ = transpike(
        *("evaluate", "snn.safetensors", "-T", "4", "--images", "60", "--sites", "--plot", "a.png", "--cache", "c.json")
    )
    assert code == 0
    assert "60 images" in out
    assert "pipeline" in out
    assert "stages.0.relu@1" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    few = ("-T", "2", "--images", "40", "--schedules", "plain,cos:2,accumulate")
    longer = ("--long-steps", "5", "--long-images", "20")
    code, out, _ = transpike("compare", "snn.safetensors", *few, *longer, "-o", "cmp")
    assert code == 0
    assert "cos:2" in out
    assert "[58]" in out  # two iterations of 4 steps at 7 sites, and T = 2
    assert (tmp_path / "cmp" / "latency.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads((tmp_path / "cmp" / "comparison.json").read_text())) == {"plain", "cos:2", "accumulate"}
    assert "40 images" in out
    assert "20 images" in out
    long = json.loads((tmp_path / "cmp" / "comparison-long.json").read_text())
    assert [len(report["rows"]) for report in long.values()] == [5, 5, 5]
    code, _, err = transpike("evaluate", "snn.safetensors", "--schedule", "fast")
    assert code == 1
    assert "known: plain, residual, cos" in err
    code, out, _ = transpike("evaluate", "snn.safetensors", "--schedule", "cos", "-T", "1", "--images", "20")
    assert code == 0
    assert "OffsetSpike" in out
    code, out, _ = transpike(
        "convert", "relu.safetensors", "--threshold", "maximum", "--per", "layer", "-o", "r.safetensors"
    )
    assert code == 0
    assert "7 sites" in out
    few = ("--threshold", "percentile", "--neuron")
    code, out, _ = transpike("convert", "relu.safetensors", *few, "burst", "-o", "burst.safetensors")
    assert code == 0
    assert "Burst(gamma=5)" in out
    assert tp.load("burst.safetensors").neuron == tp.neurons.Burst()
    code, _, err = transpike("convert", "slip.safetensors", "--neuron", "burst", "-o", "no.safetensors")
    assert code == 1
    assert "stops at theta" in err
    code, out, _ = transpike("convert", "slip.safetensors", "--neuron", "signed", "-o", "signed.safetensors")
    assert code == 0
    code, out, _ = transpike("evaluate", "signed.safetensors", "-T", "2", "--images", "20")
    assert code == 0
    assert "20 images" in out
    spikes = ("--threshold", "minimum-mse", "-T", "8", "--per", "channel", "--calibration-images", "32")
    code, out, _ = transpike("convert", "relu.safetensors", *spikes, "-o", "r.safetensors")
    assert code == 0
    assert tp.load("r.safetensors").conversion.parts == (tp.rules.MinimumMSE(8, tp.PerChannel()),)
    for words, message in (
        (("--threshold", "spike-norm", "--fraction", "0.8"), "'spike-norm' needs steps"),
        (("--threshold", "maximum", "-T", "8"), "'maximum' has no 'steps'"),
        (("-T", "8"), "--steps belongs to a threshold rule"),
    ):
        code, _, err = transpike("convert", "relu.safetensors", *words, "-o", "r.safetensors")
        assert code == 1
        assert message in err
    random = ("--potential", "random", "--seed", "5")
    code, out, _ = transpike("convert", "slip.safetensors", *random, "-o", "random.safetensors")
    assert code == 0
    snn = tp.load("random.safetensors")
    assert snn.conversion.parts == (tp.rules.RandomPotential(5),)
    assert snn.site("stem.2").v_init.shape == (2, 8, 8)
    code, out, _ = transpike("evaluate", "random.safetensors", "-T", "2", "--images", "20")
    assert code == 0
    assert "20 images" in out
    corrected = ("--calibrate", "potential", "--calibrate", "bias", "--steps", "2", "--calibration-images", "40")
    code, out, _ = transpike("convert", "slip.safetensors", *corrected, "-o", "corrected.safetensors")
    assert code == 0
    snn = tp.load("corrected.safetensors")
    assert snn.conversion.parts == (tp.rules.PotentialCorrection(2), tp.rules.BiasCorrection(2))
    assert snn.site("stem.2").v_init.shape == (2, 8, 8)
    assert snn.site("stem.2").bias.shape == (1, 2, 1, 1)
    code, _, err = transpike("convert", "slip.safetensors", *corrected[:5], "0", "-o", "corrected.safetensors")
    assert code == 1
    assert "steps must be at least 1, got 0" in err
    words = ("--threshold", "percentile", "--percentile", "99", *corrected, "-o", "corrected.safetensors")
    code, _, _ = transpike("convert", "relu.safetensors", *words)
    assert code == 0
    parts = tp.load("corrected.safetensors").conversion.parts
    assert parts == (
        tp.rules.Percentile(99.0, tp.PerChannel()),
        tp.rules.PotentialCorrection(2),
        tp.rules.BiasCorrection(2),
    )
    code, _, err = transpike("convert", "slip.safetensors", "--calibrate", "bias", "-o", "corrected.safetensors")
    assert code == 1
    assert "--calibrate needs --steps" in err
    few = ("-T", "4", "--images", "60", "--early-exit")
    code, out, _ = transpike("evaluate", "snn.safetensors", *few, "auto", "--calibration-images", "80")
    assert code == 0
    assert "chosen on 80 held-back training images" in out
    assert "early exit, 60 images" in out
    assert "mean pipeline" in out
    code, out, _ = transpike("evaluate", "snn.safetensors", *few, "0")
    assert code == 0
    counts = [line.split() for line in out.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"], ["4"])]
    assert counts == [["1", "60"], ["2", "0"], ["3", "0"], ["4", "0"]]  # at confidence 0 all stop after one step
    code, out, _ = transpike("evaluate", "snn.safetensors", *few, "0.5", "--schedule", "cos")
    assert code == 0
    assert "cannot stream" in out
    for words, message in (
        (("surely",), "a confidence in [0, 1] or auto, not 'surely'"),
        (("1.5",), "a probability in [0, 1], got 1.5"),
        (("0.5", "--sites"), "leave them out with --early-exit"),
        (("0.5", "--readout-delay", "2"), "leave them out with --early-exit"),
    ):
        code, _, err = transpike("evaluate", "snn.safetensors", *few, *words)
        assert code == 1
        assert message in err
    late = ("evaluate", "snn.safetensors", "-T", "8", "--images", "60", "--readout-delay")
    code, out, _ = transpike(*late, "auto", "--calibration-images", "80")
    assert code == 0
    assert "readout after" in out
    code, _, err = transpike(*late, "soon")
    assert code == 1
    assert "--readout-delay takes a number of steps or auto, not 'soon'" in err


def test_inspect(transpike) -> None:
    code, out, _ = transpike("inspect", "digits-resnet")
    assert code == 0
    assert "19 sites" in out
    assert "converts" in out
    code, out, _ = transpike("inspect", "torchvision.models:efficientnet_b0", "--input-shape", "3,32,32")
    assert code == 1
    assert "SiLU" in out
    assert "torchvision/" in out
    assert "fix:" in out


def test_own_factory_in_the_current_folder(transpike, tmp_path: Path) -> None:
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "def net(width=4):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))\n"
        "def number():\n"
        "    return 3\n"
    )
    code, out, _ = transpike("inspect", "my_models:net", "--input-shape", "1x8x8", "--option", "width=6")
    assert code == 0
    assert " 6 " in out
    code, _, err = transpike("convert", "my_models:net", "--threshold", "percentile", "-o", "own.safetensors")
    assert code == 1
    assert "pass --dataset" in err
    direct = ("--threshold", "percentile", "--dataset", "digits", "-o", "own.safetensors")
    code, _, _ = transpike("convert", "my_models:net", *direct)
    assert code == 0
    code, out, _ = transpike("evaluate", "own.safetensors", "--model", "my_models:net", "-T", "2", "--images", "10")
    assert code == 0
    assert "10 images" in out
    assert transpike("evaluate", "own.safetensors")[0] == 1
    words = ("--dataset", "digits", "--epochs", "1", "-o", "trained.safetensors")
    code, _, err = transpike("train", "my_models:net", *words)
    assert (code, err) == (0, "")
    words = ("--model", "my_models:net", "--dataset", "digits", "-o")
    code, _, err = transpike(
        "train", "trained.safetensors", "--activation", "qcfs", "--epochs", "1", *words, "q.safetensors"
    )
    assert (code, err) == (0, "")
    code, out, err = transpike("convert", "q.safetensors", *words, "q-snn.safetensors")
    assert (code, err) == (0, "")
    assert "1 sites" in out
    for wrong, message in (
        ("my_models:absent", "has no 'absent'"),
        ("my_models:number", "returned a int"),
        ("not_there:net", "cannot import not_there"),
    ):
        code, _, err = transpike("inspect", wrong, "--input-shape", "1,8,8")
        assert code == 1
        assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "lenet"), "neither a built-in network, a file nor package.module:factory"),
        (("inspect", "torchvision.models:resnet18"), "--input-shape"),
        (("inspect", "torchvision.models:resnet18", "--input-shape", "3,x"), "is no shape"),
        (("inspect", "digits-resnet", "--option", "width"), "--option name=value"),
        (("inspect", "digits-resnet", "--option", "depth=2"), "refuses its options"),
        (("inspect", "digits-resnet", "--leave", "softmax"), "leave names no operator"),
        (("convert", "digits-resnet", "-o", "x.safetensors"), "a plain ReLU has no threshold"),
        (("evaluate", "absent.safetensors"), "no such file"),
        (("train", "digits-resnet", "-o", "/proc/nowhere/x.safetensors"), "the output cannot be written"),
        (("run", "nothing"), "cifar10-vgg16-qcfs, digits; or a"),
        (("train", "digits-resnet", "-o", "x.safetensors", "--dataset", "cifar10"), "TRANSPIKE_DATA"),
        (("train", "digits-resnet", "-o", "x.safetensors", "--activation", "slip", "--levels", "0"), "levels (N)"),
    ],
)
def test_an_error_is_one_message(transpike, monkeypatch: pytest.MonkeyPatch, words, message: str) -> None:
    monkeypatch.delenv("TRANSPIKE_DATA", raising=False)
    code, _, err = transpike(*words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert err.startswith("error:")
    assert "Traceback" in transpike("--debug", *words)[2]


def test_run_list(transpike) -> None:
    code, out, _ = transpike("run", "--list")
    assert code == 0
    assert "digits" in out
    assert "cifar10-resnet20-relu" in out
