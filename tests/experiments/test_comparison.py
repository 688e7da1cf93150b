"""Methods side by side: the rows are those of evaluate, known ones are not made again, misfits are told."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from transpike import convert, evaluate
from transpike.conversion.methods import METHODS
from transpike.errors import DataError
from transpike.experiments.compare import MethodResult, TestSet, compare_methods, compare_schedules, read_methods
from transpike.experiments.record import read_record
from transpike.rules import Conversion, Percentile
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain
from transpike.serialization.json_records import to_json, write_json


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 4))


def data(count: int, seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 8, generator=generator) * 2 - 1
    return DataLoader(TensorDataset(x, network()(x).detach().argmax(1)), batch_size=10)


CALIBRATION = [images for images, _ in data(30, 1)]


def only_runs(said: list[str]) -> Callable[[str], None]:
    """Keeps the lines that announce a run, and not those with its numbers."""
    return lambda line: said.append(line) if ", T = " in line else None


TESTS = [TestSet(data(20, 2), (1, 2)), TestSet(data(10, 3), (4,))]


def test_rows_are_those_of_evaluate():
    results = compare_methods(network(), [METHODS["percentile"], METHODS["accumulate"]], CALIBRATION, TESTS)
    for result in results:
        assert [(row.steps, row.images) for row in result.rows] == [(1, 20), (2, 20), (4, 10)]
        method = METHODS[result.method]
        for row, test in zip(result.rows, (TESTS[0], TESTS[0], TESTS[1]), strict=True):
            snn = convert(network(), method(row.steps), calibration=CALIBRATION, example_inputs=CALIBRATION[0][:4])
            expected = evaluate(snn, test.batches, steps=row.steps).row(row.steps)
            assert (row.top1, row.events, row.latency) == (expected.top1, expected.events, expected.latency)
            assert row.ann == 100.0  # the labels are the network's own answers
    plain, accumulate = results
    assert [row.latency.pipeline_steps for row in plain.rows] == [1, 2, 4]
    assert [row.latency.pipeline_steps for row in accumulate.rows] == [3, 6, 12]  # two sites that probe T steps, and T


def test_an_interrupted_run_goes_on(tmp_path: Path):
    conversions: list[str] = []

    def run(tests: list[TestSet], calibration=CALIBRATION, model=None) -> list[MethodResult]:
        conversions.clear()
        methods = [METHODS["percentile"], METHODS["minimum-mse"]]
        return compare_methods(
            model or network(), methods, calibration, tests, folder=tmp_path, say=only_runs(conversions)
        )

    run(TESTS[:1])
    assert conversions == ["percentile, T = 1, 2", "minimum-mse, T = 1", "minimum-mse, T = 2"]
    both = run(TESTS)
    assert conversions == ["percentile, T = 4", "minimum-mse, T = 4"]
    assert run(TESTS) == both
    assert conversions == []
    assert read_methods(tmp_path) == both
    record = read_record(tmp_path / "result.json")
    assert record.finished
    assert (record.calibration_images, record.rows[0].runs[0].conversion) == (30, METHODS["percentile"](2))
    run(TESTS, calibration=CALIBRATION[:2])
    assert len(conversions) == 5  # other calibration data
    images, labels = TESTS[0].batches.dataset.tensors
    labels = labels.clone()
    labels[15] = (labels[15] + 1) % 4  # in the second batch
    changed = TestSet(DataLoader(TensorDataset(images, labels), batch_size=10), TESTS[0].at)
    run([changed, TESTS[1]])
    assert conversions == ["percentile, T = 1, 2", "minimum-mse, T = 1", "minimum-mse, T = 2"]
    other = network()
    with torch.no_grad():
        other[0].weight.mul_(1.5)
    run(TESTS, model=other)
    assert len(conversions) == 5
    run(TESTS)
    assert conversions == []  # nothing that was known is lost


@pytest.mark.parametrize("name", ["result.json", "cache"])
def test_foreign_files_are_left_alone(tmp_path: Path, name: str):
    run = lambda: compare_methods(network(), [METHODS["opi"]], CALIBRATION, TESTS[:1], folder=tmp_path)  # noqa: E731
    run()
    (file,) = [tmp_path / name] if name.endswith(".json") else (tmp_path / name).glob("*.json")
    for content in ('{"mine": 1}', "{"):
        file.write_text(content)
        with pytest.raises(DataError, match="that transpike wrote, and is left as it is"):
            run()
        assert file.read_text() == content


def test_summaries_of_older_runs_are_read(tmp_path: Path):
    results = compare_methods(network(), [METHODS["percentile"]], CALIBRATION, TESTS)
    write_json(tmp_path / "percentile.json", to_json(results[0]))
    assert read_methods(tmp_path) == results


def test_a_method_that_does_not_fit_says_so(tmp_path: Path):
    methods = [METHODS["burst"], METHODS["opi"]]
    burst, plain = compare_methods(network(nn.ReLU6), methods, CALIBRATION, TESTS[:1], folder=tmp_path)
    assert burst.rows == ()
    assert "stops at theta" in burst.refused
    assert (plain.refused, len(plain.rows)) == ("", 2)
    assert read_methods(tmp_path) == [burst, plain]


def test_wrong_labels_are_no_misfit():
    wrong = dataclasses.replace(TESTS[0], batches=[(images, labels + 9) for images, labels in TESTS[0].batches])
    with pytest.raises(DataError, match="outputs"):
        compare_methods(network(), [METHODS["opi"]], CALIBRATION, [wrong])


def test_schedules_of_one_network(tmp_path: Path):
    conversion = Conversion(Percentile(), schedule=AccumulateThenFire(2))
    snn = convert(network(), conversion, calibration=CALIBRATION, example_inputs=CALIBRATION[0])
    schedules = {"plain": Plain(), "cos": OffsetSpike(2)}
    said: list[str] = []
    first, second = compare_schedules(snn, schedules, TESTS, folder=tmp_path, say=only_runs(said))
    assert len(said) == 4
    for label, schedule in schedules.items():
        for test, reports in zip(TESTS, (first, second), strict=True):
            expected = evaluate(snn, test.batches, steps=test.at[-1], at=test.at, schedule=schedule)
            assert (reports[label].rows, reports[label].ann_top1) == (expected.rows, expected.ann_top1)
    said.clear()
    assert compare_schedules(snn, schedules, TESTS, folder=tmp_path, say=only_runs(said)) == [first, second]
    assert said == []
    stored = json.loads((tmp_path / "result.json").read_text())
    assert {row["runs"][0]["schedule"]["kind"] for row in stored["rows"]} == {"Plain", "OffsetSpike"}
