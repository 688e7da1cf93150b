"""``transpike bench`` from the outside."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import transpike as tp
from transpike import zoo
from transpike.bench.compare import BenchReport, Gate, Measurement
from transpike.cli.commands import app
from transpike.data import load_data
from transpike.network.engine import NetworkEngine
from transpike.report.bench import bench_warning
from transpike.schedules import AccumulateThenFire
from transpike.serialization.model_info import ModelInfo, model_info, set_model_info

pytest.importorskip("transpike.kernels._native")
RUNNER = CliRunner()


def test_a_network_is_timed_and_written(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits", None)
    model = zoo.build("digits-resnet")
    set_model_info(model, ModelInfo(model_info(model).source, data.inputs))
    batch = data.test[0][0].unsqueeze(0)
    conversion = tp.Conversion(tp.rules.Maximum(), schedule=AccumulateThenFire(2))
    snn = tp.convert(model.eval(), conversion, calibration=batch, example_inputs=batch)
    tp.save(snn, tmp_path / "snn.safetensors", inputs=data.inputs)
    command = [
        "bench",
        str(tmp_path / "snn.safetensors"),
        "--batches",
        "1,2",
        "--steps",
        "2",
        "--repeats",
        "1",
        "--stages",
    ]
    result = RUNNER.invoke(app, [*command, "-o", str(tmp_path / "speed")])
    assert result.exit_code == 0, result.output
    assert "events, T=2" in result.output
    record = json.loads((tmp_path / "speed" / "bench.json").read_text())
    assert record["network"]["file"] == "snn.safetensors"
    assert record["network"]["schedule"] == "accumulate (probe steps 2)"  # the network's own
    assert {row["batch"] for row in record["network"]["timings"]} == {1, 2}
    assert [row["site"] for row in record["stages"]["stages"]] == [*(site.name for site in snn.sites), "readout"]
    assert "layers" not in record
    result = RUNNER.invoke(app, [*command, "--probe-steps", "4"])
    assert result.exit_code == 1
    assert "belongs to --schedule" in str(result.exception)
    result = RUNNER.invoke(app, [*command, "--schedule", "accumulate:iterations=3"])
    assert result.exit_code == 1
    assert "accumulate has no 'iterations'" in str(result.exception)
    result = RUNNER.invoke(app, [*command, "--schedule", "plain", "--probe-steps", "4"])
    assert result.exit_code == 1
    assert "'plain' has no --probe-steps" in str(result.exception)
    asked = []
    monkeypatch.setattr(NetworkEngine, "tune", lambda self, x, steps, **settings: asked.append((len(x), steps)))
    result = RUNNER.invoke(app, [*command, "--tune"])
    assert result.exit_code == 0, result.output
    assert asked == [(2, 2)]
    assert "computed by torch operators: no stage" in result.output
    result = RUNNER.invoke(app, [*command, "--schedule", "cos", "--probe-steps", "3"])
    assert result.exit_code == 0, result.output
    assert "cos (probe steps 3)" in " ".join(result.output.split())


def test_times_that_contradict_each_other_are_said() -> None:
    def timing(batch: int, milliseconds: float) -> Measurement:
        return Measurement("ANN", batch, 0, milliseconds, 1.0)

    def report(*timings: Measurement) -> BenchReport:
        return BenchReport(Gate(1, 0.0, 0.0), timings, 1, 0, "plain", 1, "avx2", "2.8")

    assert "ANN took longer for batch 1 than for batch 16" in bench_warning(report(timing(1, 160.0), timing(16, 2.3)))
    assert bench_warning(report(timing(1, 2.0), timing(16, 2.3))) == ""
