"""``staggered:budget=B`` in compare schedules and ``--budget`` in evaluate."""

from __future__ import annotations

import json
from pathlib import Path


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


def test_digits_for_a_budget(transpike, networks, tmp_path: Path) -> None:
    code, _, err = transpike(
        *("convert", "relu.safetensors", "--method", "digits", "--budget", "9", "-o", "digits.safetensors"),
        *("--calibration-images", "64"),
    )
    if code == 1:  # a small network may answer as well without
        assert "no lags of digits" in err
    else:
        assert (tmp_path / "digits.safetensors").is_file()
        code, out, err = transpike("evaluate", "digits.safetensors", "--images", "40", "-T", "4")
        assert (code, err) == (0, "")
        assert "digits" in out
    words = ("compare", "schedules", "snn.safetensors", "-T", "4", "--images", "20", "-o", "cmp", "--schedules")
    code, out, err = transpike(*words, "plain,radix:digits=3,digits:digits=4")
    assert (code, err) == (0, "")
    rows = {row["label"]: row for row in json.loads((tmp_path / "cmp" / "result.json").read_text())["rows"]}
    assert rows["radix:digits=3"]["runs"][0]["report"]["rows"][2]["latency"]["answer_steps"] == 3
    code, _, err = transpike("convert", "relu.safetensors", "--method", "cos", "--budget", "9", "-o", "x.safetensors")
    assert code == 1
    assert "--method digits" in err
