"""Times of functions, lines through them, and single layers with random spikes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from transpike.bench import BenchError, Peaks, fastest, random_map, sweep, timing
from transpike.engine.spike_map import Halo, MapShape
from transpike.engine.stage import EventStage
from transpike.report.bench import plot_sweep, sweep_table

pytest.importorskip("transpike.kernels._native")
PEAKS = Peaks(1e9, ((1024, 1e9), (1 << 20, 1e8)))


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    warm = [0.0, 0.005, 2.0], [13.0, 14.0]  # a runs twice before a hundredth of a second is over, b once
    clock = iter([*warm[0], 5.0, 10.0, 10.0, 13.0, *warm[1], 14.0, 15.0, 15.0, 15.5])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    found = fastest({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=1)
    assert found == {"a": 3.0, "b": 0.5}
    assert calls == ["a"] * 4 + ["b"] * 3


def test_random_spikes_have_their_rate() -> None:
    shape = MapShape(11, 9, 7, Halo(1, 0, 2, 1))
    spikes = random_map(shape, 8, 5, 0.3, torch.Generator().manual_seed(0))
    events = shape.unpack(spikes, 8, 5, torch.ones(()))
    assert events.mean().item() == pytest.approx(0.3, abs=0.01)  # 27,720 draws
    ones = sum(bin(byte).count("1") for byte in spikes.bytes.tolist())
    assert ones == int(events.sum())  # none in the halo or in bits that are no channel


def test_a_sweep_names_its_points(tmp_path) -> None:
    settings = {"rates": (0.1, 0.5), "step_counts": (1, 2, 3), "steps": 2, "rate": 0.5, "batch": 3, "repeats": 1}
    found = sweep(layers=((8, 4), (24, 2)), peaks=PEAKS, **settings)
    place = [(p.channels, p.size, p.rate, p.steps) for p in found.by_rate]
    assert place == [(c, s, rate, 2) for c, s in ((8, 4), (24, 2)) for rate in (0.1, 0.5)]
    assert [(p.channels, p.rate, p.steps) for p in found.by_steps] == [(c, 0.5, t) for c in (8, 24) for t in (1, 2, 3)]
    for point in (*found.by_rate, *found.by_steps):
        assert point.spikes <= 3 * point.steps * point.channels * point.size**2
        least = 4 / 9 if point.size == 2 else 36 / 9 / 9  # a corner is in four windows of nine
        assert least * 9 * point.channels * point.spikes <= point.additions < 9 * point.channels * point.spikes
        packed = 3 * point.steps * point.size**2 * point.channels // 8
        assert point.bytes == 2 * packed + 9 * 4 * point.channels**2 + 4 * point.channels
        seconds = point.milliseconds / 1000
        assert point.limit == pytest.approx(PEAKS.seconds(point.additions, point.bytes) / seconds)
        assert point.nanoseconds_per_addition == pytest.approx(1e9 * seconds * found.threads / point.additions)
    small = [p for p in found.by_rate if p.size == 2]
    assert all(p.additions == 4 * 24 * p.spikes for p in small)  # every pixel of 2 x 2 is in four windows
    own = [p for p in found.by_steps if p.channels == 8]
    x, y = [p.steps for p in own], [p.milliseconds for p in own]
    slope, start = np.polyfit(x, y, 1)
    line = found.step_lines[0]
    assert (line.start, line.slope) == pytest.approx((start, slope))
    assert line.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, abs=1e-6)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(sweep_table(found))
    assert "24, 2x2" in console.export_text()
    plot_sweep(found, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 10_000


def test_a_layer_that_answers_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self, maps, currents, rule, batch, steps):
        return self.shape.empty(batch, steps), [0] * steps

    monkeypatch.setattr(EventStage, "run", nothing)
    with pytest.raises(BenchError, match="spikes of 8 channels differ"):
        sweep(layers=((8, 4),), rates=(0.5,), step_counts=(2,), steps=2, batch=4, repeats=1, peaks=PEAKS)
