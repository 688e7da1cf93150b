"""Methods side by side: the rows are those of evaluate, known ones are not made again, misfits are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from transpike import convert, evaluate
from transpike.conversion.methods import METHODS
from transpike.errors import DataError
from transpike.experiments.compare import MethodResult, TestSet, compare_methods


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), activation(), nn.Linear(16, 16), activation(), nn.Linear(16, 4))


def data(count: int, seed: int) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, 8, generator=generator) * 2 - 1
    return DataLoader(TensorDataset(x, network()(x).detach().argmax(1)), batch_size=10)


CALIBRATION = [images for images, _ in data(30, 1)]
TESTS = [TestSet(data(20, 2), (1, 2)), TestSet(data(10, 3), (4,))]


def test_rows_are_those_of_evaluate():
    results = compare_methods(network(), [METHODS["percentile"], METHODS["accumulate"]], CALIBRATION, TESTS)
    for result in results:
        assert [(row.steps, row.images) for row in result.rows] == [(1, 20), (2, 20), (4, 10)]
        method = METHODS[result.method]
        for row, test in zip(result.rows, (TESTS[0], TESTS[0], TESTS[1]), strict=True):
            snn = convert(network(), method(row.steps), calibration=CALIBRATION, example_inputs=CALIBRATION[0][:4])
            report = evaluate(snn, test.batches, steps=row.steps)
            expected = report.row(row.steps)
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
        return compare_methods(model or network(), methods, calibration, tests, folder=tmp_path, say=conversions.append)

    run(TESTS[:1])
    assert conversions == ["percentile, T = 1, 2", "minimum-mse, T = 1", "minimum-mse, T = 2"]
    both = run(TESTS)
    assert conversions == ["percentile, T = 4", "minimum-mse, T = 4"]
    assert run(TESTS) == both
    assert conversions == []
    stored = json.loads((tmp_path / "minimum-mse.json").read_text())
    assert MethodResult.from_json(stored) == both[1]
    with pytest.raises(ValueError, match="version 7"):
        MethodResult.from_json(stored | {"version": 7})
    run(TESTS, calibration=CALIBRATION[:2])
    assert len(conversions) == 5  # other calibration data
    other = network()
    with torch.no_grad():
        other[0].weight.mul_(1.5)
    run(TESTS, model=other)
    assert len(conversions) == 5
    (tmp_path / "percentile.json").write_text("{")
    run(TESTS, model=other)
    assert conversions == ["percentile, T = 1, 2", "percentile, T = 4"]


def test_a_method_that_does_not_fit_says_so(tmp_path: Path):
    methods = [METHODS["burst"], METHODS["opi"]]
    burst, plain = compare_methods(network(nn.ReLU6), methods, CALIBRATION, TESTS[:1], folder=tmp_path)
    assert burst.rows == ()
    assert "stops at theta" in burst.refused
    assert (plain.refused, len(plain.rows)) == ("", 2)
    stored = json.loads((tmp_path / "burst.json").read_text())
    assert MethodResult.from_json(stored) == burst


def test_wrong_labels_are_no_misfit():
    wrong = dataclasses.replace(TESTS[0], batches=[(images, labels + 9) for images, labels in TESTS[0].batches])
    with pytest.raises(DataError, match="outputs"):
        compare_methods(network(), [METHODS["opi"]], CALIBRATION, [wrong])
