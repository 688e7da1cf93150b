"""The table of stages: its counts against a dense run of the reference. Nothing depends on how fast anything is."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import nn

import transpike as tp
from transpike.bench import BenchError, Peaks, cost_stages
from transpike.report.bench import stages_table
from transpike.testing import dyadic_batch, make_dyadic, set_dyadic_thresholds

pytest.importorskip("transpike.kernels._native")
PEAKS = Peaks(1e9, ((1024, 1e9), (1 << 20, 1e8)))


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.third, self.head = nn.Conv2d(12, 8, 3, stride=2), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = torch.relu(self.first(x))
        b = torch.relu(self.second(a) + a)
        return self.head(torch.relu(self.third(b)).flatten(1))


def test_stages_count_the_spikes_of_the_reference() -> None:
    torch.manual_seed(0)
    x = dyadic_batch((10, 1, 6, 6))
    model = make_dyadic(_Residual())
    snn = set_dyadic_thresholds(tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x))
    costs = cost_stages(snn, x, steps=3, repeats=1, peaks=PEAKS)
    spikes: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        snn(
            x,
            steps=3,
            kernel=tp.kernels.KernelPreference.REFERENCE,
            observe=lambda site, drive, events: spikes.update({site: events.sum((0, 1))}),
        )
    first, second, third = (site.name for site in snn.sites)
    assert [stage.site for stage in costs.stages] == [first, second, third, "readout"]
    rows = {stage.site: stage for stage in costs.stages}
    assert rows[first].rate is rows[first].limit is rows["readout"].limit is None
    assert (rows[first].additions, rows["readout"].additions) == (0, 0)
    constant = 10 * 12 * 36 * 4  # currents of the first convolution
    assert rows[first].bytes == 10 * 3 * 36 * 2 + 4 + constant  # packed spikes, one potential
    assert rows[second].rate == pytest.approx(float(spikes[first].sum()) / (10 * 3 * 12 * 36))
    ones = F.conv2d(spikes[first].unsqueeze(0), (model.second.weight != 0).float(), padding=1).sum()
    ones += spikes[first].sum()  # the shortcut
    assert rows[second].additions == int(ones)
    assert rows[second].bytes == 2 * 10 * 3 * 36 * 2 + 4 + 4 * (12 * 12 * 9 + 12)
    ones = F.conv2d(spikes[second].unsqueeze(0), (model.third.weight != 0).float(), stride=2).sum()
    assert rows[third].additions == int(ones)
    for stage in (rows[second], rows[third]):
        assert stage.events
        seconds = PEAKS.seconds(stage.additions, stage.bytes)
        assert stage.limit == pytest.approx(1000 * seconds / stage.milliseconds)
    assert sum(stage.share for stage in costs.stages) == pytest.approx(1)
    assert all(stage.milliseconds > 0 and stage.ann_milliseconds > 0 for stage in costs.stages)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(stages_table(costs))
    text = console.export_text()
    assert f"{rows[second].rate:.1%}" in text
    assert "readout (torch)" in text


def test_stages_of_times_belong_to_sites() -> None:
    x = dyadic_batch((2, 1, 6, 6))
    snn = tp.convert(make_dyadic(_Residual()), tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    seconds = snn.engine.time(x, steps=2, repeats=1)
    assert list(seconds) == [*(site.name for site in snn.sites), "readout"]
    assert all(value > 0 for value in seconds.values())
    with pytest.raises(ValueError, match="repeats"):
        snn.engine.time(x, steps=2, repeats=0)
    with pytest.raises(ValueError, match="repeats"):
        cost_stages(snn, x, steps=2, repeats=0)


def test_a_network_in_float64_has_no_stages_to_time() -> None:
    x = dyadic_batch((2, 1, 6, 6))
    snn = tp.convert(
        make_dyadic(_Residual()), tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x
    ).double()
    with pytest.raises(BenchError, match="float32"):
        cost_stages(snn, x.double(), steps=2)
