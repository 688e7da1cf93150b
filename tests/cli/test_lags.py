"""``staggered:BUDGET`` in compare and ``--budget-steps`` in evaluate."""

from __future__ import annotations

import json
from pathlib import Path


def test_lags_for_a_budget(transpike, tmp_path: Path) -> None:
    small = ("--option", "width=2", "--option", "blocks=1", "--epochs", "1", "--learning-rate", "0.05")
    assert transpike("train", "digits-resnet", "--activation", "qcfs", *small, "-o", "qcfs.safetensors")[0] == 0
    assert transpike("convert", "qcfs.safetensors", "-o", "snn.safetensors")[0] == 0
    words = ("compare", "snn.safetensors", "--schedules", "plain,staggered:3", "-T", "4", "--images", "40", "-o", "cmp")
    code, out, err = transpike(*words)
    assert (code, err) == (0, "")
    assert "staggered:3" in out
    reports = json.loads((tmp_path / "cmp" / "comparison.json").read_text())
    assert [row["steps"] for row in reports["plain"]["rows"]] == [1, 2, 3, 4]
    (row,) = reports["staggered:3"]["rows"]  # the one point that the lags were searched for
    assert row["latency"]["pipeline_steps"] == 3
    assert (tmp_path / "cmp" / "latency.png").read_bytes().startswith(b"\x89PNG")
    words = ("evaluate", "snn.safetensors", "--schedule", "staggered", "--images", "40")
    code, out, err = transpike(*words, "--budget-steps", "3")
    assert (code, err) == (0, "")
    assert f"{row['top1']:.2f}" in out
    code, _, err = transpike(*words, "--budget-steps", "0")
    assert code == 1
    assert "budget" in err
    code, _, err = transpike("evaluate", "snn.safetensors", "--budget-steps", "3")
    assert code == 1
    assert "--schedule staggered" in err
