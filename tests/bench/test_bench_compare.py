"""The bench: its gate and its bookkeeping. Nothing here depends on how fast anything is."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.bench import BenchError, bench, check
from transpike.bench.compare import relu_network
from transpike.report.bench import bench_table
from transpike.schedules import Plain
from transpike.testing import dyadic_batch, make_dyadic, set_dyadic_thresholds

pytest.importorskip("transpike.kernels._native")


@pytest.fixture
def network() -> tuple[tp.SpikingNetwork, torch.Tensor]:
    torch.manual_seed(0)
    x = dyadic_batch((4, 1, 6, 6))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    snn = tp.convert(make_dyadic(model), tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    return set_dyadic_thresholds(snn), x


def test_every_contender_is_timed_at_every_batch_and_t(network) -> None:
    snn, x = network
    seen = []

    def other(images: torch.Tensor, steps: int) -> None:
        seen.append((images.shape[0], steps))

    report = bench(snn, x, batches=(1, 3), steps=(1, 2), repeats=1, others={"other": other})
    names = [("ANN", 0), ("ANN, channels last", 0)]
    names += [(what, t) for t in (1, 2) for what in ("events", "dense", "other")]
    rows = [(timing.what, timing.steps, timing.batch) for timing in report.timings]
    assert rows == [(*name, batch) for batch in (1, 3) for name in names]
    assert set(seen) == set(itertools.product((1, 3), (1, 2)))
    assert report.gate.flipped == report.gate.answers == 0.0  # dyadic numbers
    for batch in (1, 3):
        ratios = [t.ratio for t in report.timings if t.batch == batch and t.steps == 0]
        assert min(ratios) == 1.0
    assert "events, T=2" in _text(bench_table(report))


def _text(table) -> str:
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_stages_that_are_faster_dense_run_dense(network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured at the largest batch and T, before anything is timed; the report counts them."""
    snn, x = network
    asked = []

    def tune(self, inputs, steps, schedule, repeats):
        asked.append((inputs.shape[0], steps, schedule, repeats))
        self.dense = {"3"}

    monkeypatch.setattr(type(snn.engine), "tune", tune)
    assert bench(snn, x, batches=(1,), steps=(2,), repeats=1).dense_stages == 0
    report = bench(snn, x, batches=(1, 3), steps=(4, 2), repeats=1, tune=True)
    assert asked == [(3, 4, Plain(), 1)]
    assert (report.stages, report.dense_stages) == (2, 1)


def test_a_wrong_kernel_is_not_timed(network, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = network
    forward = type(snn).forward

    def wrong(self, *inputs, count=None, kernel=tp.kernels.KernelPreference.AUTO, **settings):
        more = None if count is None else lambda name, n: count(name, n + (kernel is tp.kernels.KernelPreference.AUTO))
        return forward(self, *inputs, count=more, kernel=kernel, **settings)

    monkeypatch.setattr(type(snn), "forward", wrong)
    with torch.no_grad():
        gate = check(snn, x, 2, Plain())
    assert gate.flipped > 0.01
    assert gate.answers == 0.0
    with pytest.raises(BenchError, match="disagree with the reference"):
        bench(snn, x, batches=(1,), steps=(2,), repeats=1)


def test_wrong_settings_raise(network) -> None:
    snn, x = network
    with pytest.raises(ValueError, match="need as many inputs"):
        bench(snn, x, batches=(5,))
    with pytest.raises(ValueError, match="repeats"):
        bench(snn, x, batches=(1,), repeats=0)


def test_references_are_timed_and_no_ratio_is_to_them(network) -> None:
    snn, x = network
    report = bench(snn, x, batches=(2,), steps=(1,), repeats=1, references={"nothing": lambda images: None})
    rows = {timing.what: timing for timing in report.timings}
    assert rows["nothing"].steps == 0
    assert rows["nothing"].ratio < 0.1  # an empty function
    assert min(rows["ANN"].ratio, rows["ANN, channels last"].ratio) == 1.0


def test_the_ann_runs_in_place_only_where_nobody_else_reads() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = self.conv(x)
            return self.head((torch.relu(z) + torch.relu(-z)).flatten(1))

    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(3, 1, 6, 6)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    with torch.no_grad():
        torch.testing.assert_close(relu_network(snn)(x), model(x))
