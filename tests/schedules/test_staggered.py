"""Staggered start: trajectories by hand, topologies, JSON."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.schedules import Plain, Staggered, Wait
from transpike.serialization.json_records import from_json, to_json
from transpike.testing import TOPOLOGIES, assert_same_answer, record, set_dyadic_thresholds


def one_neuron() -> tp.SpikingNetwork:
    """Theta 1, v(0) = 1/2, weights 1."""
    layers = [nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)]
    with torch.no_grad():
        for layer in (layers[0], layers[2]):
            layer.weight.fill_(1.0)
    x = torch.ones(2, 1)
    return tp.convert(
        nn.Sequential(*layers),
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        calibration=x,
        example_inputs=x,
    ).eval()


@pytest.mark.parametrize(
    ("wait", "lag", "expected"),
    [
        # drive 3/4: v = 5/4 (waits), 2 -> 1, 7/4 -> 3/4, 3/2 -> 1/2, 5/4 -> 1/4
        (Wait.INTEGRATE, 1, [1, 1, 1, 1]),
        # 5/4 -> 1/4 (not sent), 1 -> 0, 3/4, 3/2 -> 1/2, 5/4 -> 1/4
        (Wait.WITHHOLD, 1, [1, 0, 1, 1]),
        # two not sent
        (Wait.WITHHOLD, 2, [0, 1, 1, 1]),
        (Wait.WITHHOLD, 0, [1, 1, 0, 1]),
        (Wait.INTEGRATE, 0, [1, 1, 0, 1]),
    ],
)
def test_a_neuron_that_waits(wait: Wait, lag: int, expected: list[int]) -> None:
    snn = one_neuron()
    run = record(snn, torch.full((1, 1), 0.75), steps=4, schedule=Staggered(lag, wait=wait))
    (events,) = run.events.values()
    assert events.flatten().tolist() == expected
    assert snn.latency(4, Staggered(lag, wait=wait)).pipeline_steps == 4 + lag


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_withheld_spikes_on_every_topology(topology) -> None:
    inputs = topology.dyadic_inputs(3)
    snn = tp.convert(
        topology.dyadic_model(),
        tp.Conversion(tp.rules.Maximum()),
        calibration=[inputs],
        example_inputs=inputs,
    )
    set_dyadic_thresholds(snn)
    schedule = Staggered(0, tuple((site.name, 1 + i % 2) for i, site in enumerate(snn.sites)), Wait.WITHHOLD)
    run = record(snn, *inputs, steps=6, schedule=schedule)
    for site, events in run.events.items():
        assert set(events.unique().tolist()) <= {0.0, 1.0}, site
    tree_map = torch.utils._pytree.tree_map
    assert_same_answer(snn(*inputs, steps=4, schedule=schedule), tree_map(lambda rows: rows[:4], run.answer))
    assert_same_answer(
        snn(*inputs, steps=6, schedule=schedule, kernel=tp.kernels.KernelPreference.REFERENCE), run.answer
    )
    nothing = Staggered(0, wait=Wait.WITHHOLD)
    assert_same_answer(snn(*inputs, steps=4, schedule=nothing), snn(*inputs, steps=4, schedule=Plain()))


def test_json() -> None:
    schedule = Staggered(0, (("stem", 2), ("head", 1)), Wait.WITHHOLD)
    again = from_json(to_json(schedule), {"Staggered": Staggered})
    assert again == schedule
    assert hash(again) == hash(schedule)


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        Staggered(0, (("stem", -1),))
    with pytest.raises(ValueError, match="wait must be one of"):
        Staggered(1, wait="sleep")  # type: ignore[arg-type]
