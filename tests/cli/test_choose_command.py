"""``choose`` and ``compare methods`` as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import transpike as tp
from transpike.schedules import AccumulateThenFire, Plain


def test_the_best_method_within_a_budget(transpike, networks) -> None:
    words = ("choose", "relu.safetensors", "--calibration-images", "60", "-o", "chosen.safetensors")
    code, out, err = transpike(*words, "--budget", "2", "--methods", "percentile,accumulate,burst")
    assert (code, err) == (0, "")
    assert "2 answer steps, 40 images calibrate, 20 judge" in out
    assert "refused: its neurons send count events" in " ".join(out.split())
    snn = tp.load("chosen.safetensors")
    winner = "accumulate" if snn.schedule == AccumulateThenFire(2) else "percentile"
    assert f"chosen: {winner}, for T = 2" in out
    assert f"conversion: {snn.conversion}" in out
    code, out, err = transpike("evaluate", "chosen.safetensors", "-T", "2", "--images", "20")
    assert (code, err) == (0, "")
    assert str(snn.schedule) in out  # without --schedule
    code, out, err = transpike(*words, "--budget", "7", "--latency", "pipeline", "--methods", "minimum-mse,cos")
    assert (code, err) == (0, "")
    assert "refused: it takes at least 8 pipeline steps, the budget is 7" in " ".join(out.split())
    assert tp.load("chosen.safetensors").schedule == Plain()
    code, _, err = transpike(*words, "--methods", "magic")
    assert code == 1
    assert "there is no method 'magic'; known: maximum" in err
    code, out, err = transpike(*words, "--budget", "1", "--methods", "burst", "--any-events")
    assert (code, err) == (0, "")
    assert "neuron burst (gamma 5)" in out


def test_methods_side_by_side(transpike, networks, tmp_path: Path) -> None:
    few = ("--methods", "opi,accumulate", "-T", "2", "--images", "30", "--calibration-images", "40")
    longer = ("--long-steps", "4", "--long-images", "20", "-o", "m")
    code, out, err = transpike("compare", "methods", "relu.safetensors", *few, *longer)
    assert (code, err) == (0, "")
    assert "[16]" in out  # two probe steps at seven sites, and T = 2
    rows = json.loads((tmp_path / "m" / "result.json").read_text())["rows"]
    reports = [run["report"] for row in rows if row["label"] == "accumulate" for run in row["runs"]]
    found = [(row["steps"], report["images"]) for report in reports for row in report["rows"]]
    assert found == [(1, 30), (2, 30), (4, 20)]
    code, _, err = transpike("compare", "methods", "relu.safetensors", "--methods", "cos", "-T", "0")
    assert code == 1
    assert "--steps must be at least 1" in err
