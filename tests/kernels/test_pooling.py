"""Windows whose pixels share their weights, read as counts: by hand, against sums, and against reading every spike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import pack, running_means

from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap, pooled
from transpike.engine.stage import EventStage

compiled = pytest.importorskip("transpike.kernels._native")
NONE = Halo(0, 0, 0, 0)


def pooled_convolution(kernel: int, window: int, stride: int) -> tuple[Tap, ...]:
    """Taps of a convolution behind the sum over `window` pixels, `stride` apart; no padding."""
    return tuple(
        Tap(ky * stride + wy, kx * stride + wx, ky * kernel + kx)
        for ky in range(kernel)
        for kx in range(kernel)
        for wy in range(window)
        for wx in range(window)
    )


def test_average_pooling_in_front_of_a_convolution_by_hand() -> None:
    """3x3 over 2x2 sums with a padding of one: nine windows of four pixels, two apart, the first in the halo."""
    taps = tuple(Tap(tap.dy - 2, tap.dx - 2, tap.weights) for tap in pooled_convolution(3, 2, 2))
    source = Source("a", (2, 2), taps, (torch.zeros(8, 4),) * 9)
    found = pooled(source, MapShape(8, 6, 6, Halo(2, 2, 2, 2)), (3, 3))
    assert found is not None
    counts, pooling = found
    assert counts.taps == tuple(Tap(y, x, 3 * y + x) for y in range(3) for x in range(3))
    assert counts.stride == (1, 1)
    assert pooling.places == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert pooling.stride == (2, 2)
    assert (pooling.shape.rows, pooling.shape.columns, pooling.shape.probe) == (5, 5, 4)


def test_windows_that_overlap_and_a_mean_over_everything() -> None:
    found = pooled(
        Source("a", (2, 2), pooled_convolution(2, 3, 2), (torch.zeros(8, 4),) * 4), MapShape(8, 9, 9, NONE), (3, 3)
    )
    assert found is not None
    assert (len(found[1].places), found[1].stride, found[1].shape.rows) == (9, (2, 2), 4)
    whole = Source("a", (1, 1), tuple(Tap(y, x, 0) for y in range(8) for x in range(8)), (torch.zeros(8, 4),))
    found = pooled(whole, MapShape(8, 8, 8, NONE), (1, 1))
    assert found is not None
    assert (found[0].taps, found[1].shape.rows, found[1].shape.columns) == ((Tap(0, 0, 0),), 1, 1)


@pytest.mark.parametrize(
    ("taps", "probe"),
    [
        (((0, 0, 0), (0, 1, 1)), 0),  # one pixel each
        (((0, 0, 0), (0, 1, 0), (2, 0, 1), (3, 0, 1)), 0),  # windows of two forms
        (((0, 0, 0), (0, 1, 0)), 128),  # 256 spikes
        (tuple((0, x, 0) for x in range(256)), 0),
    ],
)
def test_other_windows_are_read_spike_by_spike(taps: tuple[tuple[int, int, int], ...], probe: int) -> None:
    weights = (torch.zeros(8, 4),) * (1 + max(tap[2] for tap in taps))
    source = Source("a", (1, 1), tuple(Tap(*tap) for tap in taps), weights)
    assert pooled(source, MapShape(8, 4, 300, NONE, probe), (1, 1)) is None


def test_channel_wise_windows_are_read_spike_by_spike() -> None:
    source = Source("a", (2, 2), (Tap(0, 0, 0), Tap(0, 1, 0)), (torch.zeros(8),))
    assert pooled(source, MapShape(8, 4, 4, NONE), (2, 2)) is None


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(compiled.instruction_sets()),
    st.integers(1, 140),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([0, 3, 20]),
    st.integers(0, 2),
    st.integers(0, 2**31),
)
def test_counts_are_sums_over_windows(
    instruction_set: str, channels: int, window: int, stride: int, probe: int, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    rows = 3
    shape = MapShape(channels, (rows - 1) * stride + window, (rows - 1) * stride + window, Halo(1, 0, 2, 1), probe)
    events = torch.randint(0, max(probe, 1) + 1, (batch, 1 if probe else 3, channels, shape.rows, shape.columns))
    source = Source("a", (stride, stride), pooled_convolution(1, window, stride), (torch.zeros(channels, 1),))
    found = pooled(source, shape, (rows, rows))
    if window == 1:
        assert found is None
        return
    assert found is not None
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        counts = found[1].counts(pack(shape, events), batch, 3)
    finally:
        compiled.use_instruction_set(best)
    maps = counts.bytes.view(*events.shape[:2], rows, rows, shape.padded_channels)
    wanted = F.avg_pool2d(events.flatten(0, 1).double(), window, stride, divisor_override=1)
    assert torch.equal(maps[..., :channels].flatten(0, 1).permute(0, 3, 1, 2).double(), wanted)
    assert int(maps[..., channels:].sum()) == 0


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@pytest.mark.parametrize("rate", [0.05, 0.7])
@pytest.mark.parametrize("stride", [2, 4])  # by columns, by windows
def test_pooled_and_unpooled_sources_add_up(stride: int, rate: float, instruction_set: str) -> None:
    """A convolution of sums beside one of single spikes, as in a block with a pooled shortcut; dyadic, hence exact."""
    torch.manual_seed(0)
    steps, size = 5, 12
    one, two = torch.randint(-8, 9, (20, 24, 3, 3)) / 64, torch.randint(-8, 9, (20, 30, 1, 1)) / 64
    shapes = MapShape(24, size, size, NONE), MapShape(30, size, size, NONE)
    rows = (size // 2 - 3) // (stride // 2) + 1
    sources = (
        Source("a", (stride, stride), pooled_convolution(3, 2, 2), tuple(one.flatten(2).permute(2, 1, 0).contiguous())),
        Source("b", (stride, stride), (Tap(0, 0, 0),), (two[:, :, 0, 0].T.contiguous(),)),
    )
    layer = EventStage(
        MapShape(20, rows, rows, NONE), list(zip(sources, shapes, strict=True)), torch.zeros(20), torch.ones(20)
    )
    events = [(torch.rand(2, steps, shape.channels, size, size) < rate).to(torch.uint8) for shape in shapes]
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        maps = {name: pack(shape, spikes) for name, shape, spikes in zip("ab", shapes, events, strict=True)}
        found = layer.means(maps, 2, steps)
    finally:
        compiled.use_instruction_set(best)
    a, b = (spikes.transpose(0, 1).flatten(0, 1).double() for spikes in events)
    wanted = F.conv2d(F.avg_pool2d(a, 2, divisor_override=1), one.double(), None, stride // 2)
    wanted += F.conv2d(b, two.double(), None, stride)[..., :rows, :rows]
    assert torch.equal(found, running_means(wanted.unflatten(0, (steps, 2))))


@pytest.mark.parametrize(("channels", "out", "stride"), [(64, 64, 2), (256, 16, 4)])  # by columns, by windows
def test_lists_have_room_for_inputs_that_differ_at_two_steps(channels: int, out: int, stride: int) -> None:
    """Nearly every window sends something at both steps, and seldom the same: it is in two lists."""
    torch.manual_seed(0)
    weight = torch.randint(-8, 9, (out, channels, 3, 3)) / 64
    weights = tuple(weight.flatten(2).permute(2, 1, 0).contiguous())
    source, shape = (
        Source("a", (stride, stride), pooled_convolution(3, 2, 2), weights),
        MapShape(channels, 36, 36, NONE),
    )
    rows = 16 if stride == 2 else 8
    layer = EventStage(MapShape(out, rows, rows, NONE), [(source, shape)], torch.zeros(out), torch.ones(out))
    events = (torch.rand(2, 2, channels, 36, 36) < 0.5).to(torch.uint8)
    found = layer.means({"a": pack(shape, events)}, 2, 2)
    sums = F.avg_pool2d(events.transpose(0, 1).flatten(0, 1).double(), 2, divisor_override=1)
    wanted = F.conv2d(sums, weight.double(), None, stride // 2)
    assert torch.equal(found, running_means(wanted.unflatten(0, (2, 2))))


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
def test_every_kind_of_source_in_one_stage(instruction_set: str) -> None:
    """Columns of spikes, windows of counts, a channel-wise map and currents from memory; dyadic, hence exact."""
    torch.manual_seed(0)
    steps, size, channels = 7, 6, 40
    wide, narrow, each = torch.randint(-8, 9, (3, channels, channels, 3, 3)) / 64
    one = torch.randint(-8, 9, (channels,)) / 16
    fine, same = (
        MapShape(channels, 2 * size, 2 * size, Halo(2, 2, 2, 2)),
        MapShape(channels, size, size, Halo(1, 1, 1, 1)),
    )
    around = tuple(Tap(tap.dy - 2, tap.dx - 2, tap.weights) for tap in pooled_convolution(3, 2, 2))
    taps = tuple(Tap(y - 1, x - 1, 3 * y + x) for y in range(3) for x in range(3))
    sources = [
        (Source("same", (1, 1), taps, tuple(wide.flatten(2).permute(2, 1, 0).contiguous())), same),
        (Source("fine", (2, 2), around, tuple(narrow.flatten(2).permute(2, 1, 0).contiguous())), fine),
        (Source("other", (1, 1), taps, tuple(each.flatten(2).permute(2, 1, 0).contiguous())), same),
        (Source("same", (1, 1), (Tap(0, 0, 0),), (one,)), same),
    ]
    layer = EventStage(MapShape(channels, size, size, NONE), sources, torch.zeros(channels), torch.ones(channels))
    layer.set_potential(layer.pad(torch.full((1, 1, channels), 0.5)))
    rates = {"same": (same, 0.3), "fine": (fine, 0.2), "other": (same, 0.1)}
    events = {
        name: (torch.rand(2, steps, channels, shape.rows, shape.columns) < rate).to(torch.uint8)
        for name, (shape, rate) in rates.items()
    }
    constant = torch.randint(-16, 17, (2, channels, size, size)) / 64
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        maps = {name: pack(rates[name][0], spikes) for name, spikes in events.items()}
        dense = layer.pad(constant.flatten(2).mT.unsqueeze(1))
        out, _ = layer.run(maps, dense, Rule(RuleKind.PLAIN), 2, steps)
    finally:
        compiled.use_instruction_set(best)
    found = layer.shape.unpack(out, 2, steps, torch.ones(())).transpose(0, 1)
    v = torch.full((2, channels, size, size), 0.5, dtype=torch.float64)
    for step in range(steps):
        now = {name: spikes[:, step].double() for name, spikes in events.items()}
        v = v + constant + F.conv2d(now["same"], wide.double(), None, 1, 1) + one.view(-1, 1, 1) * now["same"]
        v = v + F.conv2d(F.avg_pool2d(now["fine"], 2, divisor_override=1), narrow.double(), None, 1, 1)
        v = v + F.conv2d(now["other"], each.double(), None, 1, 1)
        assert torch.equal(found[:, step].double(), (v >= 1).double())
        v = v - (v >= 1).double()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"places": ((0, 0), (3, 0))}, "leaves"),
        ({"places": ((-1, 0),)}, "leaves"),
        ({"places": ()}, "1 to 255"),
        ({"shape": (4, 4, 1, 128)}, "1 to 255"),
        ({"places": ((0, 0),) * 256}, "1 to 255"),
        ({"stride": (0, 1)}, "positive"),
        ({"stride": (3, 1)}, "leaves"),
        ({"out_shape": (3, 2)}, "leaves"),
        ({"stride": (2**61, 2), "out_shape": (5, 2)}, "leaves"),
        ({"stride": (2, 2**63 - 1)}, "leaves"),
        ({"stride": (2**40, 2), "out_shape": (1, 2)}, "leaves"),
        ({"out_shape": (0, 2)}, "empty"),
        ({"shape": (2**40, 2**40, 1, 0)}, "too large"),
        ({"source": 1}, "not there"),
        ({"source": -1}, "not there"),
    ],
)
def test_windows_and_sizes_are_checked(change: dict, message: str) -> None:
    arguments = {
        "source": 0,
        "shape": (4, 4, 1, 0),
        "places": ((0, 0), (1, 1)),
        "stride": (2, 2),
        "out_shape": (2, 2),
        "wanted": True,
    }
    chain = compiled.Chain(1)
    with pytest.raises(ValueError, match=message):
        chain.add_pool(**{**arguments, **change})
    assert chain.add_pool(**arguments) == 1
    plain = Rule(RuleKind.PLAIN).numbers
    (found,), _ = chain.run([compiled.SpikeMap(2 * 3 * 4 * 4)], [None], plain, 2, 3)
    assert found.bytes.numel() == 2 * 3 * 2 * 2 * 8
    for samples, steps, reason in ((2, 4, "another size"), (2**61, 3, "too large"), (-1, 3, "step"), (2, 0, "step")):
        with pytest.raises(ValueError, match=reason):
            chain.run([compiled.SpikeMap(2 * 3 * 4 * 4)], [None], plain, samples, steps)


def test_a_stage_of_counts_by_hand() -> None:
    """A stage that counts reads counts, the sums over windows included."""
    source = Source("a", (2, 2), pooled_convolution(1, 2, 2), (torch.full((8, 1), 0.25),))
    shape = MapShape(8, 4, 4, NONE, 4)
    layer = EventStage(MapShape(1, 2, 2, NONE, 4), [(source, shape)], torch.zeros(1), torch.ones(1))
    layer.set_potential(layer.pad(torch.zeros(1, 1, 1)))
    events = torch.zeros(1, 1, 8, 4, 4)
    events[0, 0, :, :2, :2] = torch.tensor([[4, 0], [1, 2]])  # 7 / 4 spikes of 8 inputs in 4 steps: 14, of which 4 fit
    events[0, 0, 0, 2:, 2:] = torch.tensor([[4, 4], [1, 3]])  # 12 / 4 = 3
    out, _ = layer.run({"a": pack(shape, events)}, None, Rule(RuleKind.ACCUMULATE, probe=4), 1, 4)
    assert out.bytes.view(2, 2, 8)[..., 0].tolist() == [[4, 0], [0, 3]]
