"""What ``transpike sweep`` makes of words; that it runs, is killed and goes on is in experiments/test_run_sweep.py."""

import pytest
from typer.testing import CliRunner

from transpike.activations import Gradient, ThetaPercentile
from transpike.cli import commands  # noqa: F401 - registers them
from transpike.cli.main import app
from transpike.cli.words import parse_axis
from transpike.errors import DataError, ModelError
from transpike.experiments.sweep import Search, Sweep


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0:0.9:0.1", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
        ("0.5", (0.5,)),
        ("-0.5,0,.25", (-0.5, 0.0, 0.25)),
        ("0:1:.25", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("-0.5:0.5:0.5", (-0.5, 0.0, 0.5)),
        ("0.2:0.2:0.1", (0.2,)),
    ],
)
def test_numbers_and_ranges(text, numbers):
    assert parse_axis(text, "--slopes") == numbers


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "0:1:0", "0:1:-1", "1:0:0.1", "0:1:0.3", "0:1:0.1:2", "0:1:1e-9", "nan:1:1"]
)
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match="--slopes"):
        parse_axis(text, "--slopes")


def _planned(monkeypatch, *words) -> tuple[Sweep, dict]:
    found = []

    def stop(plan, folder, **settings):
        found.append((plan, settings))
        raise DataError("enough")

    monkeypatch.setattr("transpike.experiments.sweep_runner.run_sweep", stop)
    result = CliRunner().invoke(app, ["sweep", *words])
    if not found:
        raise result.exception
    return found[0]


def test_defaults_are_the_library_s(monkeypatch, tmp_path):
    plan, _ = _planned(monkeypatch, "digits-resnet", "-o", str(tmp_path / "s"))
    assert plan == Sweep("digits", ("digits-resnet",), (1, 2, 4, 8), tuple(k / 10 for k in range(10)))


def test_every_option_reaches_the_sweep(monkeypatch, tmp_path):
    words = (
        "digits-resnet cifarnet --dataset cifar10 --levels 2,4 --slopes 0,0.5 --shifts 0:0.5:0.25",
        "--ramp-shifts=-0.25,0",
        "--gradients released,paper --theta-percentiles 99,100 --thetas 8 --seeds 3,1 --epochs 7 --learning-rate 0.2",
        "--relu-epochs 9 --relu-learning-rate 0.3 --from-scratch --batch-size 64 --at 2,4,8 -T 4 --search random",
        "--samples 5 --prune --images 100 --calibration-images 99 --device cpu --cpus-per-trial 2",
        "--gpus-per-trial 0.5 --address auto",
    )
    plan, settings = _planned(monkeypatch, *" ".join(words).split(), "--data", "/d", "-o", str(tmp_path / "s"))
    assert (plan.networks, plan.data) == (("digits-resnet", "cifarnet"), "cifar10")
    assert (plan.levels, plan.slopes, plan.shifts, plan.ramp_shifts) == ((2, 4), (0, 0.5), (0, 0.25, 0.5), (-0.25, 0))
    assert plan.gradients == (Gradient.RELEASED, Gradient.PAPER)
    assert plan.theta_inits == (8.0, ThetaPercentile(99.0), ThetaPercentile(100.0))
    assert (plan.seeds, plan.at, plan.criterion_steps) == ((1, 3), (2, 4, 8), 4)
    assert (plan.training.epochs, plan.training.learning_rate, plan.training.start) == (7, 0.2, None)
    assert (plan.relu.epochs, plan.relu.learning_rate, plan.relu.batch_size) == (9, 0.3, 64)
    assert (plan.search, plan.samples, plan.prune) == (Search.RANDOM, 5, True)
    assert (plan.images, plan.calibration_images, plan.training.batch_size) == ("100", 99, 64)
    rest = (settings["device"], settings["cpus_per_trial"], settings["gpus_per_trial"], settings["address"])
    assert rest == ("cpu", 2, 0.5, "auto")


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        (["nothing"], ModelError, "there is no built-in network"),
        (["digits-resnet", "--slopes", "2"], ValueError, r"slope must be a number in \[0, 1\]"),
        (["digits-resnet", "--gradients", "steep"], ValueError, "--gradients must be"),
        (["digits-resnet", "--search", "grdi"], ValueError, "did you mean grid"),
        (["digits-resnet", "-T", "3"], ValueError, "criterion_steps must be one of at"),
    ],
)
def test_wrong_words_are_told_before_anything_is_written(monkeypatch, tmp_path, words, error, text):
    with pytest.raises(error, match=text):
        _planned(monkeypatch, *words, "-o", str(tmp_path / "s"))
    assert not list(tmp_path.iterdir())


def test_help_has_an_example_and_every_axis():
    text = CliRunner().invoke(app, ["sweep", "--help"], env={"COLUMNS": "160"}).output
    assert "transpike sweep digits-resnet --levels 1,2,4,8 --slopes 0:0.9:0.1 --seeds 0,1 -o sweep" in text
    axes = ("--levels", "--slopes", "--shifts", "--ramp-shifts", "--gradients", "--theta-percentiles", "--thetas")
    assert all(option in text for option in (*axes, "--seeds"))
