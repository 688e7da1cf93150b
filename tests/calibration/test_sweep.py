"""The calibration sweep: every kind of data, every kind of mistake, and what it sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import transpike as tp
from transpike.calibration import calibrate_thresholds, sweep
from transpike.errors import CalibrationError
from transpike.graph.site import Site
from transpike.rules import Maximum, Percentile, PerChannel, PerLayer


class Small(nn.Module):
    """conv - ReLU - linear - ReLU - linear in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.answer = nn.Conv2d(1, 3, 3), nn.Linear(12, 5), nn.Linear(5, 2)

    def features(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z1 = self.conv(x)
        return z1, self.hidden(torch.relu(z1).flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.answer(torch.relu(self.hidden(torch.relu(self.conv(x)).flatten(1))))


@pytest.fixture
def model() -> Small:
    """All channels are active on the data, more than half of the time."""
    torch.manual_seed(0)
    model = Small().double().eval()
    nn.init.constant_(model.conv.bias, 0.5)
    nn.init.constant_(model.hidden.bias, 1.0)
    return model


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(24, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def thresholds(model: nn.Module, data, rule=None, example=None) -> list[torch.Tensor]:
    rule = Maximum(PerChannel()) if rule is None else rule
    example = torch.ones(1, 1, 4, 4, dtype=torch.float64) if example is None else example
    snn = tp.convert(model, tp.Conversion.of(rule), example_inputs=example, calibration=data)
    return [snn.site(site.name).theta for site in snn.sites]


def labelled(data: torch.Tensor) -> DataLoader:
    return DataLoader(TensorDataset(data, torch.zeros(len(data), dtype=torch.int64)), batch_size=7)


FORMS = {
    "one tensor": lambda data: data,
    "a list of tensors": lambda data: list(data.split(7)),
    "a tuple of tensors": lambda data: data.split(10),
    "a generator": lambda data: (batch for batch in data.split(5)),
    "pairs with labels": lambda data: [(batch, torch.zeros(len(batch))) for batch in data.split(5)],
    "lists with labels": lambda data: [[batch, "label"] for batch in data.split(5)],
    "a DataLoader with labels": labelled,
    "a DataLoader of tensors": lambda data: DataLoader(data, batch_size=7),
    "another precision": lambda data: [data[:8].float().double(), data[8:]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_maximum_of_each_channel(form, model, data):
    first, second = thresholds(model, FORMS[form](data))
    with torch.no_grad():
        z1, z2 = model.features(data)
    torch.testing.assert_close(first, z1.relu().amax((0, 2, 3)).view(3, 1, 1), rtol=1e-6, atol=0)
    torch.testing.assert_close(second, z2.relu().amax(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("percentile", [50.0, 99.0])
def test_percentiles_per_layer_equal_numpy_on_the_network(percentile, model, data):
    ours = thresholds(model, list(data.split(7)), Percentile(percentile, PerLayer()))
    with torch.no_grad():
        for theta, z in zip(ours, model.features(data), strict=True):
            values = z.relu().numpy()
            assert np.percentile(values, percentile) > 0
            assert theta.shape == ()
            assert theta.item() == pytest.approx(np.percentile(values, percentile), rel=2.0**-9)


def test_the_model_and_the_data_are_left_alone(model, data):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    batches = list(data.clone().split(7))
    thresholds(model, batches)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.cat(batches), data)


def test_batches_in_another_precision_are_taken_to_that_of_the_network(model, data):
    half = data.half()
    for ours, expected in zip(thresholds(model, half), thresholds(model, half.double()), strict=True):
        assert torch.equal(ours, expected)


# ---- mistakes ----------------------------------------------------------------------------------------------------


def used_up(data: torch.Tensor):
    generator = (batch for batch in data.split(5))
    list(generator)
    return generator


def with_nan(data: torch.Tensor) -> list[torch.Tensor]:
    batches = [batch.clone() for batch in data.split(7)]
    batches[2][0, 0, 1, 1] = float("nan")
    return batches


def with_infinity(data: torch.Tensor) -> list[torch.Tensor]:
    batches = with_nan(data)
    batches[2].nan_to_num_(nan=float("inf"))
    return batches


MISTAKES = {
    "an empty list": (lambda data: [], "empty"),
    "an empty tensor": (lambda data: data[:0], "empty"),
    "a generator that was used up": (used_up, "empty"),
    "NaN": (with_nan, "1 values are NaN"),
    "infinity": (with_infinity, "1 values are NaN or infinite"),
    "an empty batch": (lambda data: [data, data[:0]], "batch is empty"),
    "whole numbers": (lambda data: [data.long()], "not a floating type"),
    "arrays": (lambda data: [data.numpy()], "ndarray"),
    "numbers": (lambda data: [1.0, 2.0], "float"),
    "dictionaries": (lambda data: [{"x": data}], "dict"),
    "empty tuples": (lambda data: [()], "tuple"),
    "text": (lambda data: ["batch"], "str"),
    "tuples that start with the label": (lambda data: [(3, data)], "int"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_unusable_data_is_an_error_that_says_why(mistake, model, data):
    make, message = MISTAKES[mistake]
    with pytest.raises(CalibrationError, match=message) as caught:
        thresholds(model, make(data))
    assert "calibration" in caught.value.where
    assert caught.value.fix


def test_the_bad_batch_is_named(model, data):
    with pytest.raises(CalibrationError) as caught:
        thresholds(model, with_nan(data))
    assert "batch 2" in caught.value.where


def test_activations_that_overflow_are_an_error_that_names_the_site(data):
    """Finite data, finite weights, yet an infinite pre-activation: no threshold can be right."""
    model = Small().double().eval()
    nn.init.constant_(model.conv.weight, 1e300)
    example = torch.full((1, 1, 4, 4), 1e-300, dtype=torch.float64)
    with pytest.raises(CalibrationError, match="NaN or infinite") as caught:
        thresholds(model, data * 1e10, example=example)
    assert "relu" in caught.value.where
    assert caught.value.fix


def test_a_rule_without_data_is_an_error(model):
    example = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(CalibrationError, match="needs data"):
        tp.convert(model, tp.Conversion(Maximum()), example_inputs=example)
    with pytest.raises(CalibrationError, match=r"percentile \(99\.9, per channel\) needs data"):
        tp.convert(model, example_inputs=example)


# ---- what is set -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", [PerLayer(), PerChannel()])
def test_the_ceiling_of_a_clipped_relu_bounds_its_threshold(granularity):
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU6(), nn.Linear(3, 1)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0], [10, 0], [0, 2]]))
        model[0].bias.zero_()
    data = torch.tensor([[1.0, 0.5], [4.0, 2.0]], dtype=torch.float64)  # z up to 4, 40, 4
    (theta,) = thresholds(model, data, Maximum(granularity), example=data)
    assert theta.tolist() == (6.0 if isinstance(granularity, PerLayer) else [4.0, 6.0, 4.0])


def test_silent_channels_take_the_largest_threshold_and_a_silent_layer_one():
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1)).double().eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [-1], [5], [0]]))
        model[0].bias.zero_()
        model[2].weight.fill_(-1.0)
        model[2].bias.zero_()
    data = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    first, second = thresholds(model, data, example=data)
    assert first.tolist() == [2.0, 10.0, 10.0, 10.0]
    assert second.tolist() == [1.0, 1.0]


class Populations(nn.Module):
    """A site of the given number of dimensions."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.linspace(-1, 3, 3, dtype=torch.float64).view(3, *[1] * (len(shape) - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x * self.weight).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 2), (3, 2, 2, 2)])
def test_thresholds_per_channel_broadcast_over_the_population(shape):
    data = torch.rand(5, *shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    (theta,) = thresholds(Populations(shape), data, example=data)
    assert theta.shape == (3, *[1] * (len(shape) - 1))
    largest = data.amax([0, *range(2, data.dim())])
    expected = torch.tensor([-1.0, 1.0, 3.0]).double() * largest
    expected[0] = expected[1:].max()  # silent
    torch.testing.assert_close(theta.flatten(), expected, rtol=1e-12, atol=0)


class WithSites(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.first, self.second = Site(nn.ReLU()), Site(nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.linear(x)).sum(1))


class SiteTracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Site) or super().is_leaf_module(m, module_qualified_name)


@pytest.fixture
def flat_network() -> torch.fx.GraphModule:
    """Two sites; the second has one neuron per sample and no channels."""
    torch.manual_seed(0)
    module = WithSites()
    return torch.fx.GraphModule(module, SiteTracer().trace(module))


def test_sweep_hands_over_each_pre_activation_once_and_counts_samples(flat_network):
    data = torch.randn(10, 2, generator=torch.Generator().manual_seed(3))
    seen = []
    assert sweep(flat_network, [(batch, 0) for batch in data.split(4)], lambda name, z: seen.append((name, z))) == 10
    assert [(name, len(z)) for name, z in seen] == [(name, size) for size in (4, 4, 2) for name in ("first", "second")]
    with torch.no_grad():
        z = flat_network.linear(data)
        torch.testing.assert_close(torch.cat([z for name, z in seen if name == "first"]), z)
        torch.testing.assert_close(torch.cat([z for name, z in seen if name == "second"]), z.relu().sum(1))
    assert not any(z.requires_grad for _, z in seen)


def test_a_site_without_channels_takes_a_threshold_per_layer_only(flat_network):
    data = torch.randn(10, 2, generator=torch.Generator().manual_seed(3))
    sites = {"first": flat_network.first, "second": flat_network.second}
    calibrate_thresholds(flat_network, sites, Maximum(PerLayer()), data)
    with torch.no_grad():
        z = flat_network.linear(data).relu()
    assert flat_network.first.theta.item() == pytest.approx(z.max().item())
    assert flat_network.second.theta.item() == pytest.approx(z.sum(1).max().item())
    with pytest.raises(CalibrationError, match="no channels") as caught:
        calibrate_thresholds(flat_network, sites, Maximum(PerChannel()), data)
    assert "'second'" in caught.value.what
    assert "PerLayer" in caught.value.fix


def test_only_the_sites_given_are_set(flat_network):
    calibrate_thresholds(flat_network, {"first": flat_network.first}, Maximum(), torch.full((1, 2), 3.0))
    assert flat_network.second.theta.item() == 1.0
    assert flat_network.first.theta.item() != 1.0
