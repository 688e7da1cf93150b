"""The bench: its gate, its bookkeeping and its random spikes. Nothing here depends on how fast anything is."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from torch import nn

import transpike as tp
from transpike import bench as module
from transpike.bench import BenchError, bench, check, fastest, random_map, sweep
from transpike.kernels.events import Halo, MapShape
from transpike.report.bench import bench_table, plot_sweep, sweep_table
from transpike.schedules import Plain
from transpike.testing import dyadic_batch, make_dyadic, set_dyadic_thresholds

pytest.importorskip("transpike.kernels._native")


@pytest.fixture
def network() -> tuple[tp.SpikingNetwork, torch.Tensor]:
    torch.manual_seed(0)
    x = dyadic_batch((4, 1, 6, 6))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    snn = tp.convert(make_dyadic(model), [tp.Maximum()], calibration=x, example_inputs=x)
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


def test_a_wrong_kernel_is_not_timed(network, monkeypatch: pytest.MonkeyPatch) -> None:
    snn, x = network
    forward = type(snn).forward

    def wrong(self, *inputs, count=None, kernel=tp.KernelPreference.AUTO, **settings):
        more = None if count is None else lambda name, n: count(name, n + (kernel is tp.KernelPreference.AUTO))
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


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 5.0, 8.0, 8.0, 9.0, 9.0, 9.5])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    calls = []
    found = fastest({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=1)
    assert found == {"a": 3.0, "b": 0.5}
    assert calls == ["a"] * 3 + ["b"] * 3  # the first of three warms up


def test_random_spikes_have_their_rate() -> None:
    shape = MapShape(11, 9, 7, Halo(1, 0, 2, 1))
    spikes = random_map(shape, 8, 5, 0.3, torch.Generator().manual_seed(0))
    events = shape.unpack(spikes, 8, 5, torch.ones(()))
    assert events.mean().item() == pytest.approx(0.3, abs=0.01)  # 27,720 draws
    ones = sum(bin(byte).count("1") for byte in spikes.bytes.tolist())
    assert ones == int(events.sum())  # none in the halo or in bits that are no channel


def test_a_sweep_names_its_points(tmp_path) -> None:
    points = sweep(layers=((8, 4), (16, 4)), rates=(0.1, 0.5), steps=2, batch=1, repeats=1)
    assert [(p.channels, p.size, p.rate) for p in points] == [(8, 4, 0.1), (8, 4, 0.5), (16, 4, 0.1), (16, 4, 0.5)]
    additions = 0.1 * 2 * 16 * 9 * 64  # rate, T, pixels, kernel, channels in and out
    expected = 1e6 * points[0].milliseconds * torch.get_num_threads() / additions
    assert points[0].nanoseconds_per_addition == pytest.approx(expected)
    assert "8 channels, 4x4" in _text(sweep_table(points))
    plot_sweep(points, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 10_000
