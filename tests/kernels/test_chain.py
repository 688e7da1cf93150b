"""Stages run in one call, against the same stages run one by one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import pack

from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import Chain, EventStage

compiled = pytest.importorskip("transpike.kernels._native")
PLAIN = Rule(RuleKind.PLAIN)
RIM = Halo(1, 1, 1, 1)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def convolution(site: str, channels: tuple[int, int], generator: torch.Generator) -> Source:
    taps = tuple(Tap(y, x, 3 * (y + 1) + x + 1) for y in (-1, 0, 1) for x in (-1, 0, 1))
    return Source(site, (1, 1), taps, tuple(torch.randn(9, *channels, generator=generator) / 4))


def pooled(site: str, channels: tuple[int, int], generator: torch.Generator) -> Source:
    """A 1x1 convolution behind sums over 2x2 pixels."""
    taps = tuple(Tap(y, x, 0) for y in (0, 1) for x in (0, 1))
    return Source(site, (2, 2), taps, (torch.randn(*channels, generator=generator) / 2,))


def network(channels: int, size: int, probe: int = 0, narrow: int = 24) -> dict[str, EventStage]:
    """Neurons fed from outside, two residual blocks of 3x3 convolutions, then pooling: maps of two layouts."""
    generator = torch.Generator().manual_seed(channels + size)
    wide = MapShape(channels, size, size, RIM, probe)
    small = MapShape(narrow, size // 2, size // 2, Halo(0, 0, 0, 0), probe)
    shapes = {"in": wide, "a": wide, "b": wide, "c": wide, "d": wide, "out": small}
    each = Source("", (1, 1), (Tap(0, 0, 0),), (torch.full((channels,), 0.5),))
    inner = channels, channels
    sources = {
        "in": [],
        "a": [convolution("in", inner, generator)],
        "b": [convolution("a", inner, generator), Source("in", each.stride, each.taps, each.weights)],
        "c": [convolution("b", inner, generator)],
        "d": [convolution("c", inner, generator), Source("b", each.stride, each.taps, each.weights)],
        "out": [pooled("d", (channels, narrow), generator)],
    }
    stages = {}
    for site, shape in shapes.items():
        read = [(source, shapes[source.site]) for source in sources[site]]
        bias = torch.randn(shape.channels, generator=generator) / 8
        stages[site] = EventStage(shape, read, bias, torch.ones(()))
        stages[site].set_potential(stages[site].pad(torch.full((1, 1, shape.channels), 0.5)))
    return stages


def one_by_one(
    stages: dict[str, EventStage], currents: torch.Tensor, rule: Rule, steps: int
) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
    maps, spikes = {}, {}
    for site, stage in stages.items():
        given = currents if site == "in" else None
        maps[site], spikes[site] = stage.run(maps, given, rule, len(currents), steps)
    return {site: found.bytes.clone() for site, found in maps.items()}, spikes


@settings(max_examples=30, deadline=None)
@given(
    channels=st.sampled_from([5, 16, 33, 64]),
    size=st.sampled_from([2, 6, 8]),
    batch=st.sampled_from([1, 2, 3, 17]),
    steps=st.integers(1, 6),
    counts=st.booleans(),
    threads=st.sampled_from([1, 2, 4]),
    wanted=st.sets(st.sampled_from(["in", "a", "b", "c", "d", "out"])),
)
def test_a_chain_is_its_stages_one_by_one(
    channels: int, size: int, batch: int, steps: int, counts: bool, threads: int, wanted: set[str]
) -> None:
    """Every map and every count of spikes, run after run, with memory of other sizes in between."""
    rule = Rule(RuleKind.ACCUMULATE, probe=steps) if counts else PLAIN
    stages = network(channels, size, steps if counts else 0)
    torch.set_num_threads(threads)
    chain = Chain(stages, wanted)
    for samples in (batch, batch + 1, batch, batch):
        currents = stages["in"].pad(torch.randn(samples, 1, size * size, channels))
        maps, spikes = one_by_one(stages, currents, rule, steps)
        found, sent = chain.run({}, {"in": currents}, rule, samples, steps)
        assert sent == spikes
        assert set(found) == wanted
        assert all(torch.equal(found[site].bytes, maps[site]) for site in wanted)
        again, none = chain.run({}, {"in": currents}, rule, samples, steps, counted=False)
        assert not any(none.values())
        assert all(torch.equal(again[site].bytes, maps[site]) for site in wanted)


def test_maps_from_before_and_pools_of_them() -> None:
    """A chain that begins in the middle reads given maps, twice and through a pool."""
    stages = network(16, 8)
    currents = stages["in"].pad(torch.randn(3, 1, 64, 16))
    wanted, _ = one_by_one(stages, currents, PLAIN, 4)
    first, rest = Chain({site: stages[site] for site in ("in", "a", "b")}, {"b"}), ("c", "d", "out")
    second = Chain({site: stages[site] for site in rest}, {"out"})
    assert (first.given, second.given) == ([], ["b"])
    maps, _ = first.run({}, {"in": currents}, PLAIN, 3, 4)
    found, _ = second.run(maps, {}, PLAIN, 3, 4)
    assert torch.equal(found["out"].bytes, wanted["out"])
    pool = Chain({"out": stages["out"]}, {"out"})
    (again, _) = pool.run({"d": pack_bytes(stages["d"].shape, wanted["d"], 3, 4)}, {}, PLAIN, 3, 4)
    assert torch.equal(again["out"].bytes, wanted["out"])


def pack_bytes(shape: MapShape, content: torch.Tensor, batch: int, steps: int) -> object:
    found = shape.empty(batch, steps)
    found.bytes[:] = content
    return found


def test_runs_at_the_same_time_do_not_share_memory() -> None:
    stages = network(16, 8)
    chain = Chain(stages, {"out"})
    inputs = [stages["in"].pad(torch.randn(4, 1, 64, 16)) for _ in range(8)]
    wanted = [one_by_one(stages, currents, PLAIN, 4)[0]["out"] for currents in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda currents: chain.run({}, {"in": currents}, PLAIN, 4, 4)[0]["out"], inputs * 8))
    for number, each in enumerate(found):
        assert torch.equal(each.bytes, wanted[number % 8])


def test_no_samples_and_stages_that_nobody_else_holds() -> None:
    stages = network(16, 8)
    chain = Chain(stages, {"out"})
    found, sent = chain.run({}, {"in": stages["in"].pad(torch.zeros(0, 1, 64, 16))}, PLAIN, 0, 4)
    assert found["out"].bytes.numel() == 0
    assert sent["a"] == [0] * 4
    currents = stages["in"].pad(torch.randn(2, 1, 64, 16))
    wanted, _ = one_by_one(stages, currents, PLAIN, 4)
    del stages
    gc.collect()
    assert torch.equal(chain.run({}, {"in": currents}, PLAIN, 2, 4)[0]["out"].bytes, wanted["out"])


def test_what_a_chain_refuses() -> None:
    stages = network(16, 8)
    chain = Chain(stages, {"out"})
    currents = stages["in"].pad(torch.zeros(2, 1, 64, 16))
    with pytest.raises(ValueError, match="dense currents must be"):
        chain.run({}, {"in": currents}, PLAIN, 3, 4)
    with pytest.raises(ValueError, match="needs counts"):
        chain.run({}, {"in": currents}, Rule(RuleKind.ACCUMULATE, probe=4), 2, 4)
    later = Chain({"d": stages["d"]}, {"d"})
    events = pack(stages["b"].shape, torch.zeros(2, 4, 16, 8, 8))
    with pytest.raises(ValueError, match="another size"):
        later.run({"b": events, "c": events}, {}, PLAIN, 2, 3)
    native = later.compiled
    with pytest.raises(ValueError, match="source is missing"):
        native.run([events], [None], PLAIN.numbers, 2, 4)
    with pytest.raises(ValueError, match="source is missing"):
        native.run([events, events], [None, None], PLAIN.numbers, 2, 4)
    with pytest.raises((TypeError, ValueError)):
        native.run([events, None], [None], PLAIN.numbers, 2, 4)
    with pytest.raises(ValueError, match="too many steps"):
        native.run([events, events], [None], PLAIN.numbers, 0, 2**40)
    for probe in (-100, 5, 2**31 - 1):
        with pytest.raises(ValueError, match=r"probe must lie in 1 \.\. steps"):
            native.run([events, events], [None], PLAIN._replace(probe=probe).numbers, 2, 4)
    with pytest.raises(ValueError, match="unknown schedule"):
        native.run([events, events], [None], (9, *PLAIN.numbers[1:]), 2, 4)
    later.run({"b": events, "c": events}, {}, PLAIN, 2, 4)
    with pytest.raises(ValueError, match="cannot grow"):
        stages["d"].link(native, {"b": 0, "c": 1}, wanted=True)
    with pytest.raises(ValueError, match="not there"):
        stages["d"].link(compiled.Chain(1), {"b": 0, "c": 1}, wanted=True)
    with pytest.raises(ValueError, match="fewer"):
        compiled.Chain(-1)
