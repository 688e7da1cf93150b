"""Spike maps, and everything that the binding of the compiled stage refuses."""

from __future__ import annotations

import pytest
import torch
from maps import pack

from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage
from transpike.runtime.runners import Readout

compiled = pytest.importorskip("transpike.kernels._native")
LARGEST = 2**63 - 1
MAP = MapShape(channels=11, rows=3, columns=4, halo=Halo(1, 0, 2, 1))


def stage() -> EventStage:
    """A 1x1 convolution, 11 to 2 channels."""
    torch.manual_seed(0)
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.randn(11, 2),))
    layer = EventStage(MapShape(2, 3, 4, Halo(0, 0, 0, 0)), [(source, MAP)], torch.zeros(2), torch.ones(2))
    layer.set_potential(layer.pad(torch.zeros(1, 1, 2)))
    return layer


def test_a_map_keeps_its_spikes_where_they_belong() -> None:
    packed = MAP.empty(2, 3)
    assert MAP.bytes == 2
    inner = packed.bytes.view(2, 3, 4, 7, 2)
    inner[1, 2, 1 + 1, 2 + 3, 1] = 0b100  # sample 1, step 2, row 1, column 3, channel 8 + 2
    events = MAP.unpack(packed, 2, 3, torch.tensor(0.5))
    assert events.shape == (3, 2, 11, 3, 4)
    assert events.nonzero().tolist() == [[2, 1, 10, 1, 3]]
    assert events.max() == 0.5
    assert MAP.unpack(packed, 2, 3, torch.arange(11.0)).max() == 10


def test_a_stage_by_hand() -> None:
    """Two inputs, weights 3/4 and 1/2, theta 1: currents 3/4, 5/4, 1/2 give the potentials 3/4, 1 -> 1, 1/2 -> 3/2."""
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.tensor([[0.75], [0.5]]),))
    shape = MapShape(2, 1, 1, Halo(0, 0, 0, 0))
    layer = EventStage(MapShape(1, 1, 1, Halo(0, 0, 0, 0)), [(source, shape)], torch.zeros(1), torch.ones(1))
    spikes = shape.empty(1, 3)
    spikes.bytes[:] = torch.tensor([0b01, 0b11, 0b10], dtype=torch.uint8)
    with pytest.raises(ValueError, match="v_init must be set"):
        layer.run({"a": spikes}, None, Rule(RuleKind.PLAIN), 1, 3)
    layer.set_potential(layer.pad(torch.zeros(1, 1, 1)))
    out, counts = layer.run({"a": spikes}, None, Rule(RuleKind.PLAIN), 1, 3)
    # v: 0.75; 2.0 fires, 1.0; 1.5 fires, 0.5
    assert counts == [0, 1, 1]
    assert layer.shape.unpack(out, 1, 3, torch.ones(())).flatten().tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": {"a": MAP.empty(2, 3)}}, "another size"),
        ({"currents": torch.zeros(1, 2, 12, 16)}, "dense currents must be"),
        ({"rule": Rule(RuleKind.OFFSET, probe=9, iterations=1)}, "probe must lie"),
        ({"rule": Rule(RuleKind.EXACT, soft_reset=False, probe=2)}, "soft reset"),
        ({"steps": 0}, "at least one step"),
        ({"batch": 2**61}, "too large"),
    ],
)
def test_a_run_with_wrong_arguments_raises(change: dict, message: str) -> None:
    layer = stage()
    steps = change.get("steps", 3)
    arguments = {
        "maps": {"a": MAP.empty(1, 3)},
        "currents": None,
        "rule": Rule(RuleKind.PLAIN),
        "batch": 1,
        "steps": steps,
    }
    with pytest.raises(ValueError, match=message):
        layer.run(**{**arguments, **change})


def test_potentials_of_another_shape_raise() -> None:
    layer = stage()
    for shape in ((1, 1, 15), (1, 7, 16), (1, 16)):
        with pytest.raises(ValueError, match="v_init must be"):
            layer.set_potential(torch.zeros(shape))
    layer.set_potential(torch.zeros(2, 1, 16))
    with pytest.raises(ValueError, match="for one or for all samples"):
        layer.run({"a": MAP.empty(1, 3)}, None, Rule(RuleKind.PLAIN), 1, 3)


def test_means_are_those_of_a_readout() -> None:
    """Numbers that round: one input at a time, so that the currents are the weights; 40 pixels are two blocks."""
    torch.manual_seed(0)
    weights, steps = torch.randn(8, 20), 50
    shape = MapShape(8, 5, 8, Halo(0, 0, 0, 0))
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (weights,))
    layer = EventStage(MapShape(20, 5, 8, Halo(0, 0, 0, 0)), [(source, shape)], torch.zeros(20), torch.ones(20))
    chosen = torch.randint(8, (3, steps, 5, 8))
    events = torch.nn.functional.one_hot(chosen, 8).permute(0, 1, 4, 2, 3)
    currents = weights[chosen].permute(1, 0, 4, 2, 3).flatten(0, 1)
    wanted, _ = Readout("answer")(currents, None, 3, steps, torch.zeros((), dtype=torch.int64))
    found = layer.means({"a": pack(shape, events)}, 3, steps)
    assert torch.equal(found.flatten(0, 1), wanted)
    assert not torch.equal(found[-1], currents.unflatten(0, (steps, 3)).mean(0))  # other roundings are visible
    assert layer.means({"a": pack(shape, events[:0])}, 0, steps).shape == (steps, 0, 20, 5, 8)


def test_an_empty_batch_runs() -> None:
    layer = stage()
    out, counts = layer.run({"a": MAP.empty(0, 3)}, None, Rule(RuleKind.PLAIN), 0, 3)
    assert counts == [0, 0, 0]
    assert layer.shape.unpack(out, 0, 3, torch.ones(())).shape == (3, 0, 2, 3, 4)


def test_types_are_not_converted() -> None:
    layer = stage()
    with pytest.raises(TypeError):
        layer.run({"a": MAP.empty(1, 3).bytes}, None, Rule(RuleKind.PLAIN), 1, 3)
    with pytest.raises(TypeError):
        layer.set_potential(torch.zeros(1, 1, 16).double())


def test_unpacking_checks_sizes() -> None:
    packed, factors = MAP.empty(1, 3), torch.ones(11)
    for place, events, message in (
        ((4, 7, 1, 2), torch.empty(2, 1, 11, 3, 4), "another size"),
        ((4, 7, 2, 2), torch.empty(3, 1, 11, 3, 4), "do not fit"),
        ((4, 7, 1, 4), torch.empty(3, 1, 11, 3, 4), "do not fit"),
        ((4, 7, LARGEST, 2), torch.empty(3, 1, 11, 3, 4), "do not fit"),
        ((4, 7, 1, 2), torch.empty(3, 1, 10, 3, 4), "one number per channel"),
    ):
        with pytest.raises(ValueError, match=message):
            compiled.unpack(packed, *place, factors, events)
    with pytest.raises(ValueError, match="negative"):
        compiled.SpikeMap(-1)
    with pytest.raises(ValueError, match="too large"):
        compiled.SpikeMap(LARGEST)


def test_windows_that_leave_their_map_are_refused() -> None:
    table = torch.zeros(1, 17, 16), torch.zeros(16), torch.ones(16)
    layer = compiled.EventStage(3, 4, 2, 16, *table, 0, (3, 4, 0, 0))
    geometry = (4, 7, 2, 1, 2, 1, 1)  # padded rows and columns, bytes, top, left, strides
    layer.add_gather(geometry, [(-1, 1, 16, 0)])
    for run in (
        *((-2, 0, 16, 0), (1, 0, 16, 0), (0, 2, 16, 0), (0, -3, 16, 0), (0, 1, 17, 0)),
        *((LARGEST, 0, 16, 0), (0, -LARGEST, 16, 0), (0, 0, LARGEST, 0)),
    ):
        with pytest.raises(ValueError, match="leaves"):
            layer.add_gather(geometry, [run])
    with pytest.raises(ValueError, match="weight rows"):
        layer.add_gather(geometry, [(0, 0, 16, 1)])
    with pytest.raises(ValueError, match=r"weights of columns|columns"):
        layer.set_columns(geometry, [(0, -2)], torch.zeros(1, 9, 3, 16), None)
    with pytest.raises(ValueError, match="padded channels"):
        layer.add_diagonal(geometry, [(0, 0)], torch.zeros(1, 15))
    with pytest.raises(ValueError, match="lanes"):
        compiled.EventStage(1, 1, 1, 8, torch.zeros(1, 1, 8), torch.zeros(8), torch.ones(8), False, (1, 1, 0, 0))
    with pytest.raises(ValueError, match="tiles"):
        compiled.EventStage(1, 1, 17, 16, torch.zeros(1, 1, 16), torch.zeros(32), torch.ones(32), False, (1, 1, 0, 0))
    numbers = torch.zeros(1, 1, 16), torch.zeros(16), torch.ones(16)
    for place in ((2, 3, 0, 1), (2, 3, 1, 0), (2, 4, -1, 1), (2, 4, 0, -1), (2, 3, LARGEST, 0), (2, 3, 0, LARGEST)):
        with pytest.raises(ValueError, match="does not fit into its spike map"):
            compiled.EventStage(2, 3, 11, 16, *numbers, 0, place)
    with pytest.raises(ValueError, match="too many channels"):
        compiled.EventStage(2, 3, 2**36 + 16, 16, *numbers, 0, (2, 3, 0, 0))
    for geometry, message in (
        ((4, 7, 2, 1, 2, LARGEST, 1), "leaves"),
        ((4, 7, 2, 1, 2, 1, LARGEST), "leaves"),
        ((4, 7, 2, LARGEST, 2, 1, 1), "halo"),
        ((2**40, 2**40, 2, 1, 2, 1, 1), "too large"),
        ((2**15, 2**15, 2, 1, 2, 1, 1), "too large"),
    ):
        with pytest.raises(ValueError, match=message):
            layer.add_gather(geometry, [(0, 0, 16, 0)])


def test_more_rows_than_can_be_numbered_are_refused() -> None:
    wide = MapShape(8 * 8192, 1, 1, Halo(0, 0, 0, 0))
    source = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.zeros(8 * 8192, 1),))
    with pytest.raises(ValueError, match="weight rows are more than"):
        EventStage(MapShape(1, 1, 1, Halo(0, 0, 0, 0)), [(source, wide)], torch.zeros(1), torch.ones(1))
