"""Asserts about spiking networks: same spikes, same answer when streamed, error that falls as 1/T."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.evaluation.offsets import site_errors
from transpike.network.spiking import SpikingNetwork
from transpike.runtime.step import State
from transpike.schedules import Schedule


@dataclass(frozen=True)
class Recording:
    """Everything a run produced.

    Attributes:
        answer: what the network returned, ``[T, N, *]`` per output.
        drive: input current per site, ``[S, N, *]``.
        events: events per site, ``[S, N, *]``.
    """

    answer: Any
    drive: Mapping[str, Tensor]
    events: Mapping[str, Tensor]


def record(snn: SpikingNetwork, *inputs: Tensor, steps: int, **settings: Any) -> Recording:
    """Runs a network and keeps the drive and events of every site.

    Args:
        snn: the network.
        inputs: one tensor ``[N, *]`` per argument.
        steps: T.
        settings: ``schedule``, ``chunk`` and ``kernel`` of the network's call.
    """
    drives: dict[str, list[Tensor]] = {}
    events: dict[str, list[Tensor]] = {}

    def observe(site: str, drive: Tensor, emitted: Tensor) -> None:
        drives.setdefault(site, []).append(drive.detach().clone())
        events.setdefault(site, []).append(emitted.detach().clone())

    answer = snn(*inputs, steps=steps, observe=observe, **settings)
    return Recording(
        answer,
        {site: torch.cat(parts) for site, parts in drives.items()},
        {site: torch.cat(parts) for site, parts in events.items()},
    )


def assert_same_answer(actual: Any, expected: Any) -> None:
    """Two answers have the same structure and the same bits."""
    tensors, structure = pytree.tree_flatten(actual)
    others, wanted = pytree.tree_flatten(expected)
    assert structure == wanted, f"structure {structure}, expected {wanted}"
    for index, (a, b) in enumerate(zip(tensors, others, strict=True)):
        if not isinstance(b, Tensor):
            assert a == b, f"output {index} is {a!r}, expected {b!r}"
            continue
        assert a.shape == b.shape, f"output {index} has shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        assert torch.equal(a, b), f"output {index} differs by up to {float((a - b).abs().max()):.3g}"


def assert_same_spikes(actual: Recording, expected: Recording) -> None:
    """Two runs spiked alike at every site and gave the same answer, bit for bit; both did spike."""
    assert actual.events.keys() == expected.events.keys(), f"sites {list(actual.events)} and {list(expected.events)}"
    for site, events in expected.events.items():
        got = actual.events[site]
        assert got.shape == events.shape, f"site {site}: shape {tuple(got.shape)}, expected {tuple(events.shape)}"
        flipped = int((got != events).sum())
        assert flipped == 0, f"site {site}: {flipped} of {events.numel()} events differ"
        assert bool(events.any()), f"site {site} never spikes, so nothing was compared"
    assert_same_answer(actual.answer, expected.answer)


def assert_stream_equals_run(
    snn: SpikingNetwork, *inputs: Tensor, steps: int, schedule: Schedule | None = None
) -> None:
    """``steps`` calls of `SpikingNetwork.step` give the rows of one run, bit for bit."""
    rows = []
    state: State | None = None
    for _ in range(steps):
        row, state = snn.step(inputs[0] if len(inputs) == 1 else inputs, state, schedule=schedule)
        rows.append(row)
    streamed = pytree.tree_map(lambda *parts: torch.stack(parts), *rows)
    assert_same_answer(streamed, snn(*inputs, steps=steps, schedule=schedule))


def assert_converges(
    snn: SpikingNetwork,
    *inputs: Tensor,
    largest_error: float = 0.02,
    steps: tuple[int, int] = (64, 256),
    schedule: Schedule | None = None,
) -> None:
    """Every site's error is below ``largest_error`` at the longer run and fell about as 1/T from the shorter one.

    "About" is a factor of two around ``steps[1] / steps[0]`` for the sum over the sites, since one site's error may
    meet zero by chance.
    """
    short, long = steps
    before = site_errors(snn, *inputs, steps=short, schedule=schedule)
    after = site_errors(snn, *inputs, steps=long, schedule=schedule)
    for site, error in after.items():
        assert error <= largest_error, f"site {site}: relative error {error:.3%} after {long} steps"
    rate = sum(before.values()) / sum(after.values())
    expected = long / short
    assert expected / 2 <= rate <= expected * 2, f"error fell by {rate:.2f} from T={short} to {long}, not {expected:g}"
