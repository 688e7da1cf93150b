"""Records in words, groups of unsupported operators, and progress without a terminal."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.calibration import progress
from transpike.conversion.config import TABLES
from transpike.errors import ConversionError, known_words, shell_words
from transpike.evaluation.report import Row
from transpike.neurons import Reset
from transpike.report import training_table
from transpike.report.plots import _steps_axis
from transpike.schedules import Latency, OffsetSpike, Plain, Staggered, Wait
from transpike.training import Epoch


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Plain(), "plain"),
        (OffsetSpike(8, iterations=2), "cos (probe steps 8, iterations 2)"),
        (
            Staggered(0, (("a", 1), ("b", 2)), Wait.WITHHOLD),
            "staggered (default lag 0, site lags a 1, b 2, wait withhold)",
        ),
        (tp.neurons.IF(), "if"),
        (tp.neurons.IF(Reset.HARD), "if (reset hard)"),
        (tp.neurons.Burst(), "burst (gamma 5)"),
        (tp.rules.Percentile(), "percentile (99.9, per layer)"),
        (tp.rules.MinimumMSE(8, tp.PerChannel()), "minimum-mse (steps 8, per channel)"),
        (tp.activations.QCFS(4), "slip (levels 4, slope 0)"),
        (
            tp.methods["accumulate"](4),
            "threshold minimum-mse (steps 4, per channel); potential half; corrections bias (steps 4); neuron if; "
            "schedule accumulate (probe steps 4)",
        ),
    ],
)
def test_words(record: object, words: str) -> None:
    assert str(record) == words
    assert repr(record) != words


def test_every_row_of_the_tables_has_words() -> None:
    for kind, table in TABLES.items():
        for name, cls in table.items():
            needed = ({"steps": 4}, {"shift": 0.5}, {"seed": 1}, {})
            made = None
            for settings in needed:
                try:
                    made = cls(**settings)
                    break
                except TypeError:
                    continue
            assert made is not None, (kind, name)
            assert str(made).startswith(name)
            assert "=" not in str(made)
            assert "<" not in str(made)


def test_unsupported_operators_are_grouped() -> None:
    layers = [layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False))]
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), *layers, nn.Linear(4, 4), nn.ReLU())
    found = tp.inspect(model, torch.rand(2, 4))
    text = str(found)
    assert "does not convert: 3 operators, 2 activations would become neurons" in text
    assert text.count("torch.nn.BatchNorm1d") == 1
    assert "3 x torch.nn.BatchNorm1d (the first is node '3')" in text
    assert "track_running_stats=True" in text
    with pytest.raises(ConversionError, match="3 operators do not convert") as caught:
        tp.convert(model, example_inputs=torch.rand(2, 4))
    assert str(caught.value).count("torch.nn.BatchNorm1d") == 1
    assert len(caught.value.unsupported) == 3
    one = str(tp.inspect(nn.Sequential(*model[:5], nn.ReLU()), torch.rand(2, 4)))
    assert "does not convert: 1 operator, " in one
    assert "torch.nn.BatchNorm1d (node '3')" in one


def report(schedule: str, extra: int, steps: tuple[int, ...] = (1, 2, 3)) -> tp.Report:
    rows = tuple(Row(t, 90.0 + t, 100.0, 1000.0 * t, Latency(t, t, t + extra, t)) for t in steps)
    return tp.Report(359, 97.5, 100.0, rows, (), 1.0, schedule, "float32", "cpu")


def test_what_print_shows() -> None:
    lines = str(report("cos (probe steps 4)", 28)).splitlines()
    assert lines[0] == "359 images, ANN 97.50 %, cos (probe steps 4)"
    assert [line.split() for line in lines[2:]] == [
        ["1", "91.00", "-6.50", "1,000", "29"],
        ["2", "92.00", "-5.50", "2,000", "30"],
        ["3", "93.00", "-4.50", "3,000", "31"],
    ]
    assert str(tp.data.load_data("digits")) == (
        "digits: 1,199 train, 239 validation, 359 test images of 1x8x8, 10 classes"
    )


def test_the_axis_says_what_the_answer_takes() -> None:
    assert _steps_axis([report("plain", 0)]) == "time-steps T (all layers step together)"
    assert _steps_axis([report("cos", 28)]).endswith("read out for the answer; pipeline latency 28 + T")
    assert _steps_axis([report("plain", 0), report("cos", 28)]).endswith("depends on the schedule")


def test_training_tables_say_what_they_leave_out() -> None:
    history = [Epoch(epoch, 1.0, 50.0, 50.0) for epoch in range(1, 8)]
    assert training_table(history).row_count == 7
    shown = training_table(history, last=5)
    assert (shown.row_count, shown.caption) == (5, "2 earlier epochs not shown")


def test_fixes_on_the_command_line() -> None:
    assert shell_words("pass leaf_modules=['a']") == "pass --leaf a"
    assert known_words("percentle", ["maximum", "percentile"]) == "did you mean percentile? known: maximum, percentile"


def test_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track([1, 2], "counting", True)) == [1, 2]
    assert capsys.readouterr().err == ""  # soon done
    monkeypatch.setattr(progress, "_EVERY", 0.0)
    assert list(progress.track([1, 2], "counting", True)) == [1, 2]
    assert list(progress.track(iter([1]), "going", True)) == [1]
    assert list(progress.track([1], "silent", False)) == [1]
    assert capsys.readouterr() == ("", "counting: 1 of 2\ncounting: 2 of 2\ngoing: 1\n")
