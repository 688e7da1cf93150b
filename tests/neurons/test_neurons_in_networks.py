"""Neurons with signed events and with several: what a network promises holds for them, on every topology."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

import transpike as tp
from transpike import zoo
from transpike.errors import ConversionError, InputError, StateError
from transpike.evaluation.offsets import offset_spikes
from transpike.neurons import NEURONS, Burst, EventKind, Neuron, SignedIF
from transpike.schedules import SCHEDULES, Plain, Staggered, TwoPasses
from transpike.schedules.staggered import Wait
from transpike.testing import (
    TOPOLOGIES,
    Topology,
    assert_converges,
    assert_same_answer,
    assert_same_spikes,
    assert_stream_equals_run,
    record,
    set_dyadic_thresholds,
)

STEPS = 6
CEILINGS = ("depthwise_relu6", "hardtanh", "clamp")
ZOO = {topology.name: topology for topology in TOPOLOGIES}
LIST: list[Neuron] = [SignedIF(), SignedIF(1.0), Burst(3)]
PAIRS = [(t, n) for t in TOPOLOGIES for n in (SignedIF(), Burst(3)) if n.most_events == 1 or t.name not in CEILINGS]
each = pytest.mark.parametrize(("topology", "neuron"), PAIRS, ids=lambda value: str(value))


@cache
def spiking(topology: Topology, neuron: Neuron, batch: int = 4):
    """Dyadic numbers; thresholds are so low that several events, or events that are too many, come."""
    inputs = topology.dyadic_inputs(batch)
    parts, model = [tp.rules.Maximum()], topology.dyadic_model()
    snn = tp.convert(
        model,
        tp.Conversion.of(*parts, neuron=neuron),
        calibration=[inputs],
        example_inputs=inputs,
    )
    for plan in snn.sites:
        site = snn.site(plan.name)
        site.set_threshold(site.theta / 4)
    return set_dyadic_thresholds(snn), inputs


def test_the_table_is_complete():
    assert {type(neuron) for neuron in LIST} | {tp.neurons.IF} == set(NEURONS.values())


@each
def test_chunks_and_streams_give_the_same_bits(topology, neuron):
    snn, inputs = spiking(topology, neuron)
    whole = record(snn, *inputs, steps=STEPS)
    for chunk in (1, 4):
        assert_same_spikes(record(snn, *inputs, steps=STEPS, chunk=chunk), whole)
    assert_stream_equals_run(snn, *inputs, steps=STEPS)
    events = torch.cat([events.unique() for events in whole.events.values()])
    least, most = {EventKind.SIGNED: (-1.0, 1.0), EventKind.COUNT: (0.0, 3.0)}[neuron.events]
    assert set(events.tolist()) <= set(torch.arange(least, most + 1).tolist())
    for name, sent in whole.events.items():
        assert bool((sent.cumsum(0) >= 0).all()), name  # what is taken back was sent


def test_the_fixtures_do_cause_negative_and_multiple_events():
    for neuron, wanted in ((SignedIF(), -1.0), (SignedIF(1.0), -1.0), (Burst(3), 3.0)):
        runs = [record(*_unpacked(*spiking(ZOO[name], neuron)), steps=STEPS) for name in ("in_place", "shared_relu")]
        found = {value for run in runs for events in run.events.values() for value in events.unique().tolist()}
        assert wanted in found, neuron


def _unpacked(snn, inputs):
    return snn, *inputs


@each
def test_potentials_balance_at_every_site(topology, neuron):
    """v(T) = v(0) + sum(drive) - theta * sum(events), from the state of a stream."""
    snn, inputs = spiking(topology, neuron)
    whole, state = record(snn, *inputs, steps=STEPS), None
    for _ in range(STEPS):
        _, state = snn.step(inputs[0] if len(inputs) == 1 else inputs, state)
    calls = [node for node in snn.network.graph.nodes if node.op == "call_module"]
    stateful = [node for node in calls if str(node.target) in topology.sites or node.name in snn.plan.pools]
    memories = {str(node.target): memory[0] for node, memory in zip(stateful, state.memory, strict=False)}
    for name in topology.sites:
        site, sent = snn.site(name), whole.events[name].sum(0)
        found = memories[name][..., 0] if neuron.events is EventKind.SIGNED else memories[name]
        assert torch.equal(found, site.v_init + whole.drive[name].sum(0) - site.theta * sent), name
        if neuron.events is EventKind.SIGNED:
            assert torch.equal(memories[name][..., 1], sent), name


@each
def test_staggered_start(topology, neuron):
    snn, inputs = spiking(topology, neuron)
    for wait in Wait:
        schedule = Staggered(2, wait=wait)
        run = record(snn, *inputs, steps=STEPS, schedule=schedule)
        assert_same_answer(snn(*inputs, steps=4, schedule=schedule), pytree.tree_map(lambda r: r[:4], run.answer))
        turned = snn(*(x.flip(0) for x in inputs), steps=STEPS, schedule=schedule)
        assert_same_answer(turned, pytree.tree_map(lambda rows: rows.flip(1), run.answer))
        assert any(bool(events.any()) for events in run.events.values())


@each
def test_the_error_falls_as_one_over_t(topology, neuron):
    model = topology.model(dtype=torch.float64)
    inputs = topology.random_inputs(6, seed=1, dtype=torch.float64)
    snn = tp.convert(
        model,
        tp.Conversion(tp.rules.Maximum(), neuron=neuron),
        calibration=[inputs],
        example_inputs=inputs,
    )
    for plan in snn.sites:
        site = snn.site(plan.name)
        site.set_threshold(site.theta / (2 if neuron.most_events > 1 else 1))  # half of it would clip other neurons
        site.set_initial_potential(site.theta / 2)
    assert_converges(snn, *inputs, largest_error=0.03, steps=(64, 256))


def test_the_limit_of_bursts_is_gamma_times_the_threshold():
    snn, (x,) = spiking(ZOO["mlp"], Burst(3))
    model, first, seen = ZOO["mlp"].dyadic_model(), snn.site("1").theta, {}
    snn.clipped(x, observe=lambda name, value: seen.update({name: value}))
    with torch.no_grad():
        expected = torch.minimum(model[0](x).clamp(min=0), 3 * first)
    assert torch.equal(seen["1"], expected)
    assert float(expected.max()) > float(first)


@pytest.mark.parametrize("name", ["mlp", "max_pool_on_spikes", "two_inputs_two_outputs"])
@pytest.mark.parametrize("neuron", LIST, ids=str)
def test_a_state_goes_on_with_some_samples(name, neuron):
    snn, inputs = spiking(ZOO[name], neuron)
    take = torch.tensor([3, 1])
    some = tuple(x[take] for x in inputs)
    rows, state = [], None
    for t in range(STEPS):
        now = inputs if t < 2 else some
        state = state.select(take) if t == 2 else state
        row, state = snn.step(now[0] if len(now) == 1 else now, state)
        rows.append(row)
    whole = snn(*inputs, steps=STEPS)
    last = pytree.tree_map(lambda rows: rows[-1, take], whole)
    assert_same_answer(rows[-1], last)


@pytest.mark.parametrize("neuron", LIST, ids=str)
def test_a_state_of_another_neuron_does_not_fit(neuron):
    snn, (x,) = spiking(ZOO["mlp"], neuron)
    other, _ = spiking(ZOO["mlp"], Burst(3) if neuron.events is EventKind.SIGNED else SignedIF())
    _, state = other.step(x)
    with pytest.raises(StateError, match="does not fit"):
        snn.step(x, state)


@pytest.mark.parametrize("neuron", LIST, ids=str)
def test_early_exit_answers_with_rows_of_the_whole_run(neuron):
    snn, (x,) = spiking(ZOO["conv"], neuron, batch=12)
    rows = snn(x, steps=STEPS)
    confidence = float(rows.softmax(-1).amax(-1)[1].median())
    answer = tp.answer_early(snn, x, steps=STEPS, confidence=confidence)
    assert len(set(answer.steps_used.tolist())) > 1
    expected = torch.stack([rows[t - 1, n] for n, t in enumerate(answer.steps_used.tolist())])
    assert torch.equal(answer.logits, expected)


@pytest.mark.parametrize("neuron", LIST, ids=str)
def test_evaluation_counts_events_by_their_size(neuron):
    snn, (x,) = spiking(ZOO["shared_relu"], neuron)
    report = tp.evaluate(snn, [(x, torch.arange(len(x)) % 5)], steps=STEPS)
    events = record(snn, x, steps=STEPS).events
    for row in report.rows:
        sent = sum(float(values[: row.steps].abs().sum()) for values in events.values())
        assert row.events * len(x) == pytest.approx(sent)


def test_events_are_counted_exactly_where_the_threshold_is_no_power_of_two():
    """(k theta) / theta is not always k in float32; the count is."""
    snn, (x,) = spiking(ZOO["mlp"], Burst(7))
    snn = tp.convert(
        ZOO["mlp"].model(), tp.Conversion(tp.rules.Maximum(), neuron=Burst(7)), calibration=x, example_inputs=x
    )
    thetas = torch.linspace(0.01, 0.03, 101)
    assert bool(((torch.arange(8.0).unsqueeze(1) * thetas) / thetas != torch.arange(8.0).unsqueeze(1)).any())
    for theta in thetas:
        snn.site("1").set_threshold(theta)
        events = record(snn, x, steps=3).events["1"]
        assert torch.equal(events, events.round())


@pytest.mark.parametrize("neuron", [*LIST, SignedIF(0.5), Burst()], ids=str)
def test_saved_and_loaded(neuron, tmp_path: Path):
    model = zoo.build("digits-resnet", width=4, blocks=1).eval()
    x = torch.rand(4, 1, 8, 8)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum(), neuron=neuron), calibration=x, example_inputs=x)
    tp.save(snn, tmp_path / "n.safetensors")
    back = tp.load(tmp_path / "n.safetensors")
    assert back.neuron == neuron
    assert torch.equal(back(x, steps=5), snn(x, steps=5))


@pytest.mark.parametrize("name", CEILINGS)
def test_bursts_are_refused_where_the_activation_stops_at_theta(name):
    topology = ZOO[name]
    inputs = topology.random_inputs(4)
    with pytest.raises(ConversionError, match="stops at theta, but burst") as caught:
        tp.convert(
            topology.model(),
            tp.Conversion(tp.rules.Maximum(), neuron=Burst()),
            calibration=[inputs],
            example_inputs=inputs,
        )
    assert "fix" in str(caught.value)
    tp.convert(
        topology.model(),
        tp.Conversion(tp.rules.Maximum(), neuron=Burst(1)),
        calibration=[inputs],
        example_inputs=inputs,
    )


def test_bursts_are_refused_for_trained_thresholds():
    (x,) = ZOO["mlp"].random_inputs(4)
    ann = tp.tailor(ZOO["mlp"].model(), tp.activations.QCFS(4))
    with pytest.raises(ConversionError, match="stops at theta") as caught:
        tp.convert(ann, tp.Conversion(neuron=Burst()), example_inputs=x)
    assert [operator.node for operator in caught.value.unsupported] == list(ZOO["mlp"].sites)
    tp.convert(ann, tp.Conversion(neuron=SignedIF()), example_inputs=x)


@pytest.mark.parametrize("neuron", LIST, ids=str)
def test_schedules_derived_for_integrate_and_fire_refuse_other_neurons(neuron):
    snn, (x,) = spiking(ZOO["mlp"], neuron)
    derived = [cls() for cls in SCHEDULES.values() if cls not in (Plain, Staggered)]
    assert TwoPasses() in derived
    for schedule in derived:
        with pytest.raises(ValueError, match="derived for integrate-and-fire with soft reset, not for") as caught:
            snn(x, steps=2, schedule=schedule)
        assert str(neuron) in str(caught.value)
    with pytest.raises(InputError, match="neuron"):
        offset_spikes(snn, [x], {"plain": Plain()}, probe_steps=4)


@pytest.mark.parametrize("neuron", LIST, ids=str)
def test_kernels_and_gradients_that_are_not_there_are_refused(neuron):
    snn, (x,) = spiking(ZOO["mlp"], neuron)
    with pytest.raises(ValueError, match="no compiled form"):
        snn.engine.report()
    for kernel in (tp.kernels.KernelPreference.NATIVE, tp.kernels.KernelPreference.EAGER):
        with pytest.raises(RuntimeError, match=f"no {kernel.value} kernel"):
            snn(x, steps=2, kernel=kernel)
    assert torch.equal(snn(x, steps=2, kernel=tp.kernels.KernelPreference.REFERENCE), snn(x, steps=2))
    with pytest.raises(RuntimeError, match="no surrogate derivative"):
        snn(x.clone().requires_grad_(), steps=2)


@pytest.mark.parametrize("neuron", [SignedIF(), Burst(3)], ids=str)
@pytest.mark.parametrize("name", ["shared_relu", "two_inputs_two_outputs"])
def test_compiled_and_exported_steps_give_the_same_bits(name, neuron):
    snn, inputs = spiking(ZOO[name], neuron)
    argument = inputs[0] if len(inputs) == 1 else inputs
    torch.compiler.reset()
    step = torch.compile(snn.step, fullgraph=True, backend="aot_eager")
    row, state = step(argument)
    first, wanted = snn.step(argument)
    assert_same_answer((row, list(state)), (first, list(wanted)))
    expected = snn.step(argument, wanted)
    exported = torch.export.export(snn.stepper(), (argument, state)).module()
    for run in (step, exported):
        row, after = run(argument, state)
        assert_same_answer((row, list(after)), (expected[0], list(expected[1])))
