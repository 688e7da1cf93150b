"""``staggered:budget=B`` in compare schedules and ``--budget`` in evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import transpike as tp
from transpike.cli import work
from transpike.conversion.methods import digit_conversion
from transpike.schedules import Plain, SignedDigits


def test_lags_for_a_budget(transpike, networks, tmp_path: Path) -> None:
    words = ("compare", "schedules", "snn.safetensors", "-T", "4", "--images", "40", "-o", "cmp", "--schedules")
    code, out, err = transpike(*words, "plain,staggered:budget=3")
    assert (code, err) == (0, "")
    assert "staggered:budget=3" in out
    rows = json.loads((tmp_path / "cmp" / "result.json").read_text())["rows"]
    reports = {row["label"]: row["runs"][0]["report"] for row in rows}
    assert [row["steps"] for row in reports["plain"]["rows"]] == [1, 2, 3, 4]
    (row,) = reports["staggered:budget=3"]["rows"]  # the one point that the lags were searched for
    assert row["latency"]["pipeline_steps"] == 3
    assert (tmp_path / "cmp" / "latency.png").read_bytes().startswith(b"\x89PNG")
    words = ("evaluate", "snn.safetensors", "--images", "40")
    code, out, err = transpike(*words, "--schedule", "staggered", "--budget", "3")
    assert (code, err) == (0, "")
    assert f"{row['top1']:.2f}" in out
    code, _, err = transpike(*words, "--schedule", "staggered", "--budget", "0")
    assert code == 1
    assert "budget" in err
    code, _, err = transpike(*words, "--budget", "3")
    assert code == 1
    assert "--schedule staggered" in err


@pytest.mark.parametrize("found", [SignedDigits(4, 1.6, 0.6, 0, (("stem.2", 1),)), Plain()], ids=str)
def test_digits_for_a_budget(transpike, networks, tmp_path: Path, monkeypatch, found) -> None:
    """What the search finds is tested by itself; here, what becomes of it."""
    asked = []

    def search(snn, data, budget, name):
        asked.append((budget, name))
        return SimpleNamespace(schedule=found, steps=4)

    monkeypatch.setattr(work, "search_schedule", search)
    words = ("convert", "relu.safetensors", "--method", "digits", "--budget", "5", "-o", "digits.safetensors")
    code, out, err = transpike(*words, "--calibration-images", "64")
    assert asked == [(5, "digits")]
    if isinstance(found, Plain):
        assert code == 1
        assert "no lags of digits answer better than plain neurons after 5 pipeline steps" in err
        assert not (tmp_path / "digits.safetensors").exists()
        return
    assert (code, err) == (0, "")
    snn = tp.load(tmp_path / "digits.safetensors")
    assert snn.conversion == digit_conversion(found)  # thresholds and biases are made for what was found
    assert snn.latency(4).pipeline_steps == 5
    code, out, err = transpike("evaluate", "digits.safetensors", "--images", "40", "-T", "4")
    assert (code, err) == (0, "")
    assert "digits" in out


def test_digits_beside_other_schedules(transpike, networks, tmp_path: Path) -> None:
    words = ("compare", "schedules", "snn.safetensors", "-T", "4", "--images", "20", "-o", "cmp", "--schedules")
    code, _, err = transpike(*words, "plain,radix:digits=3,digits:digits=4")
    assert (code, err) == (0, "")
    rows = {row["label"]: row for row in json.loads((tmp_path / "cmp" / "result.json").read_text())["rows"]}
    assert rows["radix:digits=3"]["runs"][0]["report"]["rows"][2]["latency"]["answer_steps"] == 3
    for words, message in (
        (("--method", "cos", "--budget", "9"), "--method digits"),
        (("--method", "digits", "--budget", "9", "--steps", "4"), "--budget finds T"),
    ):
        code, _, err = transpike("convert", "relu.safetensors", *words, "-o", "x.safetensors")
        assert code == 1
        assert message in err
