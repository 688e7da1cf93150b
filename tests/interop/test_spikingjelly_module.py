"""Networks as modules of SpikingJelly, run by SpikingJelly's own functions against the network's own run."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ExportError, MissingExtraError
from transpike.testing.asserts import record
from transpike.testing.dyadic import dyadic_batch, set_dyadic_thresholds
from transpike.testing.topologies import TOPOLOGIES

ZOO = {topology.name: topology for topology in TOPOLOGIES}
PLAIN = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())


def _network(name, conversion=PLAIN, batch=3):
    topology = ZOO[name]
    inputs = topology.dyadic_inputs(batch)
    snn = tp.convert(topology.dyadic_model(), conversion, calibration=[inputs], example_inputs=inputs)
    return set_dyadic_thresholds(snn), inputs


def _means(rows):
    counts = torch.arange(1, len(rows) + 1)
    return rows.cumsum(0) / counts.view(-1, *[1] * (rows.dim() - 1))


def _in_time(inputs, steps):
    return tuple(each.unsqueeze(0).repeat(steps, *[1] * each.dim()) for each in inputs)


def test_without_spikingjelly_the_error_says_how_to_install_it(monkeypatch):
    snn, _ = _network("mlp")
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    monkeypatch.setitem(sys.modules, "spikingjelly.activation_based", None)
    with pytest.raises(MissingExtraError, match="pip install spikingjelly"):
        tp.to_spikingjelly(snn)


def test_what_spikingjelly_has_not_is_named_with_all_reasons():
    """Asked before SpikingJelly is imported, so that the reasons are there without it."""
    snn, _ = _network("softmax_readout", tp.Conversion(tp.rules.Maximum(), neuron=tp.neurons.Burst(3)))
    snn.site("relu").set_bias(torch.zeros(2, 16))
    with pytest.raises(ExportError) as caught:
        tp.to_spikingjelly(snn)
    message = str(caught.value)
    assert "cannot be exported to modules of SpikingJelly, for 3 reasons" in message
    assert "the neuron burst" in message
    assert "integrate-and-fire with soft or hard reset" in message
    assert "its bias differs from step to step" in message
    assert "torch.nn.Softmax (node 'softmax')" in message
    assert "apply it to the mean answer yourself" in message
    snn, _ = _network("mlp", tp.methods["accumulate"](steps=4))
    with pytest.raises(ExportError, match=r"accumulate[\s\S]*only Plain can be written"):
        tp.to_spikingjelly(snn)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "softmax_readout"])
def test_the_zoo_gives_the_same_currents_in_both_step_modes(name):
    functional = _functional()
    snn, inputs = _network(name)
    net = tp.to_spikingjelly(snn)
    with torch.no_grad():
        wanted = pytree.tree_leaves(snn(*inputs, steps=5))
        single = [pytree.tree_leaves(net(*inputs)) for _ in range(5)]
        single = [torch.stack(rows) for rows in zip(*single, strict=True)]
        functional.reset_net(net)
        functional.set_step_mode(net, "m")
        multi = pytree.tree_leaves(net(*_in_time(inputs, 5)))
    for answer, rows, together in zip(wanted, single, multi, strict=True):
        assert torch.equal(rows, together)
        if name == "pre_activation_cat":  # BatchNorms that do not fold leave the grid
            torch.testing.assert_close(_means(rows), answer)
        else:
            assert torch.equal(_means(rows), answer)


def test_events_are_the_same():
    functional = _functional()
    snn, inputs = _network("shared_relu")
    snn.site("relu@0").set_threshold(torch.tensor([0.5, 1.0, 2.0, 0.25]))
    snn.site("relu@1").set_initial_potential(dyadic_batch((4, 8, 8), seed=3).abs() / 4)
    snn.site("relu@2").set_bias(torch.full((4,), 0.125))
    net = tp.to_spikingjelly(snn)
    functional.set_step_mode(net, "m")
    seen = _watch(net)
    with torch.no_grad():
        net(*_in_time(inputs, 6))
    wanted = record(snn, *inputs, steps=6).events
    assert list(seen) == [f"network.{site.name}" for site in snn.sites]
    for site in snn.sites:
        events = seen[f"network.{site.name}"]
        assert torch.equal(events, wanted[site.name])
        assert events.any()


def test_real_numbers_give_the_same_spikes_up_to_rounding():
    functional = _functional()
    topology = ZOO["depthwise_relu6"]
    inputs = topology.random_inputs(16)
    snn = tp.convert(topology.model(), PLAIN, calibration=[inputs], example_inputs=inputs)
    net = tp.to_spikingjelly(snn)
    functional.set_step_mode(net, "m")
    seen = _watch(net)
    with torch.no_grad():
        net(*_in_time(inputs, 8))
    wanted = record(snn, *inputs, steps=8).events
    events = [(seen[f"network.{site.name}"], wanted[site.name]) for site in snn.sites]
    differing = sum(int((ours != theirs).sum()) for ours, theirs in events)
    assert differing <= sum(ours.numel() for ours, _ in events) / 1000


def test_hard_reset():
    _functional()
    hard = tp.neurons.IF(tp.neurons.Reset.HARD)
    snn, (x,) = _network("mlp", tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold(), neuron=hard))
    net = tp.to_spikingjelly(snn)
    with torch.no_grad():
        rows = torch.stack([net(x) for _ in range(6)])
    assert torch.equal(_means(rows), snn(x, steps=6))


def test_reset_another_batch_and_a_copy():
    functional = _functional()
    snn, (x,) = _network("conv_batchnorm")
    net = tp.to_spikingjelly(snn)
    with torch.no_grad():
        first = [net(x) for _ in range(3)]
        functional.reset_net(net)
        assert all(torch.equal(net(x), row) for row in first)
        functional.reset_net(net)
        twin = copy.deepcopy(net)
        assert all(torch.equal(twin(x[:2]), row[:2]) for row in first)


def test_weights_thresholds_and_potentials_are_stored():
    _functional()
    snn, (x,) = _network("conv_batchnorm")
    other, _ = _network("conv_batchnorm")
    other.site("2").set_threshold(torch.tensor(0.25))
    other.site("5").set_initial_potential(torch.tensor(0.0))
    state = tp.to_spikingjelly(other).state_dict()
    assert {"network.0.weight", "network.2.v_threshold", "network.2.v_init"} <= set(state)
    net = tp.to_spikingjelly(snn)
    net.load_state_dict(state)
    with torch.no_grad():
        rows = torch.stack([net(x) for _ in range(4)])
    assert torch.equal(_means(rows), other(x, steps=4))
    assert not torch.equal(_means(rows), snn(x, steps=4))


def test_gradients_are_those_of_the_network_and_training_lowers_the_loss():
    functional = _functional()
    snn, (x,) = _network("mlp", batch=8)
    snn.double()
    x = x.double()
    net = tp.to_spikingjelly(snn)
    functional.set_step_mode(net, "m")
    trained = dict(snn.network.named_parameters())
    for weight in trained.values():
        weight.requires_grad_(weight.dim() > 1)
    snn(x, steps=4)[-1].square().sum().backward()
    net(*_in_time((x,), 4)).mean(0).square().sum().backward()
    for place in ("0", "2", "4"):
        ours = trained[f"{place}.weight"].grad
        theirs = net.network.get_parameter(f"{place}.weight").grad
        assert ours.abs().sum() > 0
        torch.testing.assert_close(theirs, ours)
    classes = torch.arange(8) % 5
    optimiser = torch.optim.SGD([each for each in net.parameters() if each.requires_grad], 0.05)
    losses = []
    for _ in range(20):
        functional.reset_net(net)
        loss = nn.functional.cross_entropy(net(*_in_time((x,), 4)).mean(0), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def _functional():
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional

    return functional


def _watch(net):
    """What every neuron of SpikingJelly sends from now on, by its name."""
    from spikingjelly.activation_based import neuron

    seen = {}
    for name, module in net.named_modules():
        if isinstance(module, neuron.IFNode):
            module.register_forward_hook(lambda _, __, events, name=name: seen.__setitem__(name, events))
    return seen
