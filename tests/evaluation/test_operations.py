"""Operations against NeuroBench, against hand counts, and energy from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.errors import DataError
from transpike.evaluation.energy import ENERGY_RULES, EnergyRule
from transpike.evaluation.operations import LayerOperations, Operations, count_ann_operations, count_operations
from transpike.schedules import AccumulateThenFire, OffsetSpike, Radix, SignedDigits, Staggered, TwoPasses

THETAS = (4.0, 8.0)
NEUROBENCH = {
    2: {"Effective_MACs": 1978.8, "Effective_ACs": 1457.05, "Dense": 11600.0},
    5: {"Effective_MACs": 4947.0, "Effective_ACs": 3473.2, "Dense": 29000.0},
}
"""What neurobench 2.3.0 counts for `SpikingModules` on `digits`, by T: see the test that runs where it is installed."""


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """Twenty digits; their pixels are multiples of 1/16, so that all sums are exact."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    return torch.tensor(load_digits().images[:20, None] / 16, dtype=torch.float32)


def source() -> nn.Sequential:
    """A small CNN with whole weights, some of them zero; ReLU where neurons will stand."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 10)),
    ).eval()
    draw = np.random.RandomState(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.tensor(draw.randint(-2, 3, tuple(parameter.shape))))
    return network


def converted(digits: Tensor) -> tp.SpikingNetwork:
    conversion = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())
    snn = tp.convert(source(), conversion, calibration=digits, example_inputs=digits[:2])
    for site, theta in zip(snn.sites, THETAS, strict=True):
        snn.site(site.name).set_threshold(torch.tensor(theta))
        snn.site(site.name).set_initial_potential(torch.tensor(theta / 2))
    return snn


class Neurons(nn.Module):
    """Integrate and fire; sends 0 and 1."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = theta
        self.v: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        v = (self.theta / 2 if self.v is None else self.v) + current
        events = (v >= self.theta).float()
        self.v = v - self.theta * events
        return events


class SpikingModules(nn.Module):
    """The converted network in plain torch: theta is in the weights behind, every layer runs at every step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.layers = source()
        for at, theta in zip((1, 3), THETAS, strict=True):
            self.layers[at] = Neurons(theta)
        with torch.no_grad():
            for at, theta in zip((2, 5), THETAS, strict=True):
                layer = self.layers[at]
                assert isinstance(layer, nn.Conv2d | nn.Linear)
                layer.weight.mul_(theta)

    def forward(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, Neurons):
                layer.v = None
        return torch.stack([self.layers(images) for _ in range(self.steps)]).mean(0)


def compare(found: Operations, wanted: dict[str, float], steps: int) -> None:
    first = found.layers[0]
    assert first.constant
    assert found.effective_acs == pytest.approx(wanted["Effective_ACs"], rel=1e-12)
    assert found.repeated_macs == pytest.approx(wanted["Effective_MACs"], rel=1e-12)
    assert found.effective_macs == pytest.approx(wanted["Effective_MACs"] / steps, rel=1e-12)
    assert found.dense + (steps - 1) * first.dense == pytest.approx(wanted["Dense"], rel=1e-12)


@pytest.mark.parametrize("steps", NEUROBENCH)
def test_counts_are_those_that_neurobench_made(digits: Tensor, steps: int) -> None:
    snn = converted(digits)
    with torch.no_grad():
        assert torch.equal(snn(digits, steps=steps)[-1], SpikingModules(steps)(digits))
    compare(count_operations(snn, digits, steps=steps), NEUROBENCH[steps], steps)


@pytest.mark.parametrize("steps", NEUROBENCH)
def test_counts_are_those_that_neurobench_makes(digits: Tensor, steps: int) -> None:
    pytest.importorskip("neurobench")
    found, sparsity = neurobench_counts(digits, steps)
    assert found == pytest.approx(NEUROBENCH[steps], rel=1e-12)
    own = count_operations(converted(digits), digits, steps=steps)
    compare(own, found, steps)
    assert own.activation_sparsity == pytest.approx(sparsity, rel=1e-12)


def neurobench_counts(digits: Tensor, steps: int) -> tuple[dict[str, float], float]:
    """The library's own counts of the plain torch network."""
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import ActivationSparsity, SynapticOperations
    from neurobench.models import TorchModel
    from torch.utils.data import DataLoader, TensorDataset

    model = TorchModel(SpikingModules(steps))
    model.add_activation_module(Neurons)
    data = DataLoader(TensorDataset(digits, torch.zeros(len(digits), dtype=torch.long)), batch_size=len(digits))
    results = Benchmark(model, data, [], [], [[], [ActivationSparsity, SynapticOperations]]).run(quiet=True)
    return results["SynapticOperations"], results["ActivationSparsity"]


def loops(layer: nn.Module, values: Tensor) -> int:
    """Products of non-zero input and weight: one input and one weight at a time, by what they change."""
    total = 0
    with torch.no_grad():
        layer.bias.zero_()
        weight = layer.weight.clone()
        for at in weight.nonzero().tolist():
            layer.weight.zero_()
            layer.weight[tuple(at)] = 1.0
            total += int(layer((values != 0).float()).sum())
        layer.weight.copy_(weight)
    return total


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 5)),
        (nn.Conv2d(4, 4, 3, padding="same", dilation=2, groups=4), (4, 5, 5)),
        (nn.Conv1d(2, 3, 2), (2, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 4, 4)),
        (nn.Linear(5, 3), (2, 5)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_counts_of_one_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-1, 2, layer.weight.shape))
    x = torch.randint(0, 3, (4, *shape)).float()
    network = nn.Sequential(layer, nn.ReLU(), nn.Flatten()).eval()
    snn = tp.convert(network, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    found = count_ann_operations(snn, [x[:3], x[3:]]).layers
    assert len(found) == 1
    assert found[0].effective * 4 == loops(layer, x)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    assert found[0].dense == loops(layer, torch.ones(1, *shape))


class Branches(nn.Module):
    """Layers behind one population, average pooling, a sum of two populations, and both side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.one = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.pooled, self.both, self.beside = nn.Linear(4, 3), nn.Linear(8, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.first(x)), torch.relu(self.second(x))
        pooled = nn.functional.avg_pool1d(a.unsqueeze(1), 2).squeeze(1)
        return self.one(a) + self.pooled(pooled) + self.both(a + b) + self.beside(torch.cat([a, b], 1))


def test_only_layers_behind_events_add() -> None:
    torch.manual_seed(0)
    x = torch.rand(32, 4)
    network = Branches().eval()
    with torch.no_grad():
        for layer in (network.first, network.second):
            layer.weight.abs_()  # so that neighbours fire together at times
    conversion = tp.Conversion(tp.rules.Percentile(90.0, tp.PerLayer()), tp.rules.HalfThreshold())
    snn = tp.convert(network, conversion, calibration=x, example_inputs=x)
    kinds = {layer.layer: layer.events for layer in count_operations(snn, x, steps=8).layers}
    assert kinds == {
        **{"first": False, "second": False, "pooled": False, "both": False},
        **{"one": True, "beside": True},
    }


def test_a_probe_counts(digits: Tensor) -> None:
    """Sites in front of probing ones send rho steps, though the answer takes one."""
    snn = converted(digits)
    plain = {layer.layer: layer for layer in count_operations(snn, digits, steps=1).layers}
    for schedule in (OffsetSpike(4), AccumulateThenFire(4)):
        layers = {layer.layer: layer for layer in count_operations(snn, digits, steps=1, schedule=schedule).layers}
        assert layers["2"].runs == 4 * plain["2"].runs
        assert layers["0"].runs == plain["0"].runs == 1


@pytest.mark.parametrize("schedule", [TwoPasses(4), Staggered(2), OffsetSpike(2)], ids=str)
def test_events_behind_a_site_are_its_fan_out(digits: Tensor, schedule: tp.schedules.Schedule) -> None:
    """The linear layer is dense: every spike of the last site that it takes meets as many weights as are not zero."""
    snn = converted(digits)
    spikes = torch.zeros(96)

    def look(name: str, _: Tensor, events: Tensor) -> None:
        if name == snn.sites[-1].name:
            spikes.add_(events.flatten(2).sum((0, 1)))

    with torch.no_grad():
        snn(digits, steps=4, schedule=schedule, observe=look)
    fans = (source()[-1].weight != 0).sum(0).float()
    last = count_operations(snn, digits, steps=4, schedule=schedule).layers[-1]
    assert last.effective * len(digits) == float(spikes @ fans)


def test_energy_by_hand() -> None:
    layers = (
        LayerOperations("first", False, 1.0, True, 1000.0, 2000.0),
        LayerOperations("second", True, 4.0, False, 3000.0, 8000.0),
    )
    found = Operations(layers, 0.5, 10.0, 1)
    rule = EnergyRule("", 2.0, 5.0, "", "", "")
    assert rule.spiking(found) == pytest.approx((2 * 3000 + 5 * 1000) * 1e-6)
    assert rule.spiking(found, repeated=True) == pytest.approx((2 * 3000 + 5 * 4000) * 1e-6)
    assert rule.dense(found) == pytest.approx(5 * 10_000 * 1e-6)
    assert [(rule.addition, rule.multiplication) for rule in ENERGY_RULES] == [(0.9, 4.6), (0.077, 12.5)]


def test_nothing_to_count() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Flatten())
    x = torch.rand(4, 3)
    snn = tp.convert(network, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    with pytest.raises(DataError, match="nothing to count"):
        count_operations(snn, x, steps=2)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        count_operations(snn, x, steps=0)


@pytest.mark.parametrize("schedule", [SignedDigits(4), SignedDigits(4, 1.6, 0.6, 0), Radix(3)], ids=repr)
def test_digits_are_events_although_steps_weigh_them_differently(digits: Tensor, schedule) -> None:
    snn = converted(digits)
    found = count_operations(snn, [digits], steps=schedule.digits, schedule=schedule)
    sent: list[Tensor] = []
    snn(digits, steps=schedule.digits, schedule=schedule, observe=lambda _, __, events: sent.append(events))
    first, second, third = (module for module in source() if isinstance(module, nn.Conv2d | nn.Linear))
    used = torch.nn.functional.conv2d(
        (sent[0].flatten(0, 1) != 0).float(), (second.weight != 0).float(), stride=2, padding=1
    )
    last = (sent[1].flatten(0, 1).flatten(1) != 0).float() @ (third.weight != 0).float().T
    assert found.effective_acs == pytest.approx(float(used.sum() + last.sum()) / len(digits))
    image = torch.nn.functional.conv2d((digits != 0).float(), (first.weight != 0).float(), padding=1)
    assert found.effective_macs == pytest.approx(float(image.sum()) / len(digits))
