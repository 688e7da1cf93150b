"""``convert --auto`` and ``compare --methods`` as a user runs them."""

from __future__ import annotations

from pathlib import Path

import transpike as tp
from transpike.experiments.compare import read_methods
from transpike.schedules import AccumulateThenFire, Plain


def test_from_a_relu_network_to_the_best_method(transpike, tmp_path: Path) -> None:
    small = ("--option", "width=2", "--option", "blocks=1", "--epochs", "1", "--learning-rate", "0.05")
    assert transpike("train", "digits-resnet", "-o", "relu.safetensors", *small)[0] == 0
    words = ("convert", "relu.safetensors", "--auto", "--calibration-images", "60", "-o", "snn.safetensors")
    code, out, err = transpike(*words, "--budget-steps", "2", "--methods", "percentile,accumulate,burst")
    assert (code, err) == (0, "")
    assert "2 answer steps, 40 images calibrate, 20 judge" in out
    assert "refused: its neurons send count events" in " ".join(out.split())
    snn = tp.load("snn.safetensors")
    assert isinstance(snn, tp.SpikingNetwork)
    winner = "accumulate" if snn.schedule == AccumulateThenFire(2) else "percentile"
    assert f"chosen: {winner}; run it for T = 2 under {snn.schedule}" in " ".join(out.split())
    code, out, err = transpike("evaluate", "snn.safetensors", "-T", "2", "--images", "20")
    assert (code, err) == (0, "")
    assert str(snn.schedule) in out.replace("\n", "")  # without --schedule
    budget = ("--budget-steps", "7", "--latency", "pipeline", "--methods", "minimum-mse,cos")
    code, out, err = transpike(*words, *budget)
    assert (code, err) == (0, "")
    assert "refused: it takes at least 8 pipeline steps, the budget is 7" in " ".join(out.split())
    assert tp.load("snn.safetensors").schedule == Plain()
    code, _, err = transpike(*words, "--threshold", "maximum")
    assert code == 1
    assert "leave these options out" in err
    for option in (("--percentile", "99"), ("--per", "layer")):
        code, _, err = transpike(*words, *option)
        assert code == 1
        assert "leave these options out" in err
    code, _, err = transpike("convert", "relu.safetensors", "--budget-steps", "4", "-o", "snn.safetensors")
    assert code == 1
    assert "belong to --auto" in err
    code, _, err = transpike(*words, "--methods", "magic")
    assert code == 1
    assert "there is no method 'magic'; known: maximum" in err
    few = ("--methods", "opi,accumulate", "-T", "2", "--images", "30", "--calibration-images", "40")
    code, out, err = transpike(
        "compare", "relu.safetensors", *few, "--long-steps", "4", "--long-images", "20", "-o", "m"
    )
    assert (code, err) == (0, "")
    assert "[16]" in out  # two probe steps at seven sites, and T = 2
    _, stored = read_methods(tmp_path / "m")
    assert [(row.steps, row.images) for row in stored.rows] == [(1, 30), (2, 30), (4, 20)]
    written = ("--threshold", "maximum", "-T", "2", "--calibration-images", "40", "-o", "trained.safetensors")
    code, _, err = transpike("convert", "relu.safetensors", "--calibrate", "reconstruction", *written)
    assert (code, err) == (0, "")
    code, out, err = transpike("evaluate", "trained.safetensors", "-T", "2", "--images", "20")
    assert (code, err) == (0, "")
    assert "the weights that BlockReconstruction changed" in " ".join(out.split())
