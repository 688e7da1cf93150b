"""Networks from ONNX files, with onnxruntime's answers as oracle."""

import importlib.util
import io
import math
import pickle
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.errors import ConversionError, MissingExtraError, ModelError, TraceError, TranspikeError
from transpike.graph.capture import CaptureLayer, trace

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2torch")
onnxruntime = pytest.importorskip("onnxruntime")


class Gated(nn.Module):
    """What mobile networks are made of: hard functions, a gate per channel, sizes read from shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.squeeze, self.excite, self.head = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(128, 5)
        self.token = nn.Parameter(torch.randn(1, 1, 128))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.norm(self.conv(x)))
        gate = nn.functional.hardsigmoid(self.excite(self.squeeze(x.mean((2, 3))).relu()))
        x = nn.functional.max_pool2d(x * gate.view(x.size(0), 8, 1, 1), 2)
        x = nn.functional.interpolate(nn.functional.pad(x, (1, 1, 1, 1)), scale_factor=2.0)[:, :, 2:-2:2, 2:-2:2]
        x = torch.cat([self.token.expand(x.size(0), -1, -1), x.reshape(x.size(0), 1, -1)], 1)
        return self.head(x.mean(1))


def _trained_norm(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def plain_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 5))
    )


def export(model: nn.Module, path: Path, *, dynamic: bool, samples: int = 1, opset: int = 17) -> Path:
    axes = {"dynamic_axes": {"image": {0: "batch"}}} if dynamic else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _trained_norm(model), (torch.randn(samples, 3, 8, 8),), str(path), input_names=["image"], dynamo=False,
            opset_version=opset, **axes,
        )  # fmt: skip
    return path


def by_onnxruntime(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(answer)


@pytest.mark.parametrize("samples", [1, 2, 3, 5])
@pytest.mark.parametrize("make", [plain_network, Gated])
def test_a_dynamic_file_answers_like_onnxruntime_for_any_batch(tmp_path, make, samples):
    path = export(make(), tmp_path / "net.onnx", dynamic=True)
    x = torch.randn(samples, 3, 8, 8)
    torch.testing.assert_close(tp.load_onnx(path)(x), by_onnxruntime(path, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
def test_several_opsets(tmp_path, opset):
    path = export(plain_network(), tmp_path / "net.onnx", dynamic=True, opset=opset)
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(tp.load_onnx(path)(x), by_onnxruntime(path, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [plain_network, Gated])
def test_many_digits_near_the_answer_of_onnxruntime(tmp_path, make):
    path = export(make(), tmp_path / "net.onnx", dynamic=True)
    x = torch.randn(4, 3, 8, 8)
    right = by_onnxruntime(path, x)
    errors = []
    for digits in (4, 8, 16):
        how = tp.Conversion(
            tp.rules.Maximum(tp.PerChannel()), schedule=tp.schedules.SignedDigits(digits, default_lag=4)
        )
        snn = tp.convert(tp.load_onnx(path), how, calibration=[x], example_inputs=x)
        errors.append(float((snn(x, steps=digits)[-1] - right).norm() / right.norm()))
    assert errors[1] < 0.05
    assert errors[2] < 1e-3 < errors[0]


def test_a_file_without_batch_sizes_inside_takes_any_batch(tmp_path):
    path = export(plain_network(), tmp_path / "net.onnx", dynamic=False)
    x = torch.randn(4, 3, 8, 8)
    one_by_one = torch.cat([by_onnxruntime(path, sample) for sample in x.split(1)])
    torch.testing.assert_close(tp.load_onnx(path)(x), one_by_one, rtol=1e-5, atol=1e-6)
    assert tp.inspect(tp.load_onnx(path), x).convertible


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_batch_size_inside_the_file_is_refused_at_its_node(tmp_path, samples):
    path = export(Gated(), tmp_path / "net.onnx", dynamic=False, samples=samples)
    network = tp.load_onnx(path)
    x = torch.randn(samples, 3, 8, 8)
    torch.testing.assert_close(network(x), by_onnxruntime(path, x), rtol=1e-5, atol=1e-6)
    with pytest.raises(TraceError, match=rf"node '/Reshape' \(Reshape\).*\[{samples}, 8, 1, 1\].*\n.*net\.onnx"):
        network(torch.randn(3, 3, 8, 8))
    with pytest.raises(TraceError, match=r"node '/Reshape' .*any number of samples"):
        tp.inspect(network, x)


def _file(path: Path, nodes: list, stored: list, shape: list, opset: int = 13) -> Path:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", TensorProto.FLOAT, shape)], [value("y", TensorProto.FLOAT, None)], stored
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def test_constant_nodes_are_settings_of_operators(tmp_path):
    from onnx import TensorProto, helper

    def constant(name, kind, sizes, values):
        return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, sizes, values))

    nodes = [
        constant("low", TensorProto.FLOAT, [], [0.0]),
        constant("high", TensorProto.FLOAT, [], [2.0]),
        constant("three", TensorProto.FLOAT, [1], [3.0]),
        helper.make_node("Constant", [], ["shape"], value_ints=[0, -1]),
        helper.make_node("Mul", ["x", "three"], ["a"], name="code"),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], name="forward"),
        helper.make_node("Reshape", ["b", "shape"], ["y"], name="3/x.y@0"),
    ]
    network = tp.load_onnx(_file(tmp_path / "net.onnx", nodes, [], ["n", 2, 2]))
    x = torch.tensor([[[1.0, -1], [0.5, 0.25]], [[0, 0.1], [5, 0.2]]])
    torch.testing.assert_close(network(x), torch.tensor([[2, 0, 1.5, 0.75], [0, 0.3, 2, 0.6]]))


def test_integer_arithmetic_on_shapes(tmp_path):
    """ONNX divides towards zero: (1 - 4) / 2 is -1, which a shape says for what is left."""
    from onnx import TensorProto, helper, numpy_helper

    stored = {"i": [1], "one": [1], "two": [2], "minus": [-4], "zero": [0]}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Gather", ["s", "i"], ["c"]),
        helper.make_node("Div", ["c", "two"], ["half"]),
        helper.make_node("Add", ["one", "minus"], ["sum"]),
        helper.make_node("Div", ["sum", "two"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Concat", ["n", "half", "whole"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(torch.tensor(value).numpy(), name) for name, value in stored.items()]
    path = _file(tmp_path / "net.onnx", nodes, tensors, ["n", 6, 4])
    x = torch.randn(3, 6, 4)
    assert tp.load_onnx(path)(x).shape == by_onnxruntime(path, x).shape == (3, 3, 8)


def test_a_number_of_samples_in_a_calculation_that_is_not_followed_is_refused(tmp_path):
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["total"], keepdims=1, name="total"),
        helper.make_node("Tile", ["a", "one"], ["t"]),
        helper.make_node("Sub", ["total", "rest"], ["left"]),
        helper.make_node("Concat", ["left", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["t", "shape"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(torch.tensor(v).numpy(), k) for k, v in {"one": [1, 1], "rest": [4]}.items()]
    network = tp.load_onnx(_file(tmp_path / "net.onnx", nodes, tensors, ["n", 4]))
    assert network(torch.randn(3, 4)).shape == (3, 4)
    with pytest.raises(TraceError, match=r"node 'total' \(ReduceSum\).*not followed"):
        tp.inspect(network, torch.randn(3, 4))


def test_operators_stand_at_lines_of_the_file(tmp_path):
    """A site is shown by the node's own name in the file."""
    from onnx import helper

    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="body/first"),
        helper.make_node("Relu", ["a"], ["y"], name="body/last"),
    ]
    network = tp.load_onnx(_file(tmp_path / "net.onnx", nodes, [], ["n", 4]))
    (site,) = tp.inspect(network, torch.randn(2, 4)).plan.sites
    assert site.name == "body_last"
    assert site.source.endswith("net.onnx:3: body_last_out = self.body_last(body_first_out)  # 'body/last': Relu")


@pytest.mark.parametrize("kind", ["BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool"])
def test_operators_on_values_of_unknown_rank(tmp_path, kind):
    """Behind a reshape by a shape that the file calculates, ONNX infers no number of dimensions."""
    from onnx import TensorProto, helper, numpy_helper

    settings = {"MaxPool": {"kernel_shape": [2, 2]}, "AveragePool": {"kernel_shape": [2, 2]}}.get(kind, {})
    norm = {"w": torch.rand(3) + 1, "b": torch.randn(3), "m": torch.randn(3), "v": torch.rand(3) + 1}
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["f", "order"], ["g"]),
        helper.make_node("Cast", ["g"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "shape"], ["z"]),
        helper.make_node(kind, ["z", *(norm if kind.startswith("Batch") else ())], ["y"], **settings),
    ]
    stored = {"order": torch.tensor([0, 1, 3, 2]), **norm}
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in stored.items()]
    path = _file(tmp_path / "net.onnx", nodes, tensors, ["n", 3, "h", "w"])
    x = torch.randn(2, 3, 6, 4)
    right = by_onnxruntime(path, x)
    torch.testing.assert_close(tp.load_onnx(path)(x), right, rtol=1e-5, atol=1e-6)
    graph = trace(tp.load_onnx(path), examples=[x], layer=CaptureLayer.VALUES)
    more = torch.randn(4, 3, 6, 4)
    torch.testing.assert_close(graph(more), by_onnxruntime(path, more), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "factor"), [(6, 0.5), (7, 1.5), (5, 1.3)])
def test_sizes_that_a_file_calculates_with_fractions(tmp_path, height, factor):
    """As exporters write an interpolation to a share of the size: the cast cuts off, floor does too."""
    from onnx import TensorProto, helper, numpy_helper

    stored = {"none": torch.zeros(0), "two": torch.tensor(2), "factor": torch.tensor(factor)}
    stored |= {"first": torch.tensor([0]), "last": torch.tensor([2]), "axis": torch.tensor([0])}
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Cast", ["h"], ["hf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["hf", "factor"], ["scaled"]),
        helper.make_node("Floor", ["scaled"], ["down"]),
        helper.make_node("Cast", ["down"], ["size"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["size", "axis"], ["sizes"]),
        helper.make_node("Slice", ["s", "first", "last", "axis"], ["front"]),
        helper.make_node("Concat", ["front", "sizes", "sizes"], ["all"], axis=0),
        helper.make_node("Resize", ["a", "none", "none", "all"], ["y"], mode="linear"),
    ]
    tensors = [numpy_helper.from_array(value.numpy(), name) for name, value in stored.items()]
    path = _file(tmp_path / "net.onnx", nodes, tensors, ["n", 3, "h", "w"])
    x = torch.randn(2, 3, height, 9)
    right = by_onnxruntime(path, x)
    assert right.shape[2] == math.floor(height * factor)
    graph = trace(tp.load_onnx(path), examples=[x], layer=CaptureLayer.VALUES)
    torch.testing.assert_close(graph(x), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ch_PP-OCRv4_det_infer", (2, 3, 64, 64)),
        ("ch_ppocr_mobile_v2.0_cls_infer", (2, 3, 48, 64)),
        ("ch_PP-OCRv4_rec_infer", (2, 3, 48, 64)),
    ],
)
def test_trained_networks_that_read_text(name, shape):
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    if found is None:
        pytest.skip("needs rapidocr-onnxruntime")
    path = Path(str(found.origin)).parent / "models" / f"{name}.onnx"
    network = tp.load_onnx(path)
    x = torch.randn(shape)
    torch.testing.assert_close(network(x), by_onnxruntime(path, x), rtol=1e-4, atol=1e-5)
    assert tp.inspect(network, x).convertible


def test_unknown_operators_are_listed_before_the_import(tmp_path):
    from onnx import helper

    nodes = [
        helper.make_node("Sin", ["x"], ["a"], name="wave"),
        helper.make_node("Hardmax", ["a"], ["y"], name="winner"),
        helper.make_node("Hardmax", ["a"], ["z"], name="again"),
    ]
    with pytest.raises(ConversionError, match="2 x Hardmax") as caught:
        tp.load_onnx(_file(tmp_path / "net.onnx", nodes, [], ["n", 4]))
    assert {found.node for found in caught.value.unsupported} == {"winner", "again"}


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x07"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"no ONNX model[\s\S]*net\.onnx"):
        tp.load_onnx(path)
    with pytest.raises(ModelError, match="no such file"):
        tp.load_onnx(tmp_path / "other.onnx")


def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    with pytest.raises(MissingExtraError, match=r"onnx2torch[\s\S]*transpike\[onnx\]"):
        tp.load_onnx(tmp_path / "net.onnx")


def test_the_network_can_be_pickled(tmp_path):
    network = tp.load_onnx(export(Gated(), tmp_path / "net.onnx", dynamic=True))
    again = pickle.load(io.BytesIO(pickle.dumps(network)))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=0)


def test_a_converted_network_is_loaded_with_the_file(tmp_path):
    path = export(Gated(), tmp_path / "net.onnx", dynamic=True)
    x = torch.randn(2, 3, 8, 8)
    snn = tp.convert(tp.load_onnx(path), tp.methods["digits"](steps=5), calibration=[x], example_inputs=x)
    tp.save(snn, tmp_path / "snn.safetensors")
    with pytest.raises(TranspikeError, match="model"):
        tp.load(tmp_path / "snn.safetensors")
    again = tp.load(tmp_path / "snn.safetensors", model=tp.load_onnx(path))
    torch.testing.assert_close(again(x, steps=5), snn(x, steps=5), rtol=0, atol=0)
