"""ONNX files of one time-step, run from zeros with NumPy and ONNX Runtime alone, against the network's own run."""

from __future__ import annotations

import json
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ConfigError, ExportError, MissingExtraError, OutputError
from transpike.testing.asserts import record
from transpike.testing.dyadic import dyadic_batch, set_dyadic_thresholds
from transpike.testing.topologies import TOPOLOGIES

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
from onnx_runs import stream  # noqa: E402

ZOO = {topology.name: topology for topology in TOPOLOGIES}
CONVERSION = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())


def _network(name, conversion=CONVERSION, batch=3):
    topology = ZOO[name]
    inputs = topology.dyadic_inputs(batch)
    snn = tp.convert(topology.dyadic_model(), conversion, calibration=[inputs], example_inputs=inputs)
    return set_dyadic_thresholds(snn), inputs


def _small():
    """One neuron with weight 1, and a readout of weight 4."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, weight in ((model[0], 1.0), (model[2], 4.0)):
            layer.weight.fill_(weight)
            layer.bias.zero_()
    snn = tp.convert(model, CONVERSION, calibration=[torch.ones(2, 1)], example_inputs=torch.ones(2, 1))
    snn.site("1").set_threshold(torch.tensor(1.0))
    snn.site("1").set_initial_potential(torch.tensor(0.5))
    return snn


def test_values_computed_by_hand(tmp_path):
    """From 0.5 with 0.375 a step: 0.875, 1.25 -> spike, 0.625, 1.0 -> spike."""
    tp.to_onnx(_small(), tmp_path / "step.onnx", events=True, check=False)
    rows = stream(tmp_path / "step.onnx", (np.full((1, 1), 0.375, np.float32),), 4)
    assert [row["events.1"].item() for row in rows] == [0, 1, 0, 1]
    assert [row["v.1.next"].item() for row in rows] == [0.875, 0.25, 0.625, 0.0]
    assert [row["answer"].item() for row in rows] == [0, 2, pytest.approx(4 / 3), 2]
    assert [row["sum.2.next"].item() for row in rows] == [0, 4, 4, 8]
    assert [row["steps.next"].item() for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["shared_relu", "depthwise_relu6", "max_pool_on_spikes", "two_inputs_two_outputs"])
def test_dyadic_networks_give_the_same_events_and_answers(tmp_path, name):
    """A residual network; average pooling, folded BatchNorm, depthwise layers; running maxima; several answers."""
    snn, inputs = _network(name)
    written = tp.to_onnx(snn, tmp_path / "step.onnx", example_inputs=inputs, events=True)
    assert written.check is not None
    assert (written.check.differing, written.check.apart, written.check.difference) == (0, 0, 0.0)
    assert written.check.potentials == 8 * 3 * sum(site.neurons for site in snn.sites)
    more = ZOO[name].dyadic_inputs(5, seed=7)  # a batch of another size
    wanted = record(snn, *more, steps=6)
    rows = stream(tmp_path / "step.onnx", tuple(each.numpy() for each in more), 6)
    for site in snn.sites:
        events = torch.stack([torch.from_numpy(row[f"events.{site.name}"]) for row in rows])
        assert torch.equal(events, wanted.events[site.name])
        assert events.any()
    for answer, leaf in zip(written.answers, pytree.tree_leaves(wanted.answer), strict=True):
        assert torch.equal(torch.stack([torch.from_numpy(row[answer]) for row in rows]), leaf)


def test_thresholds_potentials_and_biases_of_channels_neurons_and_steps(tmp_path):
    snn, inputs = _network("conv_batchnorm")
    first, second = (snn.site(site.name) for site in snn.sites)
    first.set_threshold(torch.tensor([0.5, 1.0, 2.0, 0.25]))
    first.set_initial_potential(dyadic_batch((4, 8, 8), seed=3).abs() / 4)
    second.set_bias(dyadic_batch((3, 6, 1, 1), seed=4) / 4)
    assert not second.steady
    tp.to_onnx(snn, tmp_path / "step.onnx", check=False)
    rows = stream(tmp_path / "step.onnx", tuple(each.numpy() for each in inputs), 5)
    assert torch.equal(torch.stack([torch.from_numpy(row["answer"]) for row in rows]), snn(*inputs, steps=5))


@pytest.mark.parametrize("neuron", [tp.neurons.IF(tp.neurons.Reset.HARD), tp.neurons.SignedIF(), tp.neurons.Burst(3)])
def test_other_neurons(tmp_path, neuron):
    snn, inputs = _network("mlp", tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold(), neuron=neuron))
    tp.to_onnx(snn, tmp_path / "step.onnx", check=False, events=True)
    wanted = record(snn, *inputs, steps=6)
    rows = stream(tmp_path / "step.onnx", tuple(each.numpy() for each in inputs), 6)
    assert torch.equal(torch.stack([torch.from_numpy(row["answer"]) for row in rows]), wanted.answer)
    for site in snn.sites:
        events = torch.stack([torch.from_numpy(row[f"events.{site.name}"]) for row in rows])
        assert torch.equal(events, wanted.events[site.name])


def test_sites_of_other_functions(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3))
    x = torch.randn(4, 6)
    conversion = tp.Conversion(tp.rules.Maximum(), neuron=tp.neurons.SignedIF())
    snn = tp.convert(model, conversion, calibration=[x], example_inputs=x)
    assert snn.plan.functions
    written = tp.to_onnx(snn, tmp_path / "step.onnx", example_inputs=x)
    assert written.check is not None
    assert written.check.differing <= 1  # a rounding may move a spike of one sample
    rows = stream(tmp_path / "step.onnx", (x.numpy(),), 8)
    assert rows[-1]["answer"] == pytest.approx(snn(x, steps=8)[-1].numpy(), abs=0.2)


def test_real_numbers_differ_by_few_spikes(tmp_path):
    topology = ZOO["pre_activation_cat"]  # BatchNorm and a growing cat
    inputs = topology.random_inputs(16)
    snn = tp.convert(topology.model(), CONVERSION, calibration=[inputs], example_inputs=inputs)
    check = tp.to_onnx(snn, tmp_path / "step.onnx", example_inputs=inputs).check
    assert check is not None
    assert check.samples == 16
    assert check.apart <= check.potentials / 1000


def test_the_file_holds_plain_operators_and_says_what_it_is(tmp_path):
    snn, _ = _network("conv_batchnorm")
    written = tp.to_onnx(snn, tmp_path / "step.onnx", check=False, opset=19)
    assert written.check is None
    model = onnx.load(str(tmp_path / "step.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 19)]
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds == {
        "Conv": 2,
        "Gemm": 1,
        "Reshape": 1,
        "Equal": 1,
        "Where": 2,
        "GreaterOrEqual": 2,
        "Cast": 3,
        "Mul": kinds["Mul"],  # by a threshold that is not 1
        "Sub": 2,
        "Add": 4,
        "Div": 1,
    }
    assert kinds["Mul"] <= 2
    assert written.inputs == (model.graph.input[0].name,)
    assert written.state == ("steps", "v.2", "v.5", "sum.7")
    assert [each.name for each in model.graph.input][1:] == list(written.state)
    assert [each.name for each in model.graph.output] == ["answer", *(f"{name}.next" for name in written.state)]
    assert {"0.weight", "0.bias", "3.weight", "7.bias"} <= {each.name for each in model.graph.initializer}
    (entry,) = model.metadata_props
    assert json.loads(entry.value) == {
        "form": "step",
        "neuron": "if",
        "schedule": "plain",
        "state": list(written.state),
        "steps": 0,
    }
    first = (tmp_path / "step.onnx").read_bytes()
    assert b".py" not in first  # nothing of the machine
    tp.to_onnx(snn, tmp_path / "step.onnx", check=False, opset=19)
    assert (tmp_path / "step.onnx").read_bytes() == first


def test_what_has_no_form_is_named_with_all_reasons(tmp_path):
    snn, (x,) = _network("mlp", tp.methods["cos"](steps=4))
    snn.site("1").set_initial_potential(torch.zeros(3, 16))
    with pytest.raises(ExportError) as caught:
        tp.to_onnx(snn, tmp_path / "step.onnx", example_inputs=x)
    message = str(caught.value)
    assert "cannot be exported to ONNX (step), for 2 reasons" in message
    assert "the schedule cos" in message
    assert "only Plain can be written" in message
    assert "a site (node '1')" in message
    assert "set one per neuron" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "text"),
    [({"form": "quantized"}, "did you mean quantised"), ({"opset": 12}, "take 18 or newer")],
)
def test_wrong_settings(tmp_path, settings, text):
    with pytest.raises(ConfigError, match=text):
        tp.to_onnx(_small(), tmp_path / "step.onnx", **settings)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(OutputError, match="folder"):
        tp.to_onnx(_small(), tmp_path)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r'pip install "transpike\[onnx\]"'):
        tp.to_onnx(_small(), tmp_path / "step.onnx")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match="pip install onnxruntime"):
        tp.to_onnx(_small(), tmp_path / "step.onnx", check=True)


def test_what_torch_cannot_write_is_said_in_its_words(tmp_path, monkeypatch):
    def export(*_, **__):
        raise RuntimeError("no decomposition for aten.odd\nand a long report")

    monkeypatch.setattr(torch.onnx, "export", export)
    with pytest.raises(ExportError, match=r"torch.onnx.export[\s\S]*no decomposition for aten.odd[\s\S]*tp.to_torch"):
        tp.to_onnx(_small(), tmp_path / "step.onnx")
    assert not list(tmp_path.iterdir())


def test_double_precision_is_written_and_half_is_not(tmp_path):
    snn, (x,) = _network("mlp")
    snn.double()
    assert tp.to_onnx(snn, tmp_path / "step.onnx").check.difference == 0
    rows = stream(tmp_path / "step.onnx", (x.double().numpy(),), 3)
    assert rows[-1]["answer"].dtype == np.float64
    assert torch.equal(torch.from_numpy(rows[-1]["answer"]), snn(x.double(), steps=3)[-1])
    snn.half()
    with pytest.raises(ExportError, match=r"torch.float16[\s\S]*snn.float\(\)"):
        tp.to_onnx(snn, tmp_path / "half.onnx")
