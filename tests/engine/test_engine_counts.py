"""Accumulate-then-fire with counts between the stages: the reference's answers and spikes, whatever rho and T are."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transpike as tp
from transpike.engine.spike_map import MapShape
from transpike.kernels import KernelPreference
from transpike.schedules import AccumulateThenFire
from transpike.testing import assert_same_answer, dyadic_batch, make_dyadic, set_dyadic_thresholds

compiled = pytest.importorskip("transpike.kernels._native")


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


class Block(nn.Module):
    """A convolution of any kind, a sum of spikes or currents or both, pooling, and an operator that runs dense."""

    def __init__(self, size: tuple[int, int], channels: int, layer: nn.Conv2d, extras: frozenset[str]) -> None:
        super().__init__()
        self.stem, self.layer, self.extras = nn.Conv2d(1, channels, 1), layer, extras
        out = layer.out_channels
        self.side = copy.deepcopy(layer)
        self.side.weight.copy_(layer.weight.flip(0))
        self.identity, self.pool = nn.Conv2d(out, out, 3, padding=1), nn.AvgPool2d(2, 1)
        self.head = nn.Linear(self.features(torch.zeros(1, 1, *size)).shape[1], 3)

    def features(self, x):
        x = F.relu(self.stem(x))
        if "pooled source" in self.extras:
            x = self.pool(x)
        z = self.layer(x)
        if "sum of currents" in self.extras:
            z = z + self.side(x)
        y = F.relu(z)
        if "dense" in self.extras:
            y = F.interpolate(y, scale_factor=2)
        if "sum of spikes" in self.extras:
            y = F.relu(self.identity(y) + y)
        return y.flatten(1)

    def forward(self, x):
        return self.head(self.features(x))


EXTRAS = ["pooled source", "sum of currents", "dense", "sum of spikes"]


@st.composite
def blocks(draw: st.DrawFn) -> tuple[Block, tuple[int, int]]:
    torch.manual_seed(draw(st.integers(0, 2**31)))
    depthwise, groups = draw(st.sampled_from([(True, 1), (False, 1), (False, 2)]))
    inside = draw(st.sampled_from([2, 8, 16, 34, 70]))
    outside = inside if depthwise else groups * draw(st.sampled_from([1, 8, 17, 33]))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (2, 3), (5, 3), (4, 4)]))
    layer = nn.Conv2d(
        *(inside, outside, kernel),
        stride=draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (3, 2)])),
        padding=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        dilation=draw(st.sampled_from([(1, 1), (1, 1), (2, 1)])),
        groups=inside if depthwise else groups,
        bias=draw(st.booleans()),
    )
    size = (draw(st.integers(10, 12)), draw(st.integers(6, 9)))
    return Block(size, inside, layer, frozenset(draw(st.sets(st.sampled_from(EXTRAS))))), size


def assert_counts_are_the_reference(
    snn: tp.SpikingNetwork, x: torch.Tensor, steps: int, schedule: AccumulateThenFire
) -> dict[str, torch.Tensor]:
    """Compares answers and the spikes of every site and step, without and with the observer; returns the latter."""
    found: dict[str, torch.Tensor] = {}
    wanted: dict[str, torch.Tensor] = {}
    reference = KernelPreference.REFERENCE
    answer = snn(x, steps=steps, schedule=schedule, kernel=reference, count=lambda name, n: wanted.update({name: n}))
    assert_same_answer(snn(x, steps=steps, schedule=schedule), answer)
    assert_same_answer(snn(x, steps=steps, schedule=schedule, count=lambda name, n: found.update({name: n})), answer)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found), (found, wanted)
    return found


def convert(model: nn.Module, example: torch.Tensor) -> tp.SpikingNetwork:
    snn = tp.convert(
        make_dyadic(model), tp.Conversion(tp.rules.Maximum()), calibration=[(example,)], example_inputs=example
    )
    return set_dyadic_thresholds(snn)


@settings(deadline=None, max_examples=25)
@given(blocks(), st.integers(1, 64), st.data())
def test_any_block_is_the_reference(block: tuple[Block, tuple[int, int]], rho: int, data: st.DataObject) -> None:
    model, size = block
    steps = data.draw(st.one_of(st.just(rho), st.integers(1, 8), st.integers(rho, rho + 9)), label="steps")
    batch = data.draw(st.sampled_from([1, 1, 2, 5]), label="batch")
    snn = convert(model, dyadic_batch((2, 1, *size), seed=7))
    best = compiled.instruction_set()
    compiled.use_instruction_set(data.draw(st.sampled_from(compiled.instruction_sets())))
    try:
        assert_counts_are_the_reference(
            snn, dyadic_batch((batch, 1, *size), seed=batch), steps, AccumulateThenFire(rho)
        )
    finally:
        compiled.use_instruction_set(best)


def test_potentials_and_parts() -> None:
    torch.manual_seed(1)
    snn = convert(
        Block((10, 8), 6, nn.Conv2d(6, 9, 3), frozenset({"sum of spikes", "dense"})), dyadic_batch((2, 1, 10, 8))
    )
    x = dyadic_batch((3, 1, 10, 8))
    site = snn.site(snn.sites[1].name)
    for shape in ((), (9,), (9, 8, 6), (3, 9, 8, 6)):
        site.set_initial_potential(torch.rand(shape).mul(32).round() / 64)
        assert_counts_are_the_reference(snn, x, 3, AccumulateThenFire(5))
    with pytest.raises(ValueError, match="does not fit the 2 samples"):
        snn(x[:2], steps=3, schedule=AccumulateThenFire(5))
    site.set_initial_potential(torch.tensor(0.5))
    whole = snn(x, steps=3, schedule=AccumulateThenFire(5))
    assert_same_answer(snn(x, steps=3, schedule=AccumulateThenFire(5), memory_mib=0), whole)


def test_torch_reads_no_more_steps_than_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A readout alone needs T steps; a dense stage in the middle needs the rho steps that it adds up."""
    torch.manual_seed(2)
    read: list[int] = []
    unpack = MapShape.unpack

    def note(self, spikes, batch, steps, theta):
        read.append(steps)
        return unpack(self, spikes, batch, steps, theta)

    monkeypatch.setattr(MapShape, "unpack", note)
    for extras, wanted in ((set(), [2]), ({"dense", "sum of spikes"}, [40, 40])):
        snn = convert(Block((10, 8), 6, nn.Conv2d(6, 9, 3), frozenset(extras)), dyadic_batch((2, 1, 10, 8)))
        read.clear()
        snn(dyadic_batch((1, 1, 10, 8)), steps=2, schedule=AccumulateThenFire(40))
        assert read == wanted


def test_counts_of_more_than_a_byte_run_dense() -> None:
    torch.manual_seed(3)
    x = dyadic_batch((1, 1, 10, 8))
    snn = convert(Block((10, 8), 2, nn.Conv2d(2, 3, 3), frozenset()), x)
    assert all(stage.events for stage in snn.engine.report(AccumulateThenFire(255)).values())
    with pytest.raises(ValueError, match=r"accumulate \(probe steps 256\) .* no compiled form"):
        snn.engine.report(AccumulateThenFire(256))
    assert_counts_are_the_reference(snn, x, 2, AccumulateThenFire(256))
    assert_counts_are_the_reference(snn, x, 300, AccumulateThenFire(255))
