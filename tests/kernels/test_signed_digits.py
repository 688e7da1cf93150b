"""Stages of signed digits: against sums in float64 and the torch form, in every instruction set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from transpike.engine.rules import Rule, RuleKind, rule_for
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage
from transpike.kernels.digits import signed_digits
from transpike.neurons import IF
from transpike.schedules import SignedDigits

compiled = pytest.importorskip("transpike.kernels._native")
NONE = Halo(0, 0, 0, 0)


def rule(schedule: SignedDigits) -> Rule:
    found = rule_for(schedule, IF())
    assert found is not None
    return found


def pack(shape: MapShape, digits: torch.Tensor):
    """A compiled map of digits ``[S, N, C, H, W]``."""
    steps, batch = digits.shape[:2]
    spikes = shape.empty(batch, steps)
    halo = (shape.halo.left, shape.halo.right, shape.halo.top, shape.halo.bottom)
    channels = shape.padded_channels - shape.channels
    signs = [F.pad((digits == sign).int(), (*halo, 0, channels)) for sign in (1, -1)]
    bits = torch.cat(signs, 2).permute(1, 0, 3, 4, 2)
    eights = (bits.unflatten(-1, (-1, 8)) << torch.arange(8)).sum(-1)
    spikes.bytes.copy_(eights.to(torch.uint8).flatten())
    return spikes


def unpack(shape: MapShape, spikes, batch: int, steps: int) -> torch.Tensor:
    """The digits themselves."""
    return shape.unpack(spikes, batch, steps, torch.ones(())).sign()


@settings(max_examples=120, deadline=None)
@given(
    base=st.sampled_from([2.0, 1.5, 1.6, 1.9]),
    digits=st.integers(1, 9),
    lag=st.integers(0, 4),
    channels=st.sampled_from([1, 3, 8, 11, 24, 40, 70]),
    outside=st.sampled_from([1, 5, 8, 17, 33, 65]),
    kernel=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2]),
    kind=st.sampled_from(["dense", "depthwise", "shortcut", "pooled"]),
    beside=st.sampled_from(["nothing", "constant", "steps"]),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_a_convolution_of_digits(
    base: float, digits: int, lag: int, channels: int, outside: int, kernel: int, stride: int, kind: str, beside: str,
    seed: int, data: st.DataObject,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    schedule, batch, rows = SignedDigits(digits, base, 0.65, lag), 2, 5
    diagonal = kind in ("depthwise", "shortcut")
    shift = data.draw(st.sampled_from([8, 16, 48])) if kind == "shortcut" else 0
    out = shift + channels + 3 * (shift > 0) if diagonal else outside
    window = 2 if kind == "pooled" else 1
    size = (rows - 1) * stride + kernel * window
    theta_in, theta = torch.rand(channels) + 0.5, torch.rand(out) + 0.5
    sent = torch.randint(-1, 2, (digits, batch, channels, size, size)).float()
    weight = torch.randn(channels if diagonal else out, 1 if diagonal else channels, kernel, kernel)
    bias = torch.randn(out)
    dense = torch.randn({"nothing": 0, "constant": 1, "steps": digits}[beside], batch, out, rows, rows)

    if diagonal:
        taps = tuple(Tap(y, x, y * kernel + x) for y in range(kernel) for x in range(kernel))
        weights = tuple(weight[:, 0, tap.dy, tap.dx] * theta_in for tap in taps)
    else:
        taps = tuple(
            Tap(y * window + wy, x * window + wx, y * kernel + x)
            for y in range(kernel)
            for x in range(kernel)
            for wy in range(window)
            for wx in range(window)
        )
        scaled = weight * theta_in.view(1, -1, 1, 1)
        weights = tuple(scaled[:, :, y, x].T.contiguous() for y in range(kernel) for x in range(kernel))
    places = tuple(schedule.places)
    shape = MapShape(channels, size, size, Halo(1, 0, 2, 1), places=places)
    own = MapShape(out, rows, rows, Halo(1, 2, 0, 1), places=places)
    layer = EventStage(own, [(Source("a", (stride, stride), taps, weights, shift), shape)], bias, theta)
    layer.set_potential(layer.pad(torch.zeros(1, 1, out)))
    layer.set_lag(lag)

    values = schedule.values(sent.double(), theta_in.double().view(-1, 1, 1))
    wide = weight.double()
    if kind == "pooled":
        wide = wide.repeat_interleave(2, 2).repeat_interleave(2, 3)
    drive = F.conv2d(values.flatten(0, 1), wide, None, stride, groups=channels if diagonal else 1)
    if diagonal:
        drive = F.pad(drive, (0, 0, 0, 0, shift, out - shift - channels))
    drive = drive.unflatten(0, (digits, batch))
    assert drive.shape[-2:] == (rows, rows)
    drive[0] += bias.double().view(-1, 1, 1)
    drive[: len(dense)] += dense.double()
    full = theta.double().view(-1, 1, 1)
    sizes = [place * schedule.unit(full) for place in schedule.places]
    late = torch.cat([drive, drive.new_zeros(lag, *drive.shape[1:])])
    wanted = [signed_digits(late, full, sizes, 0.65 + slack, lag) for slack in (0.0, -1e-5, 1e-5)]
    near = [signed_digits(late + slack, full, sizes, 0.65, lag) for slack in (-1e-5, 1e-5)]
    clear = torch.stack([each == wanted[0] for each in (*wanted, *near)]).all(0).all(0)  # of neurons, no close call

    best = compiled.instruction_set()
    compiled.use_instruction_set(data.draw(st.sampled_from(compiled.instruction_sets())))
    currents = layer.pad(dense.flatten(3).permute(1, 0, 3, 2)) if len(dense) else None
    try:
        found, spikes = layer.run({"a": pack(shape, sent)}, currents, rule(schedule), batch, digits)
    finally:
        compiled.use_instruction_set(best)
    got = unpack(own, found, batch, digits)
    assert clear.float().mean() > 0.9
    assert torch.equal(got[:, clear].double(), wanted[0][:, clear])
    assert spikes == got.abs().flatten(1).sum(1).int().tolist()
    whole = pack(own, got).bytes  # nothing else was written, into the halo or at channels that are not there
    assert torch.equal(whole, found.bytes)


def test_what_is_no_number_sends_nothing() -> None:
    schedule = SignedDigits(3, 2.0, 0.6, 0)
    stage = EventStage(MapShape(2, 1, 2, NONE, places=tuple(schedule.places)), [], torch.zeros(2), torch.ones(2))
    stage.set_potential(stage.pad(torch.zeros(1, 1, 2)))
    currents = stage.pad(torch.tensor([[[[float("nan"), float("inf")], [-float("inf"), 1.0]]]]))
    found, spikes = stage.run({}, currents, rule(schedule), 1, 3)
    assert unpack(stage.shape, found, 1, 3).flatten(1).tolist() == [[0, 0, 1, 1]] * 3
    assert spikes == [2, 2, 2]


def test_digits_need_their_places() -> None:
    schedule = SignedDigits(3)
    numbers = rule(schedule)
    stage = EventStage(MapShape(2, 1, 1, NONE, places=tuple(schedule.places)), [], torch.zeros(2), torch.ones(2))
    stage.set_potential(stage.pad(torch.zeros(1, 1, 2)))
    with pytest.raises(ValueError, match="one place for every step"):
        stage.run({}, None, numbers, 1, 4)
    with pytest.raises(ValueError, match="one place for every step"):
        stage.run({}, None, numbers._replace(places=(1.0,)), 1, 3)
    with pytest.raises(ValueError, match="must be positive"):
        stage.run({}, None, numbers._replace(decision=0.0), 1, 3)
    with pytest.raises(ValueError, match="digits need signs"):
        stage.run({}, None, Rule(RuleKind.PLAIN), 1, 3)
    with pytest.raises(ValueError, match="soft reset"):
        stage.run({}, None, numbers._replace(soft_reset=False), 1, 3)
    with pytest.raises(ValueError, match="lag must not be negative"):
        stage.set_lag(-1)
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.ones(2),))
    reader = EventStage(stage.shape, [(source, stage.shape)], torch.zeros(2), torch.ones(2))
    reader.set_potential(reader.pad(torch.zeros(1, 1, 2)))
    spikes = replace(stage.shape, places=()).empty(1, 3)
    with pytest.raises(ValueError, match="another size"):
        reader.run({"a": spikes}, None, numbers, 1, 3)
