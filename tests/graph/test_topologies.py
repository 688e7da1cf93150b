"""Every topology of the zoo, through every promise that the graph core makes."""

import copy
from functools import cache

import pytest
import torch
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.testing import (
    TOPOLOGIES,
    Topology,
    assert_converges,
    assert_same_answer,
    assert_same_spikes,
    assert_stream_equals_run,
    is_dyadic,
    make_dyadic,
    record,
    set_dyadic_thresholds,
)

STEPS = 7
each_topology = pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)


def _convert(topology: Topology, model, inputs, *parts) -> tp.SpikingNetwork:
    return tp.convert(model, tp.Conversion.of(*parts), example_inputs=inputs, calibration=[inputs])


@cache
def _dyadic(topology: Topology):
    """A spiking network whose sums are exact, its inputs, and one run of it."""
    inputs = topology.dyadic_inputs(batch=4)
    snn = _convert(topology, topology.dyadic_model(), inputs, tp.rules.Maximum(tp.PerChannel()))
    set_dyadic_thresholds(snn)
    return snn, inputs, record(snn, *inputs, steps=STEPS)


def test_names_are_unique_and_the_issue_is_covered():
    names = [topology.name for topology in TOPOLOGIES]
    assert len(names) == len(set(names))
    assert {
        *("mlp", "shared_relu", "functional_relu", "in_place", "pre_activation_cat", "depthwise_relu6"),
        *("pad_and_slice", "two_inputs_two_outputs", "conv1d", "conv3d", "transposed"),
    } <= set(names)


@each_topology
def test_fixtures_are_dyadic(topology):
    """Otherwise equality below would be luck. BatchNorm scales may add bits: they are powers of two down to 1/4."""
    snn, inputs, _ = _dyadic(topology)
    assert all(is_dyadic(x) for x in inputs)
    for name, parameter in snn.network.named_parameters():
        if not name.endswith(("theta", "v_init")):
            assert is_dyadic(parameter, 64 * 4), name


@each_topology
def test_sites_are_exactly_those_listed(topology):
    found = tp.inspect(topology.model(), topology.random_inputs(2))
    assert found.convertible, str(found)
    assert tuple(site.name for site in found.plan.sites) == topology.sites
    assert all("networks.py:" in site.source for site in found.plan.sites if "@" in site.name)


@each_topology
def test_graph_computes_what_the_source_computes(topology):
    model = topology.model(seed=1, dtype=torch.float64)
    inputs = topology.random_inputs(5, seed=2, dtype=torch.float64)
    snn = _convert(topology, model, inputs, tp.rules.Maximum())
    other = topology.random_inputs(3, seed=3, dtype=torch.float64)
    for expected, actual in zip(
        pytree.tree_leaves(model(*(x.clone() for x in other))), pytree.tree_leaves(snn.ann(*other)), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    result = snn.verify(*other, ann=model)
    assert result.difference < 1e-10
    assert result.batch < 1e-10


@each_topology
def test_source_is_untouched(topology):
    model = topology.model()
    for index, module in enumerate(model.modules()):  # a mixture of modes must survive
        module.training = index % 2 == 0
    modes = [(name, module.training, type(module)) for name, module in model.named_modules()]
    switches = [(name, getattr(module, "inplace", None)) for name, module in model.named_modules()]
    values = copy.deepcopy(model.state_dict())
    inputs = topology.random_inputs(2)
    kept = [x.clone() for x in inputs]
    snn = _convert(topology, model, inputs, tp.rules.Percentile(99.0))
    snn.double()
    assert [(name, module.training, type(module)) for name, module in model.named_modules()] == modes
    assert [(name, getattr(module, "inplace", None)) for name, module in model.named_modules()] == switches
    assert list(model.state_dict()) == list(values)
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(inputs, kept, strict=True))
    owned = {parameter.data_ptr() for parameter in snn.parameters() if parameter.numel()}
    assert owned.isdisjoint(parameter.data_ptr() for parameter in model.parameters())


@each_topology
def test_all_chunk_sizes_give_the_same_bits(topology):
    snn, inputs, whole = _dyadic(topology)
    for chunk in (1, 2, 3, 5, STEPS):
        assert_same_spikes(record(snn, *inputs, steps=STEPS, chunk=chunk), whole)


@each_topology
def test_streaming_gives_the_same_bits(topology):
    snn, inputs, _ = _dyadic(topology)
    assert_stream_equals_run(snn, *inputs, steps=STEPS)


@each_topology
def test_reference_and_eager_kernels_give_the_same_bits(topology):
    snn, inputs, _ = _dyadic(topology)
    reference = record(snn, *inputs, steps=STEPS, kernel=tp.kernels.KernelPreference.REFERENCE)
    assert_same_spikes(record(snn, *inputs, steps=STEPS, kernel=tp.kernels.KernelPreference.EAGER), reference)


@each_topology
def test_permuting_the_batch_permutes_the_answer(topology):
    snn, inputs, whole = _dyadic(topology)
    order = torch.tensor([2, 0, 3, 1])
    permuted = snn(*(x[order] for x in inputs), steps=STEPS)
    assert_same_answer(permuted, pytree.tree_map(lambda rows: rows[:, order], whole.answer))
    alone = snn(*(x[1:2] for x in inputs), steps=STEPS)
    assert_same_answer(alone, pytree.tree_map(lambda rows: rows[:, 1:2], whole.answer))


@each_topology
def test_a_longer_run_begins_like_a_shorter_one(topology):
    snn, inputs, _ = _dyadic(topology)
    longer = snn(*inputs, steps=16)
    assert_same_answer(pytree.tree_map(lambda rows: rows[:4], longer), snn(*inputs, steps=4))


@each_topology
def test_rows_are_running_means_in_the_structure_of_the_answer(topology):
    snn, inputs, whole = _dyadic(topology)
    of_ann, of_snn = pytree.tree_flatten(snn.ann(*inputs)), pytree.tree_flatten(whole.answer)
    assert of_ann[1] == of_snn[1]
    for ann, rows in zip(of_ann[0], of_snn[0], strict=True):
        assert rows.shape == (STEPS, *ann.shape)


@each_topology
def test_potentials_balance(topology):
    """v(T) = v(0) + sum(drive) - theta * count, and 0 <= count <= T, at every site."""
    snn, inputs, whole = _dyadic(topology)
    state = None
    for _ in range(STEPS):
        _, state = snn.step(inputs[0] if len(inputs) == 1 else inputs, state)
    calls = [node for node in snn.network.graph.nodes if node.op == "call_module"]
    stateful = [node for node in calls if str(node.target) in topology.sites or node.name in snn.plan.pools]
    assert len(state.memory) == len(stateful) + len(snn.plan.readouts)
    potentials = {str(node.target): memory[0] for node, memory in zip(stateful, state.memory, strict=False)}
    for name in topology.sites:
        site, events = snn.site(name), whole.events[name]
        assert set(events.unique().tolist()) <= {0.0, 1.0}
        expected = site.v_init + whole.drive[name].sum(0) - site.theta * events.sum(0)
        assert torch.equal(potentials[name], expected), name


@each_topology
def test_error_against_the_clipped_network_falls_as_one_over_t(topology):
    model = topology.model(dtype=torch.float64)
    inputs = topology.random_inputs(6, seed=1, dtype=torch.float64)
    snn = _convert(topology, model, inputs, tp.rules.Maximum(), tp.rules.HalfThreshold())
    assert_converges(snn, *inputs, largest_error=0.02, steps=(64, 256))


@each_topology
def test_channel_thresholds_converge_too(topology):
    model = topology.model(dtype=torch.float64)
    inputs = topology.random_inputs(6, seed=1, dtype=torch.float64)
    snn = _convert(topology, model, inputs, tp.rules.Maximum(tp.PerChannel()), tp.rules.HalfThreshold())
    assert_converges(snn, *inputs, largest_error=0.02, steps=(64, 256))


@each_topology
def test_answer_tends_to_that_of_the_ann(topology):
    """With the largest activations as thresholds nothing is clipped, so the limit is the source network itself."""
    model = topology.model(dtype=torch.float64)
    inputs = topology.random_inputs(6, seed=1, dtype=torch.float64)
    snn = _convert(topology, model, inputs, tp.rules.Maximum())
    errors = []
    for steps in (64, 512):
        rows = pytree.tree_leaves(snn(*inputs, steps=steps))
        with torch.no_grad():
            source = pytree.tree_leaves(model(*(x.clone() for x in inputs)))
        errors.append(
            sum(float((a[-1] - b).abs().sum()) for a, b in zip(rows, source, strict=True))
            / sum(float(b.abs().sum()) for b in source)
        )
    assert errors[1] < 0.02
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize("topology", [topology for topology in TOPOLOGIES if topology.tailorable], ids=str)
def test_numbers_that_stand_on_the_steps_of_a_staircase(topology):
    """Dyadic drives hit the steps exactly, where the smallest rounding changes the ANN's value by a whole level."""
    ann = make_dyadic(tp.tailor(topology.model(), tp.activations.QCFS(4, theta_init=1.0))).eval()
    snn = tp.convert(ann, example_inputs=topology.dyadic_inputs(3))
    assert tuple(site.name for site in snn.sites) == topology.sites


@pytest.mark.parametrize("topology", [topology for topology in TOPOLOGIES if topology.tailorable], ids=str)
def test_tailoring(topology):
    model = topology.model()
    tailored = tp.tailor(model, tp.activations.QCFS(levels=4, theta_init=2.0))
    weights = model.state_dict()
    assert set(weights) <= set(tailored.state_dict())
    assert all(torch.equal(tailored.state_dict()[key], value) for key, value in weights.items())
    extra = set(tailored.state_dict()) - set(weights)
    assert extra == {f"{name}.theta" for name in topology.sites}
    calls = tp.conversion.tailor.tailoring(tailored).activations
    assert tuple(call.name for call in calls) == topology.sites
    again = tp.tailor(tailored, tp.activations.QCFS(levels=4, theta_init=2.0))
    inputs = topology.random_inputs(3)
    assert list(again.state_dict()) == list(tailored.state_dict())
    assert_same_answer(again(*inputs), tailored(*inputs))
    snn = tp.convert(tailored, example_inputs=inputs)
    assert tuple(site.name for site in snn.sites) == topology.sites
    for name in topology.sites:
        assert float(snn.site(name).theta) == 2.0
        assert float(snn.site(name).v_init) == 1.0
