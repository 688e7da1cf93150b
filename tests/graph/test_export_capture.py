"""Capture by torch.export: the program is replayed as functions, methods and layers, and computes the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ModelError, TraceError
from transpike.graph.capture import CaptureLayer, captured, source_of, trace
from transpike.graph.operators import DROPOUT_FUNCTIONS, MAX_POOL_FUNCTIONS

IMAGE = (3, 8, 8)


def by_export(model, *shapes, layer=CaptureLayer.EXPORT):
    """The graph, checked against the model for several batch sizes."""
    torch.manual_seed(0)
    model = model.double().eval()
    gm = trace(model, examples=[torch.rand(2, *shape, dtype=torch.float64) for shape in shapes], layer=layer).eval()
    assert captured(gm).layer is CaptureLayer.EXPORT
    for samples in (1, 2, 3, 7):
        inputs = [torch.rand(samples, *shape, dtype=torch.float64) for shape in shapes]
        with torch.no_grad():
            wanted, found = pytree.tree_leaves(model(*inputs)), pytree.tree_leaves(gm(*inputs))
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)
    assert not [node.target for node in gm.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    return gm


class Layers(nn.Module):
    """Layers that come back as layers, and functions between them."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 6)
        self.register_buffer("scale", torch.tensor([2.0]))
        self.net[1].running_mean.uniform_()

    def forward(self, x):
        y = self.net(x)
        b = y.shape[0]
        y = F.dropout(F.max_pool2d(y, 2), 0.3, self.training) + F.adaptive_max_pool2d(y, 4)
        y = F.interpolate(y, scale_factor=2, mode="bilinear") - F.interpolate(y, size=(8, 8))
        rows = y.flatten(2).transpose(1, 2).reshape(b * 4, 16, 4)
        rows = self.head(self.norm(rows)).view(b, 64, -1).mean(1)
        rows[:, 0] = 1
        rows += self.scale
        first, second = rows.chunk(2, 1)
        return {"first": F.gelu(first), "second": (second.softmax(-1), rows[:, 2:4])}


def test_layers_names_and_source_lines_survive():
    gm = by_export(Layers(), IMAGE)
    called = [node.target for node in gm.graph.nodes if node.op == "call_module"]
    assert called == ["net.0", "net.1", "norm", "head"]
    assert set(Layers().state_dict()) <= set(gm.state_dict())
    targets = [node.target for node in gm.graph.nodes if node.op == "call_function"]
    assert [target in MAX_POOL_FUNCTIONS for target in targets].count(True) == 2
    assert any(target in DROPOUT_FUNCTIONS for target in targets)
    gelu = next(node for node in gm.graph.nodes if node.target is F.gelu)
    assert 'return {"first": F.gelu(first)' in source_of(gelu)


class Functions(nn.Module):
    """Operators with other names or other arguments in ATen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))
        self.transposed = nn.Parameter(torch.randn(4, 2, 2, 2))
        for name, value in {"mean": torch.rand(4), "var": torch.rand(4) + 0.5}.items():
            self.register_buffer(name, value)
        self.table = nn.Embedding(5, 4)
        self.register_buffer("index", torch.tensor([1, 3, 0]))

    def forward(self, x):
        y = F.conv2d(x, self.weight, padding=1, stride=2)
        y = F.batch_norm(y, self.mean, self.var)
        y = F.conv_transpose2d(F.group_norm(F.silu(y), 2), self.transposed, stride=2)
        y = F.instance_norm(F.leaky_relu(y, 0.2)) + F.pad(x, (1, 1))[:, :2, :, 1:-1]
        rows = y.flatten(1)[:, self.index] @ self.table(self.index)
        rows = F.scaled_dot_product_attention(rows[:, None], rows[:, None], rows[:, None])[:, 0]
        rows = torch.where(rows > 0, rows, F.hardtanh(rows)).clamp(min=-2).masked_fill(rows.abs() > 9, 0.0)
        return F.avg_pool2d(y, 2).sum((1, 2, 3)), torch.cat([rows, rows.new_zeros(x.shape[0], 2)], 1)


def test_functions_come_back_as_functions():
    gm = by_export(Functions(), IMAGE)
    targets = {node.target for node in gm.graph.nodes}
    for function in (F.conv2d, F.batch_norm, F.conv_transpose2d, F.group_norm, F.silu, F.scaled_dot_product_attention):
        assert function in targets, function
    assert "weight" in targets


class Untraceable(nn.Module):
    """What the tracers do not follow: a piece of a view is changed in place, and what it is a view of is read."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        y = self.conv(x).contiguous()
        if y.shape[-1] > 4:
            y.unfold(3, 8, 8).mul_(0.5)
        return self.out(torch.relu(y).mean((2, 3)))


def test_a_program_that_no_layer_follows_is_refused_with_the_first_reason():
    with pytest.raises(TraceError, match="changed in place"):
        trace(Untraceable().eval(), examples=[torch.rand(2, *IMAGE)])


class Strides(nn.Module):
    """Reads a stride that depends on the batch size, which is not followed with values."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        stripes = y.stride()
        assert stripes[1] == y.shape[2] * y.shape[3]
        moved = y.permute(1, 0, 2, 3).contiguous()
        if moved.stride(0) < 0:
            y = -y
        return self.out(y.mean((2, 3)))


def test_export_is_the_last_resort():
    gm = by_export(Strides(), IMAGE, layer=None)
    assert [(guard.dimension, guard.size) for guard in captured(gm).guards] == [(1, 3), (2, 8), (3, 8)]


def test_a_network_captured_by_export_converts_and_loads(tmp_path):
    torch.manual_seed(0)
    model, x = Strides().eval(), torch.rand(4, *IMAGE)
    assert "captured by torch.export" in str(tp.inspect(model, x))
    snn = tp.convert(model, example_inputs=x, calibration=x)
    tp.save(snn, tmp_path / "net.safetensors")
    again = tp.load(tmp_path / "net.safetensors", model=Strides)
    assert again.capture.layer is CaptureLayer.EXPORT
    assert torch.equal(again(x, steps=4), snn(x, steps=4))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("as_module", [False, True])
def test_an_exported_program_converts(as_module):
    torch.manual_seed(0)
    model, x = Plain().eval(), torch.rand(4, *IMAGE)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("samples")},))
    given = program.module() if as_module else program
    snn = tp.convert(given, example_inputs=x, calibration=x)
    wanted = tp.convert(model, example_inputs=x, calibration=x)
    torch.testing.assert_close(snn(x, steps=8), wanted(x, steps=8), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(snn.network(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_program_for_a_fixed_number_of_samples_is_refused():
    x = torch.rand(4, *IMAGE)
    with pytest.raises(ModelError, match="fixed number of samples") as caught:
        tp.convert(torch.export.export(Plain().eval(), (x,)), example_inputs=x)
    assert "dynamic_shapes" in caught.value.fix
