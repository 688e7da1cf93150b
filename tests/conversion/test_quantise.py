"""Quantising: numbers on grids, checked by hand, in int64 with NumPy, and against every way to run a network."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

import transpike as tp
from transpike import zoo
from transpike.conversion.config import read_conversion
from transpike.errors import CalibrationError, ConfigError, ConversionError, ModelError, RangeError, TrainingError
from transpike.kernels import KernelPreference
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Radix, Residual, SignedDigits


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def two_layers(scale: Tensor | None = None) -> nn.Sequential:
    """2 inputs, 2 neurons, 1 answer; ``scale`` of the neurons' channels changes nothing but their units."""
    scale = torch.ones(2) if scale is None else scale
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    model[0].weight.copy_(torch.tensor([[0.5, -0.25], [0.3, 0.1]]) * scale.unsqueeze(1))
    model[0].bias.copy_(torch.tensor([0.1, -0.05]) * scale)
    model[2].weight.copy_(torch.tensor([[1.0, -0.3]]) / scale)
    model[2].bias.fill_(0.25)
    return model.eval()


def converted_by_hand(scale: Tensor | None = None) -> tp.SpikingNetwork:
    x = torch.tensor([[1.0, 0.5]])
    snn = tp.convert(two_layers(scale), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    site = snn.site(snn.sites[0].name)
    theta = torch.tensor([2.0, 0.5]) * (torch.ones(2) if scale is None else scale)
    site.set_threshold(theta)
    site.set_initial_potential(theta / 2)
    return snn


def test_numbers_of_a_network_by_hand() -> None:
    """W / theta = [[0.25, -0.125], [0.6, 0.2]]; the largest whole number of 4 bits is 7."""
    snn = tp.quantise(converted_by_hand(), tp.Quantisation(4, input_bits=3), calibration=torch.tensor([[1.0, 0.5]]))
    site, network = snn.site(snn.sites[0].name), snn.network
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert torch.equal(layers[0].weight, torch.tensor([[4, -2], [5, 2]]) / torch.tensor([[16.0], [8.0]]))
    # inputs are multiples of 1/4, so sums are multiples of 2^-6 and 2^-5, and biases 4 bits finer
    assert torch.equal(site.grid, torch.tensor([2.0**-10, 2.0**-9]))
    assert torch.equal(layers[0].bias, torch.tensor([round(0.05 * 1024) / 1024, round(-0.1 * 512) / 512]))
    assert torch.equal(site.theta, torch.ones(2))
    assert torch.equal(site.v_init, torch.full((2,), 0.5))
    assert torch.equal(site.unit, torch.tensor([2.0, 0.5]))
    assert torch.equal(layers[1].weight, torch.tensor([[4 / 2, 0.0]]))  # of 2 and -0.15, in halves
    assert torch.equal(layers[1].bias, torch.tensor([0.25]))
    # potentials 0.737, 0.975, 1.212 and 1.150, 0.801, 1.452: the second one's events are worth nothing
    answer = snn(torch.tensor([[1.0, 0.5]]), steps=3)
    assert torch.equal(answer.flatten(), torch.tensor([0.25, 0.25, 0.25 + 2 / 3]))
    sent: list[Tensor] = []
    snn(torch.tensor([[1.0, 0.5]]), steps=3, observe=lambda _, __, events: sent.append(events))
    assert sent[0][:, 0].tolist() == [[0, 1], [0, 0], [1, 1]]


@settings(deadline=None, max_examples=25)
@given(st.integers(-4, 4), st.integers(-4, 4))
def test_scaling_a_channel_by_a_power_of_two_changes_no_event(first: int, second: int) -> None:
    generator = torch.Generator().manual_seed(first + 10 * second)
    x = torch.rand(20, 2, generator=generator)
    with torch.no_grad():
        networks = [converted_by_hand(scale) for scale in (None, torch.tensor([2.0**first, 2.0**second]))]
        answers = [tp.quantise(each, 5, calibration=torch.ones(1, 2))(x, steps=6) for each in networks]
    assert torch.equal(*answers)


class Block(nn.Module):
    """A residual block; its shortcut is the identity, or a convolution with a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """A small residual network; its answer is read from an average over 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.layer1, self.layer2 = Block(8, 8, 1), Block(8, 16, 2)
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(F.relu(self.bn(self.conv(x)))))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    network = ResNet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.05, 0.3)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.2)
    return network.eval()


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
MSE = tp.rules.MinimumMSE(8, tp.PerChannel())


def quantised_resnet(schedule=None, bits: int = 8, **settings) -> tp.SpikingNetwork:
    conversion = tp.Conversion(MSE, schedule=schedule or Plain(), quantise=tp.Quantisation(bits, **settings))
    return tp.convert(resnet(), conversion, example_inputs=IMAGES, calibration=IMAGES)


class Whole:
    """A file's numbers as int64 multiples of ``2^-40``, read without the library."""

    BITS = 40

    def __init__(self, path: Path) -> None:
        self.numbers: dict[str, np.ndarray] = {}
        with safe_open(str(path), framework="np") as file:
            names = list(file.keys())
            for name in names:
                whole = file.get_tensor(name)
                if name + "#exponents" in names:
                    exponents = file.get_tensor(name + "#exponents").astype(np.int64)
                    rows = whole.astype(np.int64).reshape(len(exponents), -1)
                    shifts = self.BITS - exponents
                    assert (shifts[np.abs(rows).max(1) > 0] >= 0).all(), name
                    self.numbers[name] = (rows << np.maximum(shifts, 0)[:, None]).reshape(whole.shape)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.numbers[f"network.{name}"]


def convolve(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, stride: int, padding: int) -> np.ndarray:
    """``x`` in whole numbers ``[N, C, H, W]``."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows = (x.shape[2] - weight.shape[2]) // stride + 1
    out = np.zeros((len(x), len(weight), rows, rows), np.int64)
    for dy in range(weight.shape[2]):
        for dx in range(weight.shape[3]):
            part = x[:, :, dy : dy + stride * (rows - 1) + 1 : stride, dx : dx + stride * (rows - 1) + 1 : stride]
            out += np.einsum("nchw,oc->nohw", part, weight[:, :, dy, dx])
    return out if bias is None else out + bias[None, :, None, None]


def trains(whole: Whole, x: np.ndarray, steps: int, fire) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Events of every site and the sums of the answer, by whole numbers alone. The input is in its grid's steps."""
    ones = 1 << Whole.BITS
    step_bits = whole.BITS - int(whole["input_grid@0.step"]).bit_length() + 1
    names = ["relu@0", "layer1.relu@0", "layer1.relu@1", "layer2.relu@0", "layer2.relu@1"]
    sent: dict[str, np.ndarray] = {}

    def neurons(name: str, drives: list[np.ndarray]) -> list[np.ndarray]:
        start = np.broadcast_to(whole[f"{name}.v_init"], drives[0].shape[1:]).copy()
        events = fire(np.stack(drives), np.broadcast_to(start, drives[0].shape).copy(), ones)
        sent[name] = events
        return list(events)

    def layer(name: str, inputs: list[np.ndarray], stride: int = 1, padding: int = 1) -> list[np.ndarray]:
        weight, bias = whole[f"{name}.weight"], whole[f"{name}.bias"]
        return [convolve(each, weight, bias, stride, padding) for each in inputs]

    first = convolve(x, whole["conv.weight"], None, 1, 1) >> step_bits
    assert ((first << step_bits) == convolve(x, whole["conv.weight"], None, 1, 1)).all()
    first = first + whole["conv.bias"][None, :, None, None]
    stem = neurons(names[0], [first] * steps)
    inner = neurons(names[1], layer("layer1.conv1", stem))
    edge = whole["edge@0.weight"][None]
    block = neurons(names[2], [a + b * edge for a, b in zip(layer("layer1.conv2", inner), stem, strict=True)])
    inner = neurons(names[3], layer("layer2.conv1", block, 2))
    shortcut = layer("layer2.shortcut.0", block, 2, 0)
    main = layer("layer2.conv2", inner)
    last = neurons(names[4], [a + b for a, b in zip(main, shortcut, strict=True)])
    sums = [each.sum((2, 3)) @ whole["linear.weight"].T + 16 * whole["linear.bias"] for each in last]
    return sent, sums


def plain(drive: np.ndarray, v: np.ndarray, theta: int) -> np.ndarray:
    events = np.zeros(drive.shape, np.int64)
    for t, current in enumerate(drive):
        v = v + current
        events[t] = v >= theta
        v = v - theta * events[t]
    return events


def residual(drive: np.ndarray, v: np.ndarray, theta: int) -> np.ndarray:
    for current in drive[:3]:
        v = v + current
        v = v - theta * (v >= theta)
    return plain(drive, v, theta)


def accumulate(drive: np.ndarray, v: np.ndarray, theta: int) -> np.ndarray:
    """Counts of six steps, sent by one neuron after another from just below, or at, half a threshold."""
    count = np.clip((v + drive.sum(0)) // theta, 0, 6)
    index = np.arange(count[0].size).reshape(count.shape[1:]) % 2
    total = [(2 * count * t + 6 - index) // 12 for t in range(7)]
    return np.diff(np.stack(total), axis=0)


@pytest.mark.parametrize(
    ("schedule", "fire"),
    [(Plain(), plain), (Residual(3), residual), (AccumulateThenFire(6), accumulate)],
    ids=["plain", "residual", "accumulate"],
)
def test_a_residual_network_is_what_int64_makes_of_its_file(schedule, fire, tmp_path: Path) -> None:
    snn = quantised_resnet(schedule)
    tp.save(snn, tmp_path / "snn.safetensors")
    whole = Whole(tmp_path / "snn.safetensors")
    step = snn.network.get_submodule("input_grid@0").step
    limit = snn.network.get_submodule("input_grid@0").limit
    x = torch.clamp(torch.round(IMAGES / step), -limit, limit).numpy().astype(np.int64)
    sent, sums = trains(whole, x, 6, fire)
    wanted = np.cumsum(np.stack(sums), 0) / np.arange(1, 7)[:, None, None] / 16 / 2.0**Whole.BITS
    assert sum(int(events.sum()) for events in sent.values()) > 1000
    found: dict[str, Tensor] = {}
    dense = snn(IMAGES, steps=6, observe=lambda name, _, events: found.update({name: events}))
    for name, events in sent.items():
        assert np.array_equal(events, found[name].numpy().astype(np.int64)), name
    counts: dict[str, Tensor] = {}
    answer = snn(IMAGES, steps=6, count=lambda name, number: counts.update({name: number}))
    for name, events in sent.items():
        assert counts[name].tolist() == events.reshape(6, -1).sum(1).tolist(), name
    assert torch.equal(answer, dense)
    assert torch.equal(answer, torch.from_numpy(wanted).float())


def test_it_still_reads_as_the_network_it_came_from() -> None:
    network, snn = resnet(), quantised_resnet()
    error = (snn.ann(IMAGES) - network(IMAGES)).abs().max() / network(IMAGES).abs().max()
    assert error < 0.02
    coarse = quantised_resnet(bits=3)
    assert (coarse.ann(IMAGES) - network(IMAGES)).abs().max() / network(IMAGES).abs().max() > 3 * error


def test_trained_activations_keep_their_staircases() -> None:
    torch.manual_seed(0)
    model = tp.tailor(resnet(), tp.activations.QCFS(4, theta_init=0.7), example_inputs=IMAGES).eval()
    snn = tp.quantise(tp.convert(model, example_inputs=IMAGES), calibration=IMAGES)
    z = torch.linspace(-2, 2, 101)
    name = snn.sites[0].name
    site = snn.site(name)
    wanted = model.get_submodule(name)(z)
    assert torch.allclose(site(z / site.unit.flatten()[0]) * site.unit.flatten()[0], wanted, atol=1e-6)
    accumulated = snn(IMAGES, steps=4, schedule=AccumulateThenFire(4))
    assert torch.isfinite(accumulated).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 8), st.integers(0, 2**20))
def test_a_network_on_the_grid_stays_as_it_is(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    most = 2 ** (bits - 1) - 1
    with torch.no_grad():
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
        for layer in (model[0], model[2]):
            whole = torch.randint(-most, most + 1, layer.weight.shape, generator=generator).float()
            whole[:, 0] = most
            layer.weight.copy_(whole / 64)
            layer.bias.copy_(torch.randint(-64, 65, layer.bias.shape, generator=generator) / 64)
        x = torch.rand(8, 3, generator=generator)
        snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
        site = snn.site(snn.sites[0].name)
        site.set_threshold(torch.full((4,), 2.0))
        q = tp.quantise(snn, bits, calibration=x)
        assert torch.equal(q.network.get_submodule("0").weight * 2, model[0].weight)
        assert torch.equal(q.network.get_submodule("0").bias * 2, model[0].bias)
        assert torch.equal(q.network.get_submodule("2").weight / 2, model[2].weight)
        again = tp.quantise(q, bits)
        assert all(torch.equal(a, b) for a, b in zip(q.state_dict().values(), again.state_dict().values(), strict=True))


def test_what_corrections_set_is_put_on_the_grid() -> None:
    parts = [tp.rules.BiasCorrection(4), tp.rules.OptimalPotential(4), tp.rules.TemporalBiasCorrection(4)]
    for part in parts:
        conversion = tp.Conversion(MSE, corrections=(part,), quantise=tp.Quantisation())
        snn = tp.convert(resnet(), conversion, example_inputs=IMAGES, calibration=IMAGES)
        plain_one = quantised_resnet()
        changed = 0
        for planned in snn.sites:
            site, before = snn.site(planned.name), plain_one.site(planned.name)
            for values in (site.v_init, site.bias):
                assert torch.equal(values / site.grid, torch.round(values / site.grid)), part
            same = site.v_init.shape == before.v_init.shape and torch.equal(site.v_init, before.v_init)
            changed += not (same and not site.bias.any())
        assert changed > 0, part
        weights = [module.weight for module in snn.network.modules() if isinstance(module, nn.Conv2d)]
        others = [module.weight for module in plain_one.network.modules() if isinstance(module, nn.Conv2d)]
        assert all(map(torch.equal, weights, others))


def test_parts_that_set_thresholds_come_before() -> None:
    conversion = tp.Conversion(MSE, corrections=(tp.rules.AnswerThresholds(4),), quantise=tp.Quantisation())
    snn = tp.convert(resnet(), conversion, example_inputs=IMAGES, calibration=IMAGES)
    assert all(torch.equal(snn.site(site.name).theta, torch.ones_like(snn.site(site.name).theta)) for site in snn.sites)


def test_files_load_back_exactly_and_are_small(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 3, 32, 32)
    snn = tp.convert(zoo.build("cifar-resnet20"), tp.Conversion(MSE), example_inputs=x, calibration=x)
    q = tp.quantise(snn, calibration=x)
    tp.save(snn, tmp_path / "float.safetensors")
    tp.save(q, tmp_path / "int8.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("int8", "float")]
    assert sizes[0] < 0.33 * sizes[1]
    loaded = tp.load(tmp_path / "int8.safetensors")
    assert loaded.conversion == q.conversion
    before, after = q.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert torch.equal(tensor, after[name]), name
    assert torch.equal(loaded(x, steps=3), q(x, steps=3))
    assert "int8" in str(tp.describe(tmp_path / "int8.safetensors").conversion)
    with safe_open(str(tmp_path / "int8.safetensors"), framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if name.endswith("conv1.weight")}  # noqa: SIM118
    assert kinds == {torch.int8}


def test_it_says_so() -> None:
    snn = quantised_resnet(steps=32)
    assert "quantised to int8 for up to 32 steps" in snn.summary()
    assert "int8" in str(snn.conversion)
    report = tp.evaluate(snn, [(IMAGES, torch.zeros(6, dtype=torch.int64))], steps=2)
    assert report.rows[-1].events > 0
    copied = copy.deepcopy(snn)
    assert torch.equal(copied(IMAGES, steps=2), snn(IMAGES, steps=2))


def test_digits_run_exactly_and_other_codes_are_refused() -> None:
    for schedule in (Radix(4), SignedDigits(5)):
        snn = quantised_resnet(schedule)
        wide = copy.deepcopy(snn).double()
        answer = snn(IMAGES, steps=schedule.digits)
        assert torch.equal(answer, snn(IMAGES, steps=schedule.digits, kernel=KernelPreference.REFERENCE))
        assert torch.equal(answer.double(), wide(IMAGES.double(), steps=schedule.digits))
        with pytest.raises(ValueError, match="quantised for"):
            snn(IMAGES, steps=2, schedule=Plain())
    with pytest.raises(ValueError, match="quantised for plain"):
        quantised_resnet()(IMAGES, steps=4, schedule=Radix(4))
    with pytest.raises(ValueError, match=r"base 1\.5"):
        tp.Conversion(schedule=SignedDigits(5, base=1.5), quantise=tp.Quantisation())


def test_radix_answers_as_accumulate_then_fire() -> None:
    """Both are quantised alike, as far as grids are concerned: thresholds differ by a factor that units take."""
    one = quantised_resnet(AccumulateThenFire(15))
    other = quantised_resnet(Radix(4))
    difference = (one(IMAGES, steps=15)[-1] - other(IMAGES, steps=4)[-1]).abs().max()
    assert difference < 0.05 * one(IMAGES, steps=15).abs().max()


def test_runs_that_may_be_inexact_are_refused() -> None:
    snn = quantised_resnet(steps=4)
    assert snn(IMAGES, steps=4).shape[0] == 4
    with pytest.raises(ValueError, match="for up to 4"):
        snn(IMAGES, steps=5)
    with pytest.raises(ValueError, match="for up to 4"):
        snn(IMAGES, steps=3, schedule=OffsetSpike(5))


def test_sums_that_could_be_inexact_are_refused_by_site() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4096, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.randn(4, 4096)
    snn = tp.convert(model, tp.Conversion(MSE), example_inputs=x, calibration=x)
    before = copy.deepcopy(snn.state_dict())
    with pytest.raises(RangeError, match="site 1"):
        tp.quantise(snn, tp.Quantisation(steps=4096, input_bits=12), calibration=x)
    assert all(torch.equal(value, snn.state_dict()[name]) for name, value in before.items())
    wide = tp.quantise(snn, tp.Quantisation(steps=8), calibration=x)
    whole = wide.network.get_submodule("0").weight
    bound = whole.abs().sum(1) * wide.network.get_submodule("input_grid@0").limit
    assert bool((8 * bound * wide.network.get_submodule("input_grid@0").step < 2**24 * wide.site("1").grid).all())


def test_what_cannot_be_put_on_a_grid_is_refused_by_name() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)) * 0.3)

    x = torch.randn(4, 4)
    with pytest.raises(ConversionError, match="mul"):
        tp.convert(Odd().eval(), tp.Conversion(MSE, quantise=tp.Quantisation()), example_inputs=x, calibration=x)
    gelu = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    conversion = tp.Conversion(tp.rules.Maximum(), schedule=SignedDigits(4), quantise=tp.Quantisation())
    with pytest.raises(ConversionError, match="GELU"):
        tp.convert(gelu, conversion, example_inputs=x, calibration=x)


def test_other_refusals() -> None:
    snn = quantised_resnet()
    with pytest.raises(ValueError, match="quantised already"):
        tp.quantise(snn, 4)
    with pytest.raises(ValueError, match=r"before tp\.quantise"):
        snn.site(snn.sites[0].name).set_threshold(torch.ones(()))
    with pytest.raises(ValueError, match="bits must be"):
        tp.Quantisation(9)
    with pytest.raises(ModelError, match="not converted"):
        tp.quantise(resnet())
    plain_one = tp.convert(resnet(), tp.Conversion(MSE), example_inputs=IMAGES, calibration=IMAGES)
    with pytest.raises(CalibrationError, match="range of the inputs"):
        tp.quantise(plain_one)
    with pytest.raises(ModelError, match="float32"):
        tp.quantise(plain_one.half(), calibration=IMAGES)
    with pytest.raises(TrainingError, match="quantise"):
        tp.fit_snn(snn, zoo_data(), steps=2, epochs=1)


def zoo_data() -> tp.data.Data:
    return tp.data.load_data("digits")


def test_declared_normalisation_gives_the_range_of_the_inputs() -> None:
    from transpike.serialization.model_info import ModelInfo, set_model_info

    snn = tp.convert(resnet(), tp.Conversion(MSE), example_inputs=IMAGES, calibration=IMAGES)
    spec = tp.InputSpec((3, 8, 8), mean=(0.5, 0.4, 0.5), std=(0.25, 0.2, 0.25))
    set_model_info(snn.network, ModelInfo(inputs=spec))
    grid = tp.quantise(snn).network.get_submodule("input_grid@0")
    assert float(grid.limit * grid.step) == 3.0  # (1 - 0.4) / 0.2
    assert float(grid.step) == 2.0**-6  # 3 * 2^6 = 192 has 8 bits, 384 has 9
    assert torch.equal(grid(torch.tensor([0.51 / 64, -5.0])), torch.tensor([1 / 64, -3.0]))


def test_words() -> None:
    assert read_conversion({"quantise": 6}).quantise == tp.Quantisation(6)
    assert read_conversion({"quantise": "8:steps=32:fraction=2"}).quantise == tp.Quantisation(8, 2, steps=32)
    assert read_conversion({"quantise": {"bits": 5, "input_bits": 4}}).quantise == tp.Quantisation(5, input_bits=4)
    found = read_conversion({"method": "accumulate", "steps": 32, "quantise": 8})
    assert found.quantise == tp.Quantisation(8, steps=32)
    assert found.schedule == AccumulateThenFire(32)
    for wrong in ("nine", "8:colour=1", 1):
        with pytest.raises(ConfigError):
            read_conversion({"quantise": wrong})
    assert json.dumps(str(found.quantise)) == '"int8 for up to 32 steps"'
