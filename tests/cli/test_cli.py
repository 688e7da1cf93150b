"""The program as a user runs it, in an empty folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import transpike as tp
from transpike.conversion.config import TABLES

COMMANDS = [
    *(
        "models",
        "inspect",
        "train",
        "convert",
        "choose",
        "evaluate",
        "evaluate-early",
        "report",
        "bench",
        "run",
        "sweep",
        "doctor",
    ),
    *("compare schedules", "compare methods", "analyze activation", "analyze error", "analyze offset"),
]


def test_the_installed_program() -> None:
    program = Path(sys.executable).parent / "transpike"
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("transpike 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(transpike, command: str) -> None:
    code, out, _ = transpike(*command.split(), "--help")
    assert code == 0
    assert f"transpike {command}" in out
    assert "Example" in out


def test_the_help_names_what_the_tables_hold(transpike, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    _, out, _ = transpike("convert", "--help")
    words = " ".join(out.replace("│", " ").split())
    for kind in ("threshold", "potential", "corrections", "neuron", "schedule"):
        assert ", ".join(TABLES[kind]) in words


def test_a_new_rule_is_one_row_of_the_table(tmp_path: Path, networks) -> None:
    (tmp_path / "toy.py").write_text(
        "import sys\n"
        "from dataclasses import dataclass, field\n"
        "from transpike.rules import THRESHOLD_RULES, Maximum\n"
        "@dataclass(frozen=True)\n"
        "class Toy(Maximum):\n"
        "    toyness: int = 1\n"
        "THRESHOLD_RULES['toy'] = Toy\n"
        "from transpike.cli import main\n"
        "main()\n"
    )
    words = ("convert", "relu.safetensors", "--threshold", "toy:toyness=3", "-o", "snn.safetensors")
    for arguments, wanted in ((words, "threshold toy (per layer, toyness 3)"), (("convert", "--help"), "toy.")):
        done = subprocess.run(
            [sys.executable, "toy.py", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, done.stderr
        assert wanted in " ".join(done.stdout.replace("│", " ").split())


def test_train(transpike, tmp_path: Path) -> None:
    small = ("--option", "width=2", "--option", "blocks=1", "--epochs", "1", "--learning-rate", "0.05")
    code, out, err = transpike("train", "digits-resnet", "-o", "relu.safetensors", *small)
    assert (code, err) == (0, "")
    assert "validation" in out
    assert "\n\n\n" not in out
    train = ("train", "relu.safetensors", "--epochs", "1", "--activation")
    slip = ("--levels", "2", "--shift", "0.25", "--ramp-shift", "0.1", "--gradient", "paper")
    code, out, _ = transpike(*train, "slip", *slip, "-o", "slip.safetensors")
    assert code == 0
    assert "stem.2" in out  # what was replaced, and where
    assert "architectures/digits.py" in out
    assert "slip (levels 2, slope 0.3, shift 0.25, ramp shift 0.1, gradient paper)" in out
    assert "type: ignore" not in out
    code, out, _ = transpike(*train, "rate-norm", "--theta-percentile", "100", "-o", "norm.safetensors")
    assert code == 0
    assert "rate-norm (momentum 0.1, theta percentile" in out
    learned = ("--steps", "1,3", "--objective-weight", "0.2", "--objective-penalty", "1")
    code, out, _ = transpike(*train, "learned-slip", *learned, "-o", "learned.safetensors")
    assert code == 0
    assert "learned-slip (steps 1, 3, objective weight 0.2, objective penalty 1)" in out
    assert len(re.findall(r"stages\.\S+ +\d, 0\.\d\d +\d, 0\.\d\d", out)) == 6  # N, c for both T at each site
    for words, message in (
        (("rate-norm", "--levels", "3"), "rate-norm does not take all of --levels"),
        (("slipp",), "did you mean slip?"),
        (("slip", "--levels", "0"), "levels (N)"),
    ):
        code, _, err = transpike(*train, *words, "-o", "x.safetensors")
        assert code == 1
        assert message in err
    taught = ("--teacher", "relu.safetensors", "--temperature", "3", "--distillation", "1", "--optimizer", "adam")
    code, out, _ = transpike(*train, "slip", *slip, *taught, "-o", "taught.safetensors")
    assert code == 0
    weights = [
        tp.load_ann(tmp_path / name).state_dict()["stem.0.weight"]
        for name in ("slip.safetensors", "taught.safetensors")
    ]
    assert not torch.equal(*weights)
    code, _, err = transpike(*train, "slip", "--temperature", "3", "-o", "x.safetensors")
    assert code == 1
    assert "--temperature belongs to --teacher" in err
    code, _, err = transpike("train", "relu.safetensors", "--slope", "0.5", "-o", "x.safetensors")
    assert code == 1
    assert "--slope belongs to --activation" in err
    assert not list(tmp_path.glob("*.ckpt"))  # finished, so there is nothing to go on from


def converted(transpike, *words: str) -> tp.SpikingNetwork:
    """The network that these words make, converted without a complaint; no Python is printed."""
    code, out, err = transpike("convert", *words, "--calibration-images", "40", "-o", "made.safetensors")
    assert (code, err) == (0, "")
    assert "7 sites" in out
    assert max(map(len, out.splitlines())) <= 200
    assert "next: transpike evaluate made.safetensors" in out
    snn = tp.load("made.safetensors")
    assert f"conversion: {snn.conversion}\n" in out
    assert "=<" not in out
    assert "()" not in out.replace("forward()", "").split("conversion:")[1]
    return snn


def test_convert_by_parts(transpike, networks) -> None:
    rules, channel = tp.rules, tp.PerChannel()
    both = ("--correction", "potential", "--correction", "bias")
    assert converted(transpike, "qcfs.safetensors").conversion == tp.Conversion()
    # a plain ReLU network takes the stated default
    assert converted(transpike, "relu.safetensors").conversion.threshold == rules.Percentile(99.9, channel)
    for words, parts in (
        (("--threshold", "maximum", "--per", "layer"), (rules.Maximum(),)),
        (("--threshold", "minimum-mse", "-T", "8"), (rules.MinimumMSE(8),)),
        (("--threshold", "spike-norm:fraction=0.8:steps=4:per=channel"), (rules.SpikeNorm(4, 0.8, channel),)),
        (
            ("--per", "channel", "--percentile", "99", "--threshold", "percentile", *both, "-T", "2"),
            (rules.Percentile(99.0, channel), rules.PotentialCorrection(2), rules.BiasCorrection(2)),
        ),
    ):
        assert converted(transpike, "relu.safetensors", *words).conversion.parts == parts
    snn = converted(transpike, "relu.safetensors", "--neuron", "burst:gamma=3", "--schedule", "plain")
    assert snn.neuron == tp.neurons.Burst(3)
    snn = converted(transpike, "relu.safetensors", "--schedule", "accumulate", "--probe-steps", "3")
    assert snn.schedule == tp.schedules.AccumulateThenFire(3)
    snn = converted(transpike, "relu.safetensors", "--schedule", "accumulate", "--correction", "bias", "-T", "2")
    assert snn.schedule == tp.schedules.AccumulateThenFire(2)
    snn = converted(transpike, "qcfs.safetensors", "--potential", "random", "--seed", "5")
    assert snn.conversion.parts == (rules.RandomPotential(5),)
    assert snn.site("stem.2").v_init.shape == (2, 8, 8)
    snn = converted(transpike, "qcfs.safetensors", *both, "-T", "2")
    assert snn.conversion.parts == (rules.PotentialCorrection(2), rules.BiasCorrection(2))
    assert snn.site("stem.2").v_init.shape == (2, 8, 8)
    assert snn.site("stem.2").bias.shape == (1, 2, 1, 1)
    assert converted(transpike, "qcfs.safetensors", "--neuron", "signed").neuron == tp.neurons.SignedIF()
    converted(transpike, "relu.safetensors", "--correction", "reconstruction", "-T", "2")
    code, out, err = transpike("evaluate", "made.safetensors", "-T", "2", "--images", "20")
    assert (code, err) == (0, "")
    assert "the weights that reconstruction (steps 2) changed" in out


def test_convert_by_a_method_or_a_file(transpike, networks, tmp_path: Path) -> None:
    snn = converted(transpike, "relu.safetensors", "--method", "accumulate", "--steps", "2")
    assert snn.conversion == tp.methods["accumulate"](2)
    assert converted(transpike, "relu.safetensors", "--method", "snm").conversion == tp.methods["snm"](1)
    (tmp_path / "own.toml").write_text('neuron = "signed"\n[threshold]\nname = "percentile"\nper = "channel"\n')
    wanted = tp.Conversion(tp.rules.Percentile(99.9, tp.PerChannel()), neuron=tp.neurons.SignedIF())
    assert converted(transpike, "relu.safetensors", "--config", "own.toml").conversion == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("relu", "--threshold", "spike-norm"), "spike-norm needs steps"),
        (("relu", "--threshold", "maximum", "-T", "8"), "steps sets nothing here"),
        (("relu", "-T", "8"), "steps sets nothing here"),
        (("relu", "--percentile", "99"), "--percentile sets nothing here"),
        (("relu", "--threshold", "percentle"), "did you mean percentile?"),
        (("relu", "--threshold", "percentile:9"), "write percentile:setting=value"),
        (("relu", "--method", "accumulate"), "pass --steps"),
        (("relu", "--method", "acumulate", "-T", "2"), "did you mean accumulate"),
        (("relu", "--method", "cos", "--threshold", "maximum"), "--method sets everything, but --threshold"),
        (("relu", "--config", "absent.toml"), "there is no such file"),
        (("qcfs", "--neuron", "burst"), "stops at theta"),
        (("qcfs", "--threshold", "maximum"), "leave --threshold out"),
        (("qcfs", "--correction", "bias"), "pass --steps"),
        (("qcfs", "--correction", "bias", "-T", "0"), "steps must be at least 1, got 0"),
        (("relu", "--leave", "softmax"), "leave names no operator"),
    ],
)
def test_conversions_that_cannot_be(transpike, networks, words, message: str) -> None:
    network, *options = words
    code, _, err = transpike("convert", f"{network}.safetensors", *options, "-o", "no.safetensors")
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def test_evaluate(transpike, networks, tmp_path: Path) -> None:
    few = ("evaluate", "snn.safetensors", "-T", "4", "--images", "60")
    code, out, err = transpike(*few, "--sites", "--plot", "a.png", "--cache", "c.json")
    assert (code, err) == (0, "")
    assert "60 images" in out
    assert "pipeline: from the first input" in out
    assert "stages.0.relu@1" in out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = transpike(*few, "--schedule", "fast")
    assert code == 1
    assert "known: plain, residual, cos" in err
    code, out, _ = transpike(*few, "--schedule", "cos:iterations=2", "--probe-steps", "3")
    assert code == 0
    assert "cos (probe steps 3, iterations 2)" in out
    code, out, _ = transpike(*few, "--readout-delay", "auto", "--calibration-images", "80")
    assert code == 0
    assert "readout after" in out
    code, _, err = transpike(*few, "--readout-delay", "soon")
    assert code == 1
    assert "--readout-delay takes a number of steps or auto, not 'soon'" in err


def test_wrong_words_are_refused_before_the_network_is_loaded(transpike) -> None:
    for words, message in (
        (("--steps", "0"), "--steps must be at least 1, got 0"),
        (("--images", "some"), "not 'some'"),
        (("--dataset", "digit"), "did you mean digits"),
    ):
        for command in (("evaluate",), ("evaluate-early",), ("compare", "schedules"), ("compare", "methods")):
            code, _, err = transpike(*command, "absent.safetensors", *words)
            assert code == 1
            assert message in err, command


def test_more_images_than_there_are(transpike, networks) -> None:
    code, _, err = transpike("evaluate", "snn.safetensors", "-T", "1", "--images", "1000")
    assert code == 0
    assert "359 test images, fewer than 1,000: all are taken" in err


def test_methods_side_by_side_are_shown_as_they_finish(transpike, networks) -> None:
    few = ("compare", "methods", "relu.safetensors", "-T", "1", "--images", "40", "--calibration-images", "40")
    code, out, err = transpike(*few, "--methods", "opi,percentile")
    assert (code, err) == (0, "")
    assert "opi, 1 of 2: T=1 " in out
    assert "percentile, 2 of 2: T=1 " in out


def test_ctrl_c_says_what_goes_on(transpike, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transpike.cli.find_model.find_model", stop)
    code, _, err = transpike("inspect", "digits-resnet")
    assert code == 130
    assert "goes on when the same command is started again" in err


def test_early_exit(transpike, networks) -> None:
    few = ("evaluate-early", "snn.safetensors", "-T", "4", "--images", "60", "--confidence")
    code, out, err = transpike(*few, "auto", "--calibration-images", "80")
    assert code == 0
    assert "chosen on 80 held-back training images" in out
    assert "80 images say little" in err
    assert "early exit, 60 images" in out
    assert "mean pipeline" in out
    code, out, _ = transpike(*few, "0")
    assert code == 0
    counts = [line.split() for line in out.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"], ["4"])]
    assert counts == [["1", "60"], ["2", "0"], ["3", "0"], ["4", "0"]]  # at confidence 0 all stop after one step
    code, out, _ = transpike(*few, "0.5", "--schedule", "cos")
    assert code == 0
    assert "cannot stream" in out
    for word, message in (
        ("surely", "a confidence in [0, 1] or auto, not 'surely'"),
        ("1.5", "a probability in [0, 1], got 1.5"),
    ):
        code, _, err = transpike(*few, word)
        assert code == 1
        assert message in err


def test_schedules_side_by_side(transpike, networks, tmp_path: Path) -> None:
    few = ("compare", "schedules", "snn.safetensors", "-T", "2", "--images", "40", "-o", "cmp", "--schedules")
    longer = ("--long-steps", "5", "--long-images", "20")
    code, out, err = transpike(*few, "plain,cos:iterations=2,accumulate", *longer)
    assert (code, err) == (0, "")
    assert "[58]" in out  # two iterations of 4 steps at 7 sites, and T = 2
    assert (tmp_path / "cmp" / "latency.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "cmp" / "result.json").read_text())["rows"]
    found = [(row["label"], row["images"], len(row["runs"][0]["report"]["rows"])) for row in rows]
    labels = ("plain", "cos:iterations=2", "accumulate")
    assert found == [(label, *test) for label in labels for test in (("0", 2), ("1", 5))]
    assert "40 images" in out
    assert "20 images" in out
    assert "conversion: threshold" in out
    code, out, err = transpike(*few, "plain,foo")
    assert code == 1
    assert "schedule names 'foo'" in err
    assert "evaluating" not in out


def test_run_list(transpike) -> None:
    code, out, _ = transpike("run", "--list")
    assert code == 0
    assert "digits" in out
    assert "cifar10-resnet20-relu" in out
