"""Every schedule on every topology, and the figures that networks report about them."""

from __future__ import annotations

import pytest
import torch

import transpike as tp
from transpike import zoo
from transpike.schedules import (
    SCHEDULES,
    AccumulateThenFire,
    ExactPotential,
    Latency,
    OffsetSpike,
    Plain,
    Radix,
    Residual,
    Schedule,
    SignedDigits,
    Staggered,
    TwoPasses,
)
from transpike.testing import TOPOLOGIES, assert_same_answer, record, set_dyadic_thresholds

LIST = [
    Residual(3),
    OffsetSpike(3),
    OffsetSpike(6, iterations=2),
    ExactPotential(3),
    AccumulateThenFire(4),
    Staggered(2),
    TwoPasses(3),
]


def spiking(topology, batch=3):
    inputs = topology.dyadic_inputs(batch)
    snn = tp.convert(
        topology.dyadic_model(),
        tp.Conversion(tp.rules.Maximum()),
        calibration=[inputs],
        example_inputs=inputs,
    )
    return set_dyadic_thresholds(snn), inputs


def test_the_table_is_complete() -> None:
    assert {type(schedule) for schedule in LIST} | {Plain, Radix, SignedDigits} == set(SCHEDULES.values())


@pytest.mark.parametrize("schedule", LIST, ids=repr)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_runs_are_consistent(topology, schedule: Schedule) -> None:
    snn, inputs = spiking(topology)
    run = record(snn, *inputs, steps=6, schedule=schedule)
    for site, events in run.events.items():
        assert set(events.unique().tolist()) <= {0.0, 1.0}, site  # binary and not negative
    short = snn(*inputs, steps=4, schedule=schedule)
    tree_map = torch.utils._pytree.tree_map
    assert_same_answer(short, tree_map(lambda rows: rows[:4], run.answer))
    turned = snn(*(x.flip(0) for x in inputs), steps=6, schedule=schedule)
    assert_same_answer(turned, tree_map(lambda rows: rows.flip(1), run.answer))
    again = snn(*inputs, steps=6, schedule=schedule, kernel=tp.kernels.KernelPreference.REFERENCE)
    assert_same_answer(again, run.answer)


@pytest.mark.parametrize("levels", [2, 4])
def test_accumulate_then_fire_equals_the_qcfs_network(levels: int) -> None:
    """Exactly, site by site, on dyadic numbers; networks without average pooling by odd factors."""
    for topology in TOPOLOGIES:
        if not topology.tailorable:
            continue
        inputs = topology.dyadic_inputs(3, dtype=torch.float64)
        ann = tp.tailor(topology.dyadic_model(dtype=torch.float64), tp.activations.QCFS(levels, theta_init=2.0)).eval()
        snn = tp.convert(ann, example_inputs=inputs)
        answer = snn(*inputs, steps=levels, schedule=AccumulateThenFire(levels))
        leaves = torch.utils._pytree.tree_leaves
        for mean, exact in zip(leaves(answer), leaves(ann(*inputs)), strict=True):
            assert torch.allclose(mean[-1], exact, rtol=1e-12, atol=1e-12), topology.name


def test_calibrated_schedules_beat_the_plain_one_on_a_qcfs_network() -> None:
    """The error against the QCFS network after rho = L steps: exact < COS < residual or plain."""
    torch.manual_seed(0)
    model = zoo.build("digits-resnet", blocks=1).eval()
    x = torch.rand(32, 1, 8, 8, dtype=torch.float64)
    ann = tp.tailor(
        model.double(), tp.activations.QCFS(4, theta_init=tp.activations.ThetaPercentile(99)), calibration=x
    ).eval()
    snn = tp.convert(ann, example_inputs=x[:2])
    exact = ann(x).detach()

    def error(schedule: Schedule, steps: int) -> float:
        return float((snn(x, steps=steps, schedule=schedule)[-1] - exact).abs().mean() / exact.abs().mean())

    assert error(AccumulateThenFire(4), 4) < 1e-9
    assert error(ExactPotential(4), 4) < error(OffsetSpike(4), 4) + 1e-9 < error(Plain(), 4)
    assert error(AccumulateThenFire(4), 1) < error(Plain(), 1)


def test_latency_is_counted_honestly() -> None:
    snn = tp.convert(
        zoo.build("cifar-resnet20"),
        tp.Conversion(tp.rules.Maximum()),
        calibration=torch.rand(4, 3, 32, 32),
        example_inputs=torch.rand(2, 3, 32, 32),
    )
    assert snn.latency(1, OffsetSpike(4)) == Latency(1, 5, 77, 8)  # the papers say 5: 19 sites wait
    assert snn.latency(1, OffsetSpike(4, iterations=2)) == Latency(1, 9, 153, 12)
    assert snn.latency(4, AccumulateThenFire(4)) == Latency(4, 8, 80, 8)
    assert snn.latency(8, Residual(4)) == Latency(8, 12, 84, 12)
    assert snn.latency(2, TwoPasses(4)) == Latency(2, 6, 6, 6)
    assert snn.latency(1, AccumulateThenFire(4)) == Latency(1, 5, 77, 8)  # the next layer accumulates 4
    assert snn.latency(2, Staggered(1)) == Latency(
        2, 2, 21, 21
    )  # the first layer sends for 20 steps and has waited for one
    assert snn.latency(8) == Latency(8, 8, 8, 8)
    assert snn.latency(4, Radix(4)) == Latency(4, 8, 80, 8)
    assert snn.latency(5, SignedDigits(5)) == Latency(5, 5, 24, 24)  # 19 sites wait for one step each
    some = SignedDigits(6, 1.6, 0.6, 0, ((snn.sites[1].name, 1), (snn.sites[-1].name, 1)))
    assert snn.latency(6, some) == Latency(6, 6, 8, 8)


def test_evaluation_counts_the_spikes_of_both_passes() -> None:
    topology = next(t for t in TOPOLOGIES if t.name == "conv")
    snn, (x,) = spiking(topology, 6)
    labels = torch.arange(6) % 5
    report = tp.evaluate(snn, [(x, labels)], steps=4, schedule=TwoPasses(3))
    both = record(snn, x, steps=4, schedule=TwoPasses(3)).events  # the passes one after the other: 3 + 4 steps
    for site, events in record(snn, x, steps=3).events.items():
        assert torch.equal(both[site][:3], events)
    for row in report.rows:
        assert row.events * 6 == pytest.approx(sum(float(events[: 3 + row.steps].sum()) for events in both.values()))
    assert [row.latency.pipeline_steps for row in report.rows] == [4, 5, 6, 7]


@pytest.mark.parametrize("schedule", LIST, ids=repr)
def test_evaluation_in_small_pieces(schedule: Schedule) -> None:
    topology = next(t for t in TOPOLOGIES if t.name == "in_place")
    snn, (x,) = spiking(topology, 7)
    batch = [(x, torch.arange(7) % 5)]
    whole = tp.evaluate(snn, batch, steps=5, schedule=schedule)
    assert tp.evaluate(snn, batch, steps=5, schedule=schedule, memory_mib=0).rows == whole.rows
    answer = snn(x, steps=5, schedule=schedule)
    hits = [100 * float((row.argmax(1) == batch[0][1]).double().mean()) for row in answer]
    assert [row.top1 for row in whole.rows] == pytest.approx(hits)
