"""Sources of few channels, whose sums of weights are looked up, and shortcuts to later channels: against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import pack, running_means
from torch import Tensor

from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage

compiled = pytest.importorskip("transpike.kernels._native")
NONE = Halo(0, 0, 0, 0)


def windows(weight: Tensor, stride: int, site: str) -> Source:
    """A convolution ``[out, in, heights, 3]`` whose window begins one pixel to the left and above."""
    heights = weight.shape[2]
    taps = tuple(Tap(y - 1, x - 1, 3 * y + x) for y in range(heights) for x in range(3))
    weights = tuple(weight[:, :, tap.weights // 3, tap.weights % 3].T.contiguous() for tap in taps)
    return Source(site, (stride, stride), taps, weights)


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_spikes_and_counts(instruction_set: str, data: st.DataObject) -> None:
    """Every step of integrate and fire, and the counts of accumulate-then-fire; dyadic, hence exact.

    Beside the convolution neurons may be fed by a pooled shortcut to later channels, by a plain one, by a 1x1
    convolution, and by currents in memory.
    """
    draw = data.draw
    channels, out = draw(st.integers(1, 16)), draw(st.sampled_from([1, 8, 16, 17, 32, 40, 64, 80]))
    stride, heights = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    rows, columns = draw(st.integers(1, 6)), draw(st.integers(1, 40))
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["soft", "hard", "counts"]))
    shift = 8 * draw(st.integers(0, (out - 1) // 8))
    fed = draw(st.integers(1, out - shift))
    read = draw(st.sets(st.sampled_from(["pooled", "plain", "pointwise", "memory"])))
    per_neuron = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 99)))

    def numbers(*size: int) -> Tensor:
        return torch.randint(-32, 33, size) / 64

    probe, kept = (steps, 1) if kind == "counts" else (0, steps)
    shape = MapShape(out, rows, columns, NONE, probe)
    weight, factors, plain, pointwise = (
        numbers(out, channels, heights, 3),
        numbers(4, fed),
        numbers(out),
        numbers(7, out),
    )
    corners = tuple(Tap(y, x, 2 * y + x) for y in (0, 1) for x in (0, 1))
    one = (Tap(0, 0, 0),)
    every = {
        "a": (
            windows(weight, stride, "a"),
            MapShape(channels, stride * rows, stride * columns, Halo(1, 2, 1, 2), probe),
        ),
        "pooled": (
            Source("pooled", (2, 2), corners, tuple(factors), shift),
            MapShape(fed, 2 * rows, 2 * columns, NONE, probe),
        ),
        "plain": (Source("plain", (1, 1), one, (plain,)), shape),
        "pointwise": (Source("pointwise", (1, 1), one, (pointwise,)), MapShape(7, rows, columns, NONE, probe)),
    }
    sources = {site: pair for site, pair in every.items() if site in {"a", *read}}
    rate = draw(st.sampled_from([0.05, 0.3, 0.9]))
    events = {
        site: (torch.rand(batch, kept, at.channels, at.rows, at.columns) < rate).to(torch.uint8)
        for site, (_, at) in sources.items()
    }
    memory = numbers(batch, out, rows, columns) if "memory" in read else torch.zeros(batch, out, rows, columns)
    bias = numbers(out)
    v_init = torch.randint(0, 16, (batch, rows * columns, out) if per_neuron else (1, 1, out)) / 16
    stage = EventStage(shape, list(sources.values()), bias, torch.ones(out))
    stage.set_potential(stage.pad(v_init))
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        rule = Rule(RuleKind.ACCUMULATE, probe=steps) if probe else Rule(RuleKind.PLAIN, soft_reset=kind == "soft")
        maps = {site: pack(at, events[site]) for site, (_, at) in sources.items()}
        dense = stage.pad(memory.flatten(2).mT.unsqueeze(1)) if "memory" in read else None
        found, spikes = stage.run(maps, dense, rule, batch, steps)
        means = stage.means(maps, batch, steps) if not probe else None
    finally:
        compiled.use_instruction_set(best)

    flat = {site: each.flatten(0, 1).double() for site, each in events.items()}
    padded = F.pad(flat["a"], (1, 1, 1, heights - 2))
    currents = F.conv2d(padded, weight.double(), None, stride)[:, :, :rows, :columns]
    if "pooled" in read:
        for tap in corners:
            corner = flat["pooled"][:, :, tap.dy :: 2, tap.dx :: 2] * factors[tap.weights].double().view(-1, 1, 1)
            currents[:, shift : shift + fed] += corner
    if "plain" in read:
        currents += flat["plain"] * plain.double().view(-1, 1, 1)
    if "pointwise" in read:
        currents += F.conv2d(flat["pointwise"], pointwise.double().T[:, :, None, None])
    currents = currents.unflatten(0, (batch, kept))
    constant = bias.double().view(-1, 1, 1) + memory.double()
    v = v_init.double().mT.reshape(len(v_init), out, -1).expand(batch, out, rows * columns)
    v = v.reshape(batch, out, rows, columns)
    if probe:
        counts = (v + currents[:, 0] + steps * constant).floor().clamp(0, steps)
        assert torch.equal(found.bytes, pack(shape, counts.unsqueeze(1)).bytes)
        return
    assert torch.equal(means, running_means((currents + bias.double().view(-1, 1, 1)).transpose(0, 1)))
    wanted = []
    for step in range(steps):
        v = v + currents[:, step] + constant
        wanted.append((v >= 1).double())
        v = v - wanted[-1] if kind == "soft" else v * (1 - wanted[-1])
    assert torch.equal(shape.unpack(found, batch, steps, torch.ones(())).double(), torch.stack(wanted))
    assert spikes == [int(each.sum()) for each in wanted]


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@pytest.mark.parametrize("stride", [1, 2])
def test_a_step_does_not_depend_on_how_many_follow(stride: int, instruction_set: str) -> None:
    """Sums that round have one order, whether four steps are looked up at once or one."""
    torch.manual_seed(0)
    inside, shape = MapShape(16, 8, 8, Halo(1, 2, 1, 2)), MapShape(16, 8 // stride, 8 // stride, NONE)
    tenths = torch.randint(-3, 4, (16, 16, 3, 3)) / 10  # potentials are thresholds but for rounding, every tenth
    stage = EventStage(shape, [(windows(tenths, stride, "a"), inside)], torch.full((16,), 0.1), torch.ones(16))
    stage.set_potential(stage.pad(torch.full((1, 1, 16), 0.5)))
    events = (torch.rand(4, 7, 16, 8, 8) < 0.3).to(torch.uint8)
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        answers = {}
        for steps in (3, 4, 7):
            out, _ = stage.run({"a": pack(inside, events[:, :steps])}, None, Rule(RuleKind.PLAIN), 4, steps)
            answers[steps] = shape.unpack(out, 4, steps, torch.ones(()))
    finally:
        compiled.use_instruction_set(best)
    assert all(torch.equal(answers[7][:steps], answer) for steps, answer in answers.items())


def test_what_does_not_fit_is_refused() -> None:
    shape = MapShape(20, 3, 4, NONE)
    numbers = torch.zeros(1, 17, 32), torch.zeros(32), torch.ones(32)
    layer = compiled.EventStage(shape.rows, shape.columns, shape.channels, 32, *numbers, 0, (3, 4, 0, 0))
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
    odd = compiled.EventStage(3, 4, 20, 32, *numbers, 0, (3, 4, 0, 0))
    odd.add_gather(geometry, [(0, 0, 8, 4)])
    with pytest.raises(ValueError, match="whole bytes"):
        odd.set_table(torch.zeros(1, 4, 16, 32))
    counts = compiled.EventStage(3, 4, 20, 32, *numbers, 1, (3, 4, 0, 0))
    counts.add_gather((3, 4, 8, 0, 0, 1, 1), [(0, 0, 8, 0)], True)
    with pytest.raises(ValueError, match="counts have no table"):
        counts.set_table(torch.zeros(1, 4, 16, 32))
