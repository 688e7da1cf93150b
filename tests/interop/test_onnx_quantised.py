"""ONNX files of the quantised network that an accumulate network equals, run in ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike.errors import ExportError
from transpike.testing.asserts import record
from transpike.testing.dyadic import set_dyadic_thresholds
from transpike.testing.topologies import TOPOLOGIES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from onnx_runs import open_file  # noqa: E402

ZOO = {topology.name: topology for topology in TOPOLOGIES}
RHO = 4
ACCUMULATE = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold(), schedule=tp.schedules.AccumulateThenFire(RHO))


def _network(name, batch=32, conversion=ACCUMULATE):
    topology = ZOO[name]
    inputs = topology.dyadic_inputs(batch)
    snn = tp.convert(topology.dyadic_model(), conversion, calibration=[inputs], example_inputs=inputs)
    return set_dyadic_thresholds(snn), inputs


def _answers(path, inputs):
    session = open_file(path)
    names = [each.name for each in session.get_inputs()]
    return torch.from_numpy(session.run(None, dict(zip(names, (each.numpy() for each in inputs), strict=True)))[0])


def _half_way(snn, inputs):
    """Samples of which some neuron's count lies exactly between two whole numbers, where roundings differ."""
    drives = record(snn, *inputs, steps=RHO).drive
    found = torch.zeros(len(inputs[0]), dtype=torch.bool)
    for site in snn.sites:
        module = snn.site(site.name)
        level = RHO * drives[site.name].mean(0) / module.theta + module.v_init / module.theta - 0.5
        half = (level % 1 == 0.5) & (level > 0) & (level < RHO)
        found |= half.flatten(1).any(1)
    return found


def test_counts_computed_by_hand(tmp_path):
    """With theta 1 and rho 4, levels lie at 0, 1/4, 1/2, 3/4 and 1; 1/8 is half-way: up for neurons, even for QDQ."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    x = torch.tensor([[-0.5], [0.1], [0.125], [0.2], [0.375], [0.6], [0.875], [0.99], [3.0]])
    snn = tp.convert(model, ACCUMULATE, calibration=[torch.ones(2, 1)], example_inputs=torch.ones(2, 1))
    snn.site("1").set_threshold(torch.tensor(1.0))
    snn.site("1").set_initial_potential(torch.tensor(0.5))
    tp.to_onnx(snn, tmp_path / "q.onnx", "quantised", check=False)
    tp.to_onnx(snn, tmp_path / "s.onnx", "staircase", check=False)
    up = [0, 0, 0.25, 0.25, 0.5, 0.5, 1, 1, 1]
    even = [0, 0, 0, 0.25, 0.5, 0.5, 1, 1, 1]
    assert _answers(tmp_path / "s.onnx", (x,)).flatten().tolist() == up
    assert _answers(tmp_path / "q.onnx", (x,)).flatten().tolist() == even
    assert snn(x, steps=RHO)[-1].flatten().tolist() == up
    assert _half_way(snn, (x,)).tolist() == [value in (0.125, 0.375, 0.875) for value in x.flatten().tolist()]


@pytest.mark.parametrize("name", ["shared_relu", "depthwise_relu6", "max_pool_on_spikes"])
def test_dyadic_networks(tmp_path, name):
    """The staircase is equal everywhere, the quantised form wherever no count is exactly half-way."""
    snn, inputs = _network(name)
    more = ZOO[name].dyadic_inputs(48, seed=5)
    wanted = snn(*more, steps=RHO)[-1]
    tp.to_onnx(snn, tmp_path / "s.onnx", "staircase", example_inputs=inputs, check=False)
    assert torch.equal(_answers(tmp_path / "s.onnx", more), wanted)
    tp.to_onnx(snn, tmp_path / "q.onnx", "quantised", example_inputs=inputs, check=False)
    differs = (_answers(tmp_path / "q.onnx", more) != wanted).flatten(1).any(1)
    half = _half_way(snn, more)
    assert half.any()
    assert not (differs & ~half).any()


def test_real_numbers_are_hardly_ever_half_way(tmp_path):
    topology = ZOO["pre_activation_cat"]
    inputs = topology.random_inputs(32)
    method = tp.methods["accumulate"](steps=8)
    snn = tp.convert(topology.model(), method, calibration=[inputs], example_inputs=inputs)
    written = tp.to_onnx(snn, tmp_path / "q.onnx", "quantised", example_inputs=inputs)
    assert written.steps == 8
    assert written.check is not None
    assert written.check.samples == 32
    assert written.check.differing <= 1
    assert "in ONNX Runtime" in str(written)


def test_scales_of_channels_biases_and_other_initial_potentials(tmp_path):
    snn, inputs = _network("conv_batchnorm")
    first, second = (snn.site(site.name) for site in snn.sites)
    first.set_threshold(torch.tensor([0.5, 1.0, 2.0, 0.25]))
    first.set_initial_potential(torch.tensor([0.25, 0.125, 0.5, 0.0]))
    second.set_bias(torch.full((6,), 0.125))
    wanted = snn(*inputs, steps=RHO)[-1]
    tp.to_onnx(snn, tmp_path / "s.onnx", "staircase", check=False)
    assert torch.equal(_answers(tmp_path / "s.onnx", inputs), wanted)
    tp.to_onnx(snn, tmp_path / "q.onnx", "quantised", check=False)
    differs = (_answers(tmp_path / "q.onnx", inputs) != wanted).flatten(1).any(1)
    assert not (differs & ~_half_way(snn, inputs)).any()
    model = onnx.load(str(tmp_path / "q.onnx"))
    onnx.checker.check_model(model, full_check=True)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 2
    assert not kinds["Floor"]
    values = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    quantise = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert values[quantise[0].input[1]].tolist() == [0.125, 0.25, 0.5, 0.0625]
    assert [attribute.i for attribute in quantise[0].attribute if attribute.name == "axis"] == [1]
    for node in quantise:
        assert values[node.input[2]].dtype == np.uint8
        assert not values[node.input[2]].any()


def test_what_is_no_quantised_network_is_named(tmp_path):
    snn, (x,) = _network("mlp", 2, tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()))
    with pytest.raises(
        ExportError, match=r"the schedule plain[\s\S]*only AccumulateThenFire[\s\S]*methods\['accumulate'\]"
    ):
        tp.to_onnx(snn, tmp_path / "q.onnx", "quantised", example_inputs=x)
    long = tp.Conversion(tp.rules.Maximum(), schedule=tp.schedules.AccumulateThenFire(256))
    snn, (x,) = _network("mlp", 2, long)
    with pytest.raises(ExportError, match=r"counts up to 256 do not fit into uint8[\s\S]*form='staircase'"):
        tp.to_onnx(snn, tmp_path / "q.onnx", "quantised", example_inputs=x)
    pooling = ZOO["max_pool_on_spikes"]
    (x,) = pooling.dyadic_inputs(2)
    snn = tp.convert(pooling.model(), ACCUMULATE, calibration=[x], example_inputs=x, max_pooling=tp.MaxPooling.PER_STEP)
    with pytest.raises(ExportError, match=r"MaxPool2d[\s\S]*not the maximum of their counts"):
        tp.to_onnx(snn, tmp_path / "q.onnx", "staircase", example_inputs=x)
    assert not list(tmp_path.iterdir())
