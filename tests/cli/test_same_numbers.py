"""The library and the command line give the same numbers for one file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import transpike as tp
from transpike.data import load_data, loader

STEPS = 4


@pytest.mark.parametrize("method", ["percentile", "accumulate", "withhold", "cos", "snm"])
def test_library_and_command_line(transpike, networks, tmp_path: Path, method: str) -> None:
    words = ("convert", "relu.safetensors", "--method", method, "--steps", str(STEPS), "--calibration-images", "60")
    assert transpike(*words, "-o", "f.safetensors")[0] == 0
    code, out, err = transpike("evaluate", "f.safetensors", "--steps", str(STEPS), "--cache", "x.json")
    assert (code, err) == (0, "")
    report = tp.evaluate(tp.load("f.safetensors"), loader(load_data("digits").test), steps=STEPS)
    here, there = report.to_json(), json.loads((tmp_path / "x.json").read_text())["content"]["report"]
    assert here.pop("seconds") > 0
    assert there.pop("seconds") > 0
    assert json.loads(json.dumps(here)) == there
    assert [row["steps"] for row in there["rows"]] == [1, 2, 3, 4]
    printed = [line.split() for line in out.splitlines() if line.split()[:1] in (["1"], ["2"], ["4"])]
    for cells in printed:
        row = report.row(int(cells[0]))
        latency = row.latency
        assert cells[1:3] == [f"{row.top1:.2f}", f"{row.top5:.2f}"]
        assert cells[4:] == [
            f"{row.events:,.0f}",
            *(str(n) for n in (latency.claimed_steps, latency.pipeline_steps, latency.interval)),
        ]
    assert len(printed) == 3
