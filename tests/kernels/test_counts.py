"""Stages whose maps hold counts: by hand, against a dense convolution, and everything that the binding refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage

compiled = pytest.importorskip("transpike.kernels._native")
NONE = Halo(0, 0, 0, 0)


def rule(rho: int) -> Rule:
    return Rule(RuleKind.ACCUMULATE, probe=rho)


def test_a_stage_by_hand() -> None:
    """Counts 3 and 2, weights 3/4 and 1/2, bias 1/8 in each of 4 steps: 15/4 from 1/2 on is 17/4, four spikes."""
    shape = MapShape(2, 1, 1, NONE, probe=4)
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.tensor([[0.75], [0.5]]),))
    layer = EventStage(MapShape(1, 1, 1, NONE, probe=4), [(source, shape)], torch.tensor([0.125]), torch.ones(1))
    layer.set_potential(layer.pad(torch.full((1, 1, 1), 0.5)))
    counts = shape.empty(3, 4)
    counts.bytes.view(3, 8)[:, :2] = torch.tensor([[3, 2], [1, 1], [4, 4]])
    out, spikes = layer.run({"a": counts}, None, rule(4), 3, 4)
    # 2.25 + 1 + 0.5 + 0.5 = 4.25; 0.75 + 0.5 + 0.5 + 0.5 = 2.25; 3 + 2 + 0.5 + 0.5 = 6, of which 4 fit
    assert out.bytes.view(3, 8)[:, 0].tolist() == [4, 2, 4]
    assert spikes == []


def test_counts_are_sent_evenly() -> None:
    """1 of 4 in the second step, 2 of 4 in the second and fourth, 3 of 4 not in the third."""
    shape = MapShape(3, 1, 1, Halo(1, 0, 0, 1), probe=4)
    counts = shape.empty(1, 6)
    counts.bytes.view(2, 2, 8)[1, 0, :3] = torch.tensor([1, 2, 3])
    events = shape.unpack(counts, 1, 6, torch.tensor([1.0, 2.0, 0.5]))[:, 0, :, 0, 0]
    # floor((2 k t + 4) / 8), 3 for the middle one, at t = 1 .. 6: 0 1 1 1 1 2; 0 1 1 2 2 3; 1 2 2 3 4 5
    assert events.T.tolist() == [[0, 1, 0, 0, 0, 1], [0, 2, 0, 2, 0, 2], [0.5, 0.5, 0, 0.5, 0.5, 0.5]]
    assert shape.spikes_sent(counts, 6).tolist() == [1, 3, 0, 2, 1, 3]


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, int, int, int]:
    channels, out = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    kernel, stride, size = draw(st.integers(1, 4)), draw(st.integers(1, 2)), draw(st.integers(4, 9))
    return channels, out, kernel, stride, size, draw(st.integers(0, 2**31))


@settings(deadline=None, max_examples=60)
@given(windows(), st.integers(1, 255), st.sampled_from(["depthwise", "full"]), st.integers(0, 3), st.data())
def test_any_window_is_a_convolution_of_counts(case, rho: int, kind: str, batch: int, data) -> None:
    """Against torch's convolution in float64, on every instruction set; what is around the map stays zero."""
    channels, outside, kernel, stride, size, seed = case
    torch.manual_seed(seed)
    out = channels if kind == "depthwise" else outside
    rows = (size - kernel) // stride + 1
    weight = torch.randint(-16, 17, (out, 1 if kind == "depthwise" else channels, kernel, kernel)) / 64
    bias, constant = torch.randint(-64, 65, (out,)) / 64, torch.randint(-64, 65, (batch, out, rows, rows)) / 64
    counts = torch.randint(0, rho + 1, (batch, channels, size, size)) * (torch.rand(batch, channels, size, size) < 0.5)
    theta, v = torch.full((out,), 2.0), torch.randint(0, 64, (out, rows * rows)) / 32

    taps = tuple(Tap(y, x, y * kernel + x) for y in range(kernel) for x in range(kernel))
    weights = tuple(
        weight[:, 0, tap.dy, tap.dx] if kind == "depthwise" else weight[:, :, tap.dy, tap.dx].T for tap in taps
    )
    shape, halo = MapShape(channels, size, size, NONE, rho), Halo(1, 2, 0, 1)
    layer = EventStage(
        MapShape(out, rows, rows, halo, rho), [(Source("a", (stride, stride), taps, weights), shape)], bias, theta
    )
    layer.set_potential(layer.pad(v.T.unsqueeze(0)))
    packed = shape.empty(batch, rho)
    packed.bytes.view(batch, size, size, shape.bytes)[..., :channels] = counts.permute(0, 2, 3, 1)
    currents = layer.pad(constant.flatten(2).mT.unsqueeze(1))

    groups = channels if kind == "depthwise" else 1
    total = F.conv2d(counts.double(), weight.double(), None, stride, groups=groups)
    total += rho * (constant + bias.view(-1, 1, 1))
    wanted = ((total + v.view(out, rows, rows)) / 2).floor().clamp(0, rho)
    best = compiled.instruction_set()
    compiled.use_instruction_set(data.draw(st.sampled_from(compiled.instruction_sets())))
    try:
        found, _ = layer.run({"a": packed}, currents, rule(rho), batch, rho)
    finally:
        compiled.use_instruction_set(best)
    whole = found.bytes.view(batch, rows + 3, rows + 1, layer.shape.bytes)
    assert torch.equal(whole[:, 1 : rows + 1, :rows, :out].permute(0, 3, 1, 2).double(), wanted)
    assert int(whole.sum()) == int(wanted.sum())


def stage(probe: int = 4) -> EventStage:
    torch.manual_seed(0)
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.randn(11, 2),))
    layer = EventStage(
        MapShape(2, 3, 4, NONE, probe), [(source, MapShape(11, 3, 4, NONE, probe))], torch.zeros(2), torch.ones(2)
    )
    layer.set_potential(layer.pad(torch.zeros(1, 1, 2)))
    return layer


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {"a": MapShape(11, 3, 4, NONE).empty(1, 4)}}, "another size"),
        ({"currents": torch.zeros(1, 2, 12, 16)}, "dense currents must be"),
        ({"rule": Rule(RuleKind.PLAIN)}, "needs counts"),
        ({"rule": rule(5)}, "probe must lie in 1 .. steps"),
        ({"rule": rule(0)}, "probe must lie in 1 .. steps"),
        ({"rule": rule(256), "steps": 256}, "one byte"),
        ({"rule": Rule(RuleKind.ACCUMULATE, soft_reset=False, probe=4)}, "soft reset"),
    ],
)
def test_a_run_with_wrong_arguments_raises(change: dict, message: str) -> None:
    arguments = {"maps": {"a": MapShape(11, 3, 4, NONE, 4).empty(1, 4)}, "currents": None, "rule": rule(4)}
    with pytest.raises(ValueError, match=message):
        stage().run(**{**arguments, "batch": 1, "steps": 4, **change})
    with pytest.raises(ValueError, match="needs counts"):
        stage(0).run({"a": MapShape(11, 3, 4, NONE).empty(1, 4)}, None, rule(4), 1, 4)
    with pytest.raises(TypeError):
        stage().run({"a": torch.zeros(3 * 4 * 16, dtype=torch.uint8)}, None, rule(4), 1, 4)


def test_windows_and_sizes_are_checked() -> None:
    layer = stage().compiled
    geometry = (3, 4, 16, 0, 0, 1, 1)  # rows, columns, bytes, top, left, strides
    layer.add_gather(geometry, [(0, 0, 16, 0)], True)
    for run in ((-1, 0, 16, 0), (0, 1, 16, 0), (0, 0, 17, 0)):
        with pytest.raises(ValueError, match="leaves"):
            layer.add_gather(geometry, [run], True)
    with pytest.raises(ValueError, match="but no input"):
        layer.add_diagonal((3, 4, 1, 0, 0, 1, 1), [(0, 0)], torch.ones(1, 16))
    with pytest.raises(ValueError, match="no table"):
        layer.set_columns(geometry, [(0, -2)], torch.zeros(1, 17, 3, 16), torch.zeros(1, 2, 256, 3, 16), True)
    with pytest.raises(ValueError, match="cannot read spikes"):
        layer.add_gather(geometry, [(0, 0, 16, 0)])
    shape, factors = MapShape(11, 3, 4, NONE, 4), torch.ones(11)
    counts = shape.empty(1, 4)
    for place, probe, events, message in (
        ((3, 4, 0, 0), 4, torch.empty(2, 2, 11, 3, 4), "another size"),
        ((3, 4, 1, 0), 4, torch.empty(2, 1, 11, 3, 4), "do not fit"),
        ((3, 4, 0, 0), 4, torch.empty(2, 1, 10, 3, 4), "one number per channel"),
        ((3, 4, 0, 0), 256, torch.empty(2, 1, 11, 3, 4), "one byte"),
        ((3, 4, 0, 0), 0, torch.empty(2, 1, 11, 3, 4), "one byte"),
    ):
        with pytest.raises(ValueError, match=message):
            compiled.unpack_counts(counts, *place, probe, factors, events)
    with pytest.raises(TypeError):
        compiled.unpack_counts(counts, 3, 4, 0, 0, 4, factors.double(), torch.empty(2, 1, 11, 3, 4))
    counts.bytes[:] = 255  # more than 4 in 4 steps, which no stage writes
    assert shape.unpack(counts, 1, 2, torch.ones(())).max() <= 1
