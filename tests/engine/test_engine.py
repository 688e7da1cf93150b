"""The event-driven engine against the reference kernel: spike for spike on dyadic networks of every kind."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transpike as tp
from transpike import zoo
from transpike.engine.engine import Engine
from transpike.engine.spike_map import MapShape
from transpike.kernels import KernelPreference
from transpike.neurons import IF, Reset
from transpike.schedules import (
    AccumulateThenFire,
    ExactPotential,
    OffsetSpike,
    Plain,
    Radix,
    Residual,
    Schedule,
    SignedDigits,
    Staggered,
    TwoPasses,
)
from transpike.testing import TOPOLOGIES, assert_same_answer, dyadic_batch, make_dyadic, set_dyadic_thresholds

compiled = pytest.importorskip("transpike.kernels._native")
MAXIMUM = tp.Conversion(tp.rules.Maximum())
SCHEDULES = [Plain(), Residual(3), OffsetSpike(4, iterations=2), ExactPotential(4), AccumulateThenFire(4)]


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def convert(model: nn.Module, *inputs: torch.Tensor, conversion=MAXIMUM, **settings) -> tp.SpikingNetwork:
    snn = tp.convert(model.eval(), conversion, calibration=[inputs], example_inputs=inputs, **settings)
    return set_dyadic_thresholds(snn)


def assert_engine_is_the_reference(
    snn: tp.SpikingNetwork, *inputs: torch.Tensor, steps: int, schedule: Schedule | None = None
) -> None:
    counts: dict[str, torch.Tensor] = {}
    wanted: dict[str, torch.Tensor] = {}
    answer = snn(*inputs, steps=steps, schedule=schedule, count=lambda name, n: counts.update({name: n}))
    reference = snn(
        *inputs,
        steps=steps,
        schedule=schedule,
        kernel=KernelPreference.REFERENCE,
        count=lambda name, n: wanted.update({name: n}),
    )
    assert_same_answer(answer, reference)
    for name, number in counts.items():  # sites that the answer does not need are not run
        assert torch.equal(number, wanted[name]), name


@pytest.mark.parametrize("digits", [1, 3, 8])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_every_topology_runs_like_the_reference_in_digits(topology, digits: int) -> None:
    """With thresholds of which ``2^T - 1`` parts are dyadic, so that sums are exact in any order."""
    inputs = topology.dyadic_inputs(3)
    snn = convert(topology.dyadic_model(), *inputs)
    for site in snn.sites:
        module = snn.site(site.name)
        module.set_threshold(module.theta * (2**digits - 1) / 2 ** max(0, digits - 2))
    schedule = Radix(digits)
    assert snn.engine.report(schedule)
    for steps in (digits, 1, digits + 2):
        assert_engine_is_the_reference(snn, *inputs, steps=steps, schedule=schedule)
    snn.engine.dense = list(snn.engine.report(schedule))[1::2]
    assert_engine_is_the_reference(snn, *inputs, steps=digits, schedule=schedule)


@pytest.mark.parametrize(("digits", "lag"), [(1, 0), (4, 2), (5, 1), (3, 9)])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_every_topology_runs_like_the_reference_in_signed_digits(topology, digits: int, lag: int) -> None:
    """With thresholds that the digits divide into dyadic numbers, so that sums are exact in any order."""
    inputs = topology.dyadic_inputs(3)
    snn = convert(topology.dyadic_model(), *inputs)
    for site in snn.sites:
        module = snn.site(site.name)
        module.set_threshold(module.theta * (2**digits - 1) / 2**digits)
    lags = ((snn.sites[0].name, 0), (snn.sites[-1].name, lag + 1))
    schedule = SignedDigits(digits, 2.0, 0.625, lag, lags)
    assert snn.engine.report(schedule)
    for steps in (digits, 1, digits + 2):
        assert_engine_is_the_reference(snn, *inputs, steps=steps, schedule=schedule)
    snn.engine.dense = list(snn.engine.report(schedule))[1::2]
    assert_engine_is_the_reference(snn, *inputs, steps=digits, schedule=schedule)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_every_topology_runs_like_the_reference(topology, schedule: Schedule) -> None:
    inputs = topology.dyadic_inputs(3)
    snn = convert(topology.dyadic_model(), *inputs)
    assert_engine_is_the_reference(snn, *inputs, steps=5, schedule=schedule)
    snn.engine.dense = list(snn.engine.report(schedule))[1::2]  # every second stage by torch operators
    assert not any(snn.engine.report(schedule)[name].events for name in snn.engine.dense)
    assert_engine_is_the_reference(snn, *inputs, steps=5, schedule=schedule)


def test_two_convolutions_with_one_channel_between_them() -> None:
    """With channels last torch gets the second one wrong, so the engine must not place images so."""
    x = dyadic_batch((2, 4, 7, 7), 1)
    layers = nn.Conv2d(4, 1, (3, 1), (2, 3), 1, (2, 2)), nn.Conv2d(1, 48, (3, 2), (1, 2), (1, 0))
    torch.manual_seed(0)
    model = make_dyadic(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))
    snn = convert(model, x)
    assert_engine_is_the_reference(snn, x, steps=4)
    z = model[:2].double()(x.double())
    theta = snn.site("2").theta.double()
    spikes = torch.floor(0.5 + 4 * z / theta).clamp(0, 4)  # of a constant drive from theta / 2
    assert torch.equal(snn(x, steps=4)[-1].double(), model.double()[3:](spikes * theta / 4))


class Layer(nn.Module):
    """A stem, one convolution of any kind between populations, a linear readout."""

    def __init__(self, before: nn.Module, size: tuple[int, int], channels: int, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.before, self.layer = nn.Conv2d(1, channels, 1), before, layer
        out = layer(before(torch.zeros(1, channels, *size)))
        self.head = nn.Linear(out[0].numel(), 3)

    def forward(self, x):
        return self.head(F.relu(self.layer(self.before(F.relu(self.stem(x))))).flatten(1))


@st.composite
def layers(draw: st.DrawFn) -> tuple[Layer, torch.Tensor, int]:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    depthwise = draw(st.booleans())
    groups = 1 if depthwise else draw(st.sampled_from([1, 1, 2]))
    inside = draw(st.sampled_from([1, 3, 8, 11, 16, 33, 70] if groups == 1 else [2, 6, 34]))
    outside = inside if depthwise else groups * draw(st.sampled_from([1, 5, 8, 17, 40, 65]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (5, 3), (3, 1), (4, 4)]))
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 1), (3, 2)]))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]))
    pool = draw(st.sampled_from([None, None, nn.AvgPool2d(2), nn.AvgPool2d(4, 2)]))
    size = tuple(
        draw(st.integers(max(3, dilation[i] * (kernel[i] - 1) + 1), 9)) * (1 if pool is None else 3) for i in (0, 1)
    )
    layer = nn.Conv2d(
        inside,
        outside,
        kernel,
        stride,
        padding,
        dilation,
        inside if depthwise else groups,
        bias=draw(st.booleans()),
    )
    batch = draw(st.sampled_from([1, 2, 5]))
    steps = draw(st.sampled_from([1, 2, 3, 8, 64]))
    model = make_dyadic(Layer(pool or nn.Identity(), size, inside, layer))
    return model, dyadic_batch((batch, 1, *size), seed=batch), steps


@settings(deadline=None, max_examples=60)
@given(layers(), st.sampled_from(SCHEDULES), st.sampled_from(compiled.instruction_sets()))
def test_any_convolution_is_the_reference(case, schedule: Schedule, instruction_set: str) -> None:
    model, x, steps = case
    example = dyadic_batch((2, *x.shape[1:]), seed=7)
    snn = convert(model, example)
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        assert_engine_is_the_reference(snn, x, steps=steps, schedule=schedule)
        strided = x.repeat(1, 1, 1, 2)[..., : x.shape[3]]
        assert_engine_is_the_reference(snn, strided, steps=steps, schedule=schedule)
    finally:
        compiled.use_instruction_set(best)


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-vgg16", "cifar-resnet18"])
def test_whole_networks_run_event_by_event(name: str, instruction_set: str) -> None:
    torch.manual_seed(0)
    x = dyadic_batch((2, 3, 32, 32))
    model = make_dyadic(tp.tailor(zoo.build(name), tp.activations.QCFS(4, theta_init=2.0)), gain=1.0)
    snn = set_dyadic_thresholds(tp.convert(model, example_inputs=x))
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        assert_engine_is_the_reference(snn, x, steps=3)
    finally:
        compiled.use_instruction_set(best)
    assert all(stage.events for stage in snn.engine.report().values()), snn.engine.report()


class Shortcuts(nn.Module):
    """Identity, strided and padded, and pooled shortcuts; an average over the map; concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 9, 3, 2, 1)
        self.d, self.e = nn.Conv2d(9, 9, 1), nn.Linear(9, 4)

    def forward(self, x):
        x = F.relu(self.a(x))
        x = F.relu(self.b(x) + x)
        x = F.relu(self.c(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 3)))
        x = F.relu(self.d(F.avg_pool2d(x, 2)))
        return self.e(x.mean((2, 3)))


def test_answers_that_are_linear_in_spikes_are_read_without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the head of a classifier nor the pooling before it sees unpacked spikes."""
    torch.manual_seed(1)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    monkeypatch.setattr(MapShape, "unpack", None)
    assert snn(x, steps=3).shape == (3, 3, 4)


def test_shortcuts_and_means() -> None:
    torch.manual_seed(1)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    assert_engine_is_the_reference(snn, x, steps=6)
    stages = snn.engine.report()
    assert all(stage.events for stage in stages.values())


class Widening(nn.Module):
    """A shortcut whose channels move up by whole eights, to neurons or directly to another convolution."""

    def __init__(self, front: int, back: int, direct: bool) -> None:
        super().__init__()
        wide = 8 + front + back
        self.a, self.b = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, wide, 3, 2, 1)
        self.c, self.d = nn.Conv2d(wide, 4, 1), nn.Linear(4, 3)
        self.front, self.back, self.direct = front, back, direct

    def forward(self, x):
        x = F.relu(self.a(x))
        wide = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.front, self.back))
        x = wide if self.direct else F.relu(self.b(x) + wide)
        return self.d(F.relu(self.c(x)).mean((2, 3)))


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(("front", "back"), [(16, 8), (0, 8), (8, 0), (0, 1), (4, 4)])
def test_shortcuts_to_later_channels(front: int, back: int, direct: bool) -> None:
    torch.manual_seed(2)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Widening(front, back, direct)), x)
    assert_engine_is_the_reference(snn, x, steps=6)
    reasons = [stage.reason for stage in snn.engine.report().values()]
    why = "a convolution follows another convolution without neurons between them"
    assert reasons == (["", why] if direct else ["", "", ""])


class Sized(nn.Module):
    """Pooling over as many pixels as there are, asked for in each of the ways; at the end and between populations."""

    def __init__(self, way: str, inside: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
        self.way, self.inside = way, inside

    def forward(self, x):
        x = F.relu(self.a(x))
        size = {"size": lambda: x.size(3), "sizes": lambda: x.size()[2], "shape": lambda: x.shape[-1]}[self.way]()
        x = F.avg_pool2d(x, size)
        if self.inside:
            x = self.c(F.relu(self.b(x)))
        return x.view(x.size(0), -1)


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("way", ["size", "sizes", "shape"])
def test_pooling_over_a_size_that_the_graph_asks_for(way: str, inside: bool, instruction_set: str) -> None:
    torch.manual_seed(15)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Sized(way, inside)), x)
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        assert_engine_is_the_reference(snn, x, steps=5)
    finally:
        compiled.use_instruction_set(best)
    assert all(stage.events for stage in snn.engine.report().values())


class Stranger(nn.Module):
    """Operators between populations that have no event-driven form."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4 * 18 * 18, 3)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.c(F.relu(self.b(F.interpolate(x, scale_factor=3, mode="nearest"))).flatten(1))


def test_a_dense_stage_says_why() -> None:
    torch.manual_seed(6)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Stranger()), x)
    assert_engine_is_the_reference(snn, x, steps=6)
    assert {name: stage.reason for name, stage in snn.engine.report().items()} == {
        "relu@0": "",
        "relu@1": "torch.nn.functional.interpolate has no event-driven form",
    }


def test_initial_potentials_of_every_shape() -> None:
    torch.manual_seed(2)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    site = snn.site(snn.sites[1].name)
    for shape in ((), (5,), (5, 8, 8), (3, 5, 8, 8)):
        site.set_initial_potential(torch.rand(shape).mul(32).round() / 64)
        assert_engine_is_the_reference(snn, x, steps=4)
    with pytest.raises(ValueError, match=r"v_init of shape \(3, 5, 8, 8\) does not fit the 2 samples"):
        snn(x[:2], steps=4)


@dataclasses.dataclass(frozen=True)
class Renamed(Plain):
    """A user's schedule that emits as the plain one does, which nobody can know: it runs dense."""


@dataclasses.dataclass(frozen=True)
class Silent(Plain):
    """A user's schedule that emits in its own way."""

    def emit(self, visit):
        events, memory = super().emit(visit)
        return events * 0, memory


def test_what_has_no_compiled_form_says_why() -> None:
    torch.manual_seed(4)
    x = dyadic_batch((2, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    for schedule in (Silent(), Renamed(), Staggered(1), TwoPasses(2)):
        with pytest.raises(ValueError, match="has no compiled form"):
            snn.engine.report(schedule)
    assert snn(x, steps=2, schedule=Silent()).shape == (2, 2, 4)
    assert_same_answer(snn(x, steps=3, schedule=Renamed()), snn(x, steps=3))
    weight = snn.network.get_submodule("b").weight
    with torch.enable_grad():
        weight.requires_grad_()
        assert snn(x, steps=2).requires_grad  # dense operators, which record
        assert all(stage.events for stage in snn.engine.report().values())  # says what happens under no_grad
        weight.requires_grad_(False)
        assert snn(x.clone().requires_grad_(), steps=2).requires_grad
        assert not snn(x, steps=2).requires_grad
    with pytest.raises(ValueError, match="not in float32"):
        snn.double().engine.report()


def test_hard_reset() -> None:
    torch.manual_seed(5)
    x = dyadic_batch((2, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x, conversion=tp.Conversion(tp.rules.Maximum(), neuron=IF(Reset.HARD)))
    assert_engine_is_the_reference(snn, x, steps=6)


def test_tuning_keeps_the_spikes_and_says_what_it_chose() -> None:
    torch.manual_seed(7)
    x = dyadic_batch((2, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    before = snn(x, steps=4)
    stages = snn.engine.tune(x, steps=4, repeats=1)
    assert list(stages) == [site.name for site in snn.sites]
    assert all(stage.events or stage.reason == "dense operators were faster" for stage in stages.values())
    assert torch.equal(snn(x, steps=4), before)
    assert f"event by event: {sum(stage.events for stage in stages.values())}" in snn.summary()
    with pytest.raises(ValueError, match="repeats"):
        snn.engine.tune(x, steps=4, repeats=0)


def test_tuning_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that calls one dense stage and the mixture fast, that stage and no other runs dense."""
    torch.manual_seed(8)
    x = dyadic_batch((2, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    names = [site.name for site in snn.sites]
    chosen = names[2]

    def run(self, inputs, batch, steps, count=None, seconds=None):
        dense = {name for name, stage in self.reports.items() if not stage.events}
        if seconds is not None:
            seconds.update({name: 2.0 if name not in dense else (1.0 if name == chosen else 3.0) for name in names})
        clock[0] += 5.0 if dense == set() else (4.0 if dense == {chosen} else 50.0)

    clock = [0.0]
    monkeypatch.setattr(Engine, "run", run)
    monkeypatch.setattr("transpike.engine.tune.time.perf_counter", lambda: clock[0])
    stages = snn.engine.tune(x, steps=4)
    assert [name for name, stage in stages.items() if not stage.events] == [chosen]


class Awkward(nn.Module):
    """Networks whose drives look like windowed maps of spikes, or nearly; each runs like the reference."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c, self.d = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 1)
        self.row, self.head, self.one = nn.Linear(8, 8), nn.Linear(16, 3), nn.Linear(256, 1)
        self.last, self.pool = nn.Linear(1, 3), nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        a = F.relu(self.a(x))
        if self.kind == "average pooling without a batch of images":
            return self.head(F.relu(F.avg_pool2d(a.flatten(1, 2)[:, :8], 2)).flatten(1))
        if self.kind == "adaptive pooling without a batch of images":
            pooled = self.pool(F.relu(self.row(a[:, 0])))
            return F.relu(self.last(pooled.flatten(1)) - 0.25)
        if self.kind == "a constant that is an operand and an addend":
            z = self.b(x.repeat(1, 2, 1, 1))
            b = F.relu(self.c(torch.cat([F.relu(self.d(z)), z], 1)))
            return F.relu(self.d(b) + z)
        if self.kind == "a population without a channel":
            return F.relu(self.one(a.flatten(1)).squeeze(1))
        if self.kind == "linear over the last of four dimensions":
            wide = F.relu(self.one(a.flatten(1)))
            return self.last(F.relu(wide[:, :, None, None] - 0.125)).flatten(1)
        if self.kind == "a view of an image before the first neurons":
            return self.last(F.relu(self.one(self.a(x).view(-1, 256)) - 0.125))
        if self.kind == "a view of a sum with the first currents":
            z = self.a(x)
            return self.last(self.one((z + self.b(F.relu(z))).view(-1, 256)))
        assert self.kind == "a sum with a size"
        return F.relu(self.b(a) + x.shape[1])


AWKWARD = [
    "average pooling without a batch of images",
    "adaptive pooling without a batch of images",
    "a constant that is an operand and an addend",
    "a population without a channel",
    "linear over the last of four dimensions",
    "a view of an image before the first neurons",
    "a view of a sum with the first currents",
    "a sum with a size",
]


@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_networks_run_like_the_reference(kind: str) -> None:
    torch.manual_seed(9)
    x = dyadic_batch((3, 2, 8, 8))
    snn = convert(make_dyadic(Awkward(kind)), x)
    assert_engine_is_the_reference(snn, x, steps=5)
    assert_engine_is_the_reference(snn, x, steps=1)
    assert_engine_is_the_reference(snn, x[:1], steps=4)


@pytest.mark.parametrize(("channels", "size"), [(64, 33), (1, 91)])
def test_more_windows_than_can_be_numbered_run_dense(channels: int, size: int) -> None:
    torch.manual_seed(10)
    x = dyadic_batch((1, 1, size, size))
    model = nn.Sequential(
        nn.Conv2d(1, channels, 1), nn.ReLU(), nn.Flatten(), nn.Linear(channels * size * size, 4), nn.ReLU()
    )
    snn = convert(make_dyadic(model), x)
    assert_engine_is_the_reference(snn, x, steps=2)
    assert [stage.events for stage in snn.engine.report().values()] == [True, False]
    assert "weight rows, more than 65,535" in list(snn.engine.report().values())[1].reason


def test_autocast_and_inference_mode() -> None:
    torch.manual_seed(12)
    x = dyadic_batch((2, 2, 8, 8))
    with torch.inference_mode():
        snn = convert(make_dyadic(Shortcuts()), x)
        assert_engine_is_the_reference(snn, x, steps=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert snn(x, steps=2).shape == (2, 2, 4)
        with pytest.raises(ValueError, match="autocast"):
            snn.engine.report()


def test_a_deep_network_runs() -> None:
    torch.manual_seed(13)
    layers = [part for _ in range(400) for part in (nn.Linear(2, 2), nn.ReLU())]
    x = dyadic_batch((2, 2))
    snn = convert(make_dyadic(nn.Sequential(*layers, nn.Linear(2, 2))), x)
    assert snn(x, steps=1).shape == (1, 2, 2)
    assert all(stage.events for stage in snn.engine.report().values())


def _one_sample_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run of `assert_engine_is_the_reference` is cut as much as may be."""
    forward = tp.SpikingNetwork.forward
    monkeypatch.setattr(tp.SpikingNetwork, "forward", functools.partialmethod(forward, memory_mib=0))


def test_samples_run_in_parts_that_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    _one_sample_at_a_time(monkeypatch)
    torch.manual_seed(14)
    x = dyadic_batch((5, 2, 8, 8))
    snn = convert(make_dyadic(Shortcuts()), x)
    assert_engine_is_the_reference(snn, x, steps=4)
    site = snn.site(snn.sites[1].name)
    site.set_initial_potential(torch.arange(5).view(5, 1, 1, 1).expand(5, 5, 8, 8) / 8)  # these cannot be cut
    assert_engine_is_the_reference(snn, x, steps=4)
    topology = next(topology for topology in TOPOLOGIES if len(topology.inputs) > 1)
    inputs = topology.dyadic_inputs(3)
    assert_engine_is_the_reference(convert(topology.dyadic_model(), *inputs), *inputs, steps=3)
