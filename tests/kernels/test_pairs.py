"""Steps that share lists of inputs: against convolutions of every single step, and in other company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from maps import pack, running_means
from torch import Tensor

from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage

compiled = pytest.importorskip("transpike.kernels._native")
pytestmark = pytest.mark.usefixtures("every_instruction_set")

TAPS = tuple(Tap(y - 1, x - 1, 3 * y + x) for y in range(3) for x in range(3))


def convolution(weight: Tensor, size: int, stride: int) -> tuple[EventStage, MapShape]:
    """A 3x3 stage of threshold 1 that starts at 1/2, and the shape of the map it reads."""
    out, channels = weight.shape[:2]
    shape, rows = MapShape(channels, size, size, Halo(1, 1, 1, 1)), (size - 1) // stride + 1
    weights = tuple(weight[:, :, tap.weights // 3, tap.weights % 3].T.contiguous() for tap in TAPS)
    source = Source("a", (stride, stride), TAPS, weights)
    layer = EventStage(
        MapShape(out, rows, rows, Halo(0, 0, 0, 0)), [(source, shape)], torch.zeros(out), torch.ones(out)
    )
    layer.set_potential(layer.pad(torch.full((1, 1, out), 0.5)))
    return layer, shape


def run(layer: EventStage, shape: MapShape, events: Tensor) -> Tensor:
    """Spikes ``[N, S, C, H, W]``."""
    batch, steps = events.shape[:2]
    out, _ = layer.run({"a": pack(shape, events)}, None, Rule(RuleKind.PLAIN), batch, steps)
    return layer.shape.unpack(out, batch, steps, torch.ones(())).transpose(0, 1)


def steady(batch: int, steps: int, channels: int, size: int) -> Tensor:
    """Neurons that fire with a period of 1, 2, 4 or never: much is alike four steps later."""
    period = torch.randint(1, 5, (batch, 1, channels, size, size))
    period = torch.where(period == 3, 1 << 20, period)
    time = torch.arange(steps).view(1, -1, 1, 1, 1) + torch.randint(0, 4, (batch, 1, channels, size, size))
    return (time % period == 0).to(torch.uint8)


@pytest.mark.parametrize("stride", [1, 2])  # by columns, by windows
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16])
def test_every_step_gets_its_own_currents(steps: int, stride: int) -> None:
    """Integrate and fire by hand over torch's convolution of each step, in float64; dyadic, hence exact."""
    torch.manual_seed(steps)
    weight = torch.randint(-8, 9, (70, 40, 3, 3)) / 64
    layer, shape = convolution(weight, 7, stride)
    sparse = torch.rand(1, steps, 40, 7, 7) < 0.02
    events = torch.cat([steady(2, steps, 40, 7), sparse.to(torch.uint8)])
    v, wanted = torch.full((3, 70, (7 - 1) // stride + 1, (7 - 1) // stride + 1), 0.5, dtype=torch.float64), []
    for step in range(steps):
        v = v + F.conv2d(events[:, step].double(), weight.double(), None, stride, 1)
        wanted.append((v >= 1).double())
        v = v - wanted[-1]
    assert torch.equal(run(layer, shape, events).double(), torch.stack(wanted, 1))
    assert 0.1 < torch.stack(wanted).mean() < 0.9


@pytest.mark.parametrize("stride", [1, 2])
def test_a_sample_does_not_depend_on_its_company(stride: int) -> None:
    """Sums of weights that round have one order for a sample, whatever the others make worthwhile."""
    torch.manual_seed(0)
    weight = torch.randn(64, 64, 3, 3) / 8
    layer, shape = convolution(weight, 8, stride)
    events = torch.cat([steady(1, 8, 64, 8), (torch.rand(2, 8, 64, 8, 8) < 0.03).to(torch.uint8)])
    means = layer.means({"a": pack(shape, events)}, 3, 8)
    for sample in range(3):
        alone = layer.means({"a": pack(shape, events[sample : sample + 1])}, 1, 8)
        assert torch.equal(alone[:, 0], means[:, sample])


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("rate", [0.02, 0.4])
def test_weights_that_do_not_stay_in_the_cache(rate: float, threads) -> None:
    """2.4 MB of weights for four pixels: threads take tiles of them, and fetch the next one early."""
    torch.manual_seed(0)
    weight = torch.randint(-8, 9, (256, 256, 3, 3)) / 256
    layer, shape = convolution(weight, 2, 1)
    events = (torch.rand(12, 8, 256, 2, 2) < rate).to(torch.uint8)
    wanted = F.conv2d(events.flatten(0, 1).double(), weight.double(), None, 1, 1).view(12, 8, 256, 2, 2)
    found = {}
    for number in (1, 2, 3, 4):
        threads(number)
        assert compiled.threads() == number
        assert torch.equal(layer.means({"a": pack(shape, events)}, 12, 8), running_means(wanted.transpose(0, 1)))
        out, counts = layer.run({"a": pack(shape, events)}, None, Rule(RuleKind.PLAIN), 12, 8)
        found[number] = counts, bytes(out.bytes.numpy())
    assert all(found[number] == found[1] for number in found)
    assert sum(found[1][0]) > 0


def test_lists_have_room_for_every_input_at_every_step() -> None:
    """Few inputs do the same at both steps, so that nothing is shared, and every list is full."""
    torch.manual_seed(0)
    rows = torch.zeros(1, 2, 64, 150, 150, dtype=torch.uint8)
    rows[:, :, :, 70:73] = 1
    weight = torch.randint(-8, 9, (16, 64, 3, 3)) / 64
    layer, shape = convolution(weight, 150, 1)
    wanted = F.conv2d(rows[0].double(), weight.double(), None, 1, 1)
    assert torch.equal(layer.means({"a": pack(shape, rows)}, 1, 2)[:, 0], running_means(wanted))

    inputs, matrix = MapShape(16_384, 1, 1, Halo(0, 0, 0, 0)), torch.randint(-8, 9, (16_384, 16)) / 64
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (matrix,))
    linear = EventStage(MapShape(16, 1, 1, Halo(0, 0, 0, 0)), [(source, inputs)], torch.zeros(16), torch.ones(16))
    first = (torch.rand(16_384) < 0.5).to(torch.uint8)
    both = (torch.rand(16_384) < 0.06).to(torch.uint8)
    events = torch.stack([first | both, (1 - first) | both]).view(1, 2, -1, 1, 1)
    means = linear.means({"a": pack(inputs, events)}, 1, 2)
    assert torch.equal(means.view(2, 16), running_means(events.view(2, -1).double() @ matrix.double()))
