"""Sums in half precision, overflow, and thresholds that cut off much: with oracles in float64 and by hand."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.errors import CalibrationError, ClippingWarning, RangeError
from transpike.functional import summing_type
from transpike.kernels import KernelPreference
from transpike.neurons import IF, SiteParameters
from transpike.rules.contract import Statistic
from transpike.runtime.runners import Readout, TemporalMaxPool
from transpike.schedules import AccumulateThenFire, SiteContext

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
def test_a_readout_counts_further_than_its_type(dtype: torch.dtype) -> None:
    """4096 spikes: bfloat16 alone would stop at 256, float16 at 2048."""
    ones = torch.ones(4096 * 3, 1, dtype=dtype)
    start = torch.zeros((), dtype=torch.int64)
    means, memory = Readout("y")(ones, None, 3, 4096, start)
    assert means.dtype == dtype
    assert bool((means == 1).all())
    assert memory[0].flatten().tolist() == [4096.0] * 3
    more, _ = Readout("y")(torch.zeros_like(ones), memory, 3, 4096, start + 4096)
    assert bool((more.view(4096, 3)[-1] == 0.5).all())


def test_sums_of_float32_stay_in_float32() -> None:
    assert [summing_type(dtype) for dtype in (torch.float32, torch.float64)] == [torch.float32, torch.float64]
    values = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    means, memory = Readout("y")(values, None, 1, 50, torch.zeros((), dtype=torch.int64))
    expected = values.unsqueeze(1).cumsum(0) / torch.arange(1, 51).view(-1, 1, 1)
    assert torch.equal(means, expected.flatten(0, 1))
    assert memory[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", HALVES)
def test_a_temporal_pooling_goes_on_behind_256_steps(dtype: torch.dtype) -> None:
    """Two pixels that send 1 at every step: the larger sum grows by 1 at every step."""
    frames = torch.ones(5000, 1, 1, 2, dtype=dtype)
    pooled, _ = TemporalMaxPool(nn.MaxPool2d((1, 2)))(frames, None, 1, 5000, torch.zeros((), dtype=torch.int64))
    assert pooled.dtype == dtype
    assert bool((pooled == 1).all())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rho", [7, 32, 200])
def test_accumulate_sends_its_count_in_half_precision(dtype: torch.dtype, rho: int) -> None:
    drive = (torch.randint(-16, 33, (rho, 2, 50), generator=torch.Generator().manual_seed(rho)) / 32).to(dtype)
    parameters = SiteParameters(torch.tensor(1.0, dtype=dtype), torch.tensor(0.5, dtype=dtype))
    events, _ = AccumulateThenFire(rho).emit(
        SiteContext("site", drive, IF(), parameters, None, 0, KernelPreference.AUTO)
    )
    wanted = torch.floor(drive.double().sum(0) + 0.5).clamp(0, rho)
    assert events.dtype == dtype
    assert torch.equal(events.double().sum(0), wanted)
    assert set(events.unique().tolist()) <= {0.0, 1.0}


def _net(*weights: float, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    layers: list[nn.Module] = []
    for weight in weights:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, weight)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(dtype).eval()


def _converted(model: nn.Module, x: Tensor) -> tp.SpikingNetwork:
    return tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)


@pytest.mark.parametrize("observed", [False, True])
def test_an_overflow_in_float16_names_its_site(observed: bool) -> None:
    """A drive of 200 * 400 exceeds 65504 at the second site, which fires then: the answer would be finite."""
    x = torch.ones(2, 1, dtype=torch.float16)
    snn = _converted(_net(1.0, 400.0, 1.0, dtype=torch.float16), x)
    assert bool(torch.isfinite(snn(x, steps=3)).all())
    snn.site("1").set_threshold(torch.tensor(200.0))
    with pytest.raises(RangeError, match=r"(?s)infinite in torch.float16.*site 3.*float32"):
        snn(200 * x, steps=3, observe=(lambda *_: None) if observed else None)


@pytest.mark.parametrize("kernel", [KernelPreference.AUTO, KernelPreference.REFERENCE])
def test_an_infinite_answer_in_float32_names_the_first_site(kernel: KernelPreference) -> None:
    x = torch.ones(2, 1)
    snn = _converted(_net(1.0, 1.0, 1.0), x)
    snn.site("1").set_threshold(torch.tensor(3e38))
    snn.network.get_parameter("2.weight").copy_(torch.tensor([[10.0]]))
    snn.network.get_parameter("4.weight").copy_(torch.tensor([[3e38]]))
    snn.site("3").set_threshold(torch.tensor(10.0))
    with pytest.raises(RangeError, match=r"(?s)infinite.*site 3"):
        snn(3e38 * x, steps=2, kernel=kernel)


def test_an_answer_that_is_infinite_by_itself_is_given() -> None:
    class Logarithm(nn.Module):
        """No spikes give the logarithm of zero, in the ANN too."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 1, bias=False)
            nn.init.ones_(self.fc.weight)

        def forward(self, x: Tensor) -> Tensor:
            return torch.log(torch.relu(self.fc(x)))

    x = torch.ones(2, 1)
    snn = tp.convert(
        Logarithm().eval(), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x, leave=["log"]
    )
    assert bool((snn(-x, steps=2) == -torch.inf).all())


class _Huge(tp.rules.Maximum):
    """A rule whose threshold float16 cannot hold."""

    def statistic(self) -> Statistic:
        """Always a million."""
        found = super().statistic()
        found.result = lambda: torch.tensor([1e6])  # type: ignore[method-assign]
        return found


def test_a_threshold_beyond_the_type_names_its_site() -> None:
    x = torch.ones(2, 1, dtype=torch.float16)
    model = _net(1.0, 1.0, dtype=torch.float16)
    with pytest.raises(CalibrationError, match=r"(?s)finite in torch.float16.*site 1"):
        tp.convert(model, tp.Conversion(_Huge()), example_inputs=x, calibration=x)


def test_thresholds_that_cut_off_much_are_told_with_the_share() -> None:
    """999 ones and one million: the 99th percentile is 1, so 999,999 of 1,000,999 lie above."""
    data = torch.ones(1000, 1)
    data[17] = 1e6
    rule = tp.rules.Percentile(99.0)
    with pytest.warns(ClippingWarning, match=r"percentile .*1 site carry on calibration data: 1 100% of") as found:
        tp.convert(_net(1.0, 1.0), tp.Conversion(rule), example_inputs=data[:3], calibration=data)
    assert len(found) == 1
    statistic = rule.statistic()
    for batch in data.split(300):
        statistic.update(batch.view(1, -1))
    assert statistic.clipped_share(torch.ones(1)) == pytest.approx(999_999 / 1_000_999, rel=1e-6)
    assert statistic.clipped_share(torch.tensor([1e6])) == 0.0


@pytest.mark.parametrize("granularity", [tp.PerLayer(), tp.PerChannel()])
def test_the_share_is_that_of_all_values(granularity: tp.PerLayer | tp.PerChannel) -> None:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(500, 3, generator=generator).double() * torch.tensor([1.0, 100.0, 0.0])
    statistic = tp.rules.Percentile(90.0, granularity).statistic()
    for batch in data.split(70):
        statistic.update(granularity.rows(batch))
    theta = statistic.result()
    positive = granularity.rows(data).clamp_min(0)
    wanted = (positive - theta.unsqueeze(1)).clamp_min(0).sum() / positive.sum()
    assert statistic.clipped_share(theta.clamp_min(1e-9)) == pytest.approx(float(wanted), rel=0.02)
    assert 0.02 < float(wanted) < 0.6


def test_normal_data_is_no_matter_for_a_warning() -> None:
    data = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rule in (tp.rules.Percentile(99.0), tp.rules.MinimumMSE(1), tp.rules.LocalThresholdBalancing(50, 0.5)):
            tp.convert(_net(1.0, 1.0), tp.Conversion(rule), example_inputs=data[:3], calibration=data)
