"""Sources of few channels, whose sums of weights are looked up, and shortcuts to later channels: against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import pack
from torch import Tensor

from transpike.kernels.events import EventStage, Rule
from transpike.kernels.windows import Halo, MapShape, Source, Tap

compiled = pytest.importorskip("transpike.kernels._native")
NONE = Halo(0, 0, 0, 0)


def windows(weight: Tensor, stride: int, site: str) -> Source:
    """A convolution ``[out, in, heights, 3]`` whose window begins one pixel to the left and above."""
    heights = weight.shape[2]
    taps = tuple(Tap(y - 1, x - 1, 3 * y + x) for y in range(heights) for x in range(3))
    weights = tuple(weight[:, :, tap.weights // 3, tap.weights % 3].T.contiguous() for tap in taps)
    return Source(site, (stride, stride), taps, weights)


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_spikes_and_counts(instruction_set: str, data: st.DataObject) -> None:
    """Every step of integrate and fire, and the counts of accumulate-then-fire; dyadic, hence exact."""
    draw = data.draw
    channels, out = draw(st.integers(1, 16)), draw(st.sampled_from([1, 8, 16, 17, 32, 40, 64, 80]))
    stride, heights = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["soft", "hard", "counts"]))
    shift = 8 * draw(st.integers(0, (out - 1) // 8))
    fed = draw(st.integers(0, out - shift))
    torch.manual_seed(draw(st.integers(0, 99)))

    probe, kept = (steps, 1) if kind == "counts" else (0, steps)
    inside = MapShape(channels, stride * rows, stride * columns, Halo(1, 2, 1, 2), probe)
    beside, shape = MapShape(max(1, fed), rows, columns, NONE, probe), MapShape(out, rows, columns, NONE, probe)
    weight = torch.randint(-32, 33, (out, channels, heights, 3)) / 64
    factors = torch.randint(-32, 33, (max(1, fed),)) / 64
    sources = [(windows(weight, stride, "a"), inside)]
    if fed:
        sources.append((Source("b", (1, 1), (Tap(0, 0, 0),), (factors,), shift), beside))
    bias, v_init = torch.randint(-8, 9, (out,)) / 16, torch.randint(0, 16, (batch, rows * columns, out)) / 16
    stage = EventStage(shape, sources, bias, torch.ones(out))
    stage.set_potential(stage.pad(v_init))
    events = torch.rand(batch, kept, channels, stride * rows, stride * columns) < draw(
        st.sampled_from([0.05, 0.3, 0.9])
    )
    more = torch.rand(batch, kept, max(1, fed), rows, columns) < 0.3
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        rule = Rule("accumulate", probe=steps) if probe else Rule("plain", soft_reset=kind == "soft")
        maps = {"a": pack(inside, events.to(torch.uint8)), "b": pack(beside, more.to(torch.uint8))}
        found, spikes = stage.run(maps, None, rule, batch, steps)
    finally:
        compiled.use_instruction_set(best)

    padded = F.pad(events.flatten(0, 1).double(), (1, 1, 1, heights - 2))
    currents = F.conv2d(padded, weight.double(), None, stride)[:, :, :rows, :columns]
    if fed:
        shortcut = more.flatten(0, 1).double() * factors.double().view(-1, 1, 1)
        currents[:, shift : shift + fed] += shortcut
    currents = currents.unflatten(0, (batch, kept))
    v = v_init.double().mT.reshape(batch, out, rows, columns)
    per_channel = bias.double().view(-1, 1, 1)
    if probe:
        counts = (v + currents[:, 0] + steps * per_channel).floor().clamp(0, steps)
        assert torch.equal(found.bytes, pack(shape, counts.unsqueeze(1)).bytes)
        return
    wanted = []
    for step in range(steps):
        v = v + currents[:, step] + per_channel
        wanted.append((v >= 1).double())
        v = v - wanted[-1] if kind == "soft" else v * (1 - wanted[-1])
    assert torch.equal(shape.unpack(found, batch, steps, torch.ones(())).double(), torch.stack(wanted))
    assert spikes == [int(each.sum()) for each in wanted]


def test_what_does_not_fit_is_refused() -> None:
    shape = MapShape(20, 3, 4, NONE)
    numbers = torch.zeros(1, 17, 32), torch.zeros(32), torch.ones(32)
    layer = compiled.EventStage(shape.rows, shape.columns, shape.channels, 32, *numbers, False, (3, 4, 0, 0))
    geometry = (3, 4, 1, 0, 0, 1, 1)  # rows, columns, bytes, top, left, strides
    weights = torch.zeros(1, 32)
    weights[0, 8:16] = 1
    layer.add_diagonal(geometry, [(0, 0)], weights, 8)
    for shift in (-8, 4, 24, 1 << 40):
        with pytest.raises(ValueError, match="whole eights"):
            layer.add_diagonal(geometry, [(0, 0)], weights, shift)
    for shift in (0, 16):
        with pytest.raises(ValueError, match="but no input"):
            layer.add_diagonal(geometry, [(0, 0)], weights, shift)

    layer.add_gather(geometry, [(0, 0, 8, 0)])
    for table in (
        torch.zeros(1, 4, 16),
        torch.zeros(1, 3, 16, 32),
        torch.zeros(1, 4, 8, 32),
        torch.zeros(2, 4, 16, 32),
    ):
        with pytest.raises(ValueError, match="table of windows"):
            layer.set_table(table)
    layer.set_table(torch.zeros(1, 4, 16, 32))
    with pytest.raises(ValueError, match="before their table"):
        layer.add_gather(geometry, [(0, 0, 8, 8)])
    odd = compiled.EventStage(3, 4, 20, 32, *numbers, False, (3, 4, 0, 0))
    odd.add_gather(geometry, [(0, 0, 8, 4)])
    with pytest.raises(ValueError, match="whole bytes"):
        odd.set_table(torch.zeros(1, 4, 16, 32))
    counts = compiled.EventStage(3, 4, 20, 32, *numbers, True, (3, 4, 0, 0))
    counts.add_gather((3, 4, 8, 0, 0, 1, 1), [(0, 0, 8, 0)], True)
    with pytest.raises(ValueError, match="counts have no table"):
        counts.set_table(torch.zeros(1, 4, 16, 32))
