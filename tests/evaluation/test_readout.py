from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import transpike as tp
from transpike.errors import CalibrationError


@given(steps=st.integers(1, 20), delay=st.integers(0, 30))
def test_rows_are_means_of_the_steps_that_are_left(steps: int, delay: int) -> None:
    outputs = torch.randn(steps, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))
    means = torch.stack([outputs[:t].mean(0) for t in range(1, steps + 1)])
    found = tp.delayed_readout(means, delay)
    for t in range(1, steps + 1):
        start = min(delay, max(t - 4, 0))
        assert torch.allclose(found[t - 1], outputs[start:t].mean(0), atol=1e-12)


def test_without_delay_nothing_is_rounded() -> None:
    answer = torch.randn(5, 2, 3)
    assert tp.delayed_readout(answer, 0) is answer
    with pytest.raises(ValueError, match="negative"):
        tp.delayed_readout(answer, -1)


class Chain(nn.Module):
    """Two layers of two neurons; the input is the drive of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(2, 2, bias=False)
        self.out = nn.Linear(2, 2)
        with torch.no_grad():
            self.second.weight.copy_(torch.tensor([[0.5, 0.0], [0.0, -1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.second(torch.relu(x))))


def test_the_delay_by_hand() -> None:
    """Mean drives 0.25 and 0.125 of the first layer, 0.125 and 0 of the second; a row of theta - v(0) = 1/2 each."""
    data = [torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, 0.25]])]
    snn = tp.convert(
        Chain(),
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        calibration=torch.ones(1, 2),
        example_inputs=data[0],
    )
    for site in snn.sites:
        snn.site(site.name).set_threshold(torch.tensor(1.0))
        snn.site(site.name).set_initial_potential(torch.tensor(0.5))
    assert tp.readout_delay(snn, calibration=data) == 2 + 4
    first, second = (snn.site(site.name) for site in snn.sites)
    first.set_threshold(torch.tensor([1.0, 0.625]))  # the second neuron now charges up in (0.625 - 0.5) / 0.125 = 1
    assert tp.readout_delay(snn, calibration=data) == 1 + 4
    second.set_initial_potential(torch.full((3, 2), 0.625))  # of three samples: 0.375 / 0.125 = 3
    assert tp.readout_delay(snn, calibration=data) == 1 + 3
    first.set_initial_potential(torch.tensor(2.0))  # fires at once
    assert tp.readout_delay(snn, calibration=data) == 3


def test_silent_layers_are_left_out_and_no_data_is_an_error() -> None:
    snn = tp.convert(
        Chain(),
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        calibration=torch.ones(1, 2),
        example_inputs=torch.ones(1, 2),
    )
    assert tp.readout_delay(snn, calibration=-torch.ones(4, 2)) == 0
    with pytest.raises(CalibrationError, match="empty"):
        tp.readout_delay(snn, calibration=[])


def test_evaluation_reads_out_late_and_says_so() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3, bias=False))
    images, labels = torch.randn(40, 5), torch.randint(3, (40,))
    snn = tp.convert(
        model, tp.Conversion(tp.rules.Maximum(), tp.rules.ZeroPotential()), calibration=images, example_inputs=images
    )
    with torch.no_grad():
        late = tp.delayed_readout(snn(images, steps=8), 3)
    report = tp.evaluate(snn, [(images, labels)], steps=8, readout_delay=3)
    plain = tp.evaluate(snn, [(images, labels)], steps=8)
    expected = [100 * float((row.argmax(1) == labels).double().mean()) for row in late]
    assert [row.top1 for row in report.rows] == pytest.approx(expected)
    assert [row.top1 for row in report.rows] != [row.top1 for row in plain.rows]
    assert [row.events for row in report.rows] == [row.events for row in plain.rows]
    assert (report.readout_delay, plain.readout_delay) == (3, 0)
    assert tp.Report.from_json(report.to_json()) == report
    with pytest.raises(ValueError, match="readout_delay"):
        tp.evaluate(snn, [(images, labels)], steps=8, readout_delay=-1)


def test_caches_keep_delays_apart(tmp_path: Path) -> None:
    snn = tp.convert(
        Chain(), tp.Conversion(tp.rules.Maximum()), calibration=torch.ones(1, 2), example_inputs=torch.ones(1, 2)
    )
    data = DataLoader(TensorDataset(torch.rand(6, 2), torch.zeros(6, dtype=torch.int64)), 3)
    for delay in (0, 2, 0):
        report = tp.evaluate(snn, data, steps=8, readout_delay=delay, cache=tmp_path / "cache.json")
        assert report.readout_delay == delay
