"""Capture with values: what plain tracing cannot follow, checked against the model for several batch sizes."""

import dataclasses
import functools
import math
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import InputError, TraceError
from transpike.graph.capture import CaptureLayer, captured, source_of, trace
from transpike.graph.second_batch import answer_of

IMAGE = (3, 8, 8)


def tensors(answer):
    return [leaf for leaf in pytree.tree_leaves(answer_of(answer)) if isinstance(leaf, Tensor)]


def assert_computes(gm, model, *shapes):
    """The graph computes what the model does, for batches of several sizes."""
    for samples in (1, 2, 3, 5):
        generator = torch.Generator().manual_seed(samples)
        inputs = [torch.randn(samples, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
        with torch.no_grad():
            wanted, found = tensors(model(*inputs)), tensors(gm(*inputs))
        assert len(wanted) == len(found) > 0
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def traced(model, *shapes, layer=CaptureLayer.VALUES):
    """The graph of a model in float64; plain tracing does not get it."""
    torch.manual_seed(0)
    model = model.double().eval()
    examples = [torch.randn(2, *shape, dtype=torch.float64) for shape in shapes]
    if layer is CaptureLayer.VALUES:
        gm = trace(model, (), len(examples), examples=examples).eval()
    else:
        gm = trace(model, (), len(examples), examples=examples, layer=layer).eval()
    assert captured(gm).layer is layer
    assert_computes(gm, model, *shapes)
    return gm


class Windows(nn.Module):
    """Windows of an image, as many samples as there are; padded where the image is no multiple of them."""

    def __init__(self, window=4):
        super().__init__()
        self.window, self.linear = window, nn.Linear(3, 3)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        if h % self.window:
            x = F.pad(x, (0, 0, 0, 0, 0, self.window - h % self.window))
            h = x.shape[1]
        s = self.window
        rows = x.view(b, h // s, s, w // s, s, c).transpose(2, 3).reshape(-1, s, s, c)
        rows = self.linear(rows)
        count = int(rows.shape[0] / (h * w / s / s))
        return rows.reshape(count, h // s, w // s, s, s, c).mean((3, 4)).flatten(1)


@pytest.mark.parametrize("size", [8, 6])
def test_windows_keep_the_batch(size):
    gm = traced(Windows(), (3, size, 8))
    taken = {guard.dimension: guard.size for guard in captured(gm).guards}
    assert taken == {1: 3, 2: size, 3: 8}
    assert any(node.target is torch.Tensor.reshape or node.target == "reshape" for node in gm.graph.nodes)


class Decorated(nn.Module):
    """A forward as in transformers: decorated, with keywords, an answer that is a record, and layers in a loop."""

    @dataclasses.dataclass
    class Answer:
        logits: Tensor
        loss: Tensor | None = None
        states: tuple[Tensor, ...] | None = None

    def _checked(function):
        @functools.wraps(function)
        def call(self, *args, **kwargs):
            kwargs.setdefault("return_dict", True)
            answer = function(self, *args, **kwargs)
            return answer if kwargs["return_dict"] else (answer.logits,)

        return call

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.register_buffer("places", torch.arange(4.0))

    @_checked
    def forward(self, x: Tensor, mask: Tensor | None = None, states: bool = True, **kwargs) -> Answer:
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
            raise ValueError("a tensor is expected")
        found = []
        for index in range(len(self.layers)):
            x = torch.relu(self.layers[index](x)) + self.places.to(x.device, x.dtype)
            found.append(x)
        if mask is not None:
            x = x * mask
        return self.Answer(x, states=tuple(found) if states else None)


def test_a_decorated_forward_that_returns_a_record():
    gm = traced(Decorated(), (4,))
    answer = gm(torch.zeros(2, 4, dtype=torch.float64))
    assert type(answer) is dict
    assert list(answer) == ["logits", "states"]
    assert len(answer["states"]) == 3
    assert list(gm.state_dict()) == list(Decorated().state_dict())
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == [f"layers.{i}" for i in range(3)]
    relu = next(node for node in gm.graph.nodes if "relu" in node.name)
    assert "x = torch.relu(self.layers[index](x))" in source_of(relu)


def test_the_answer_of_a_mapping_leaves_none_out():
    class Mapped(nn.Module):
        def forward(self, x):
            rows = list(x.unbind(1))
            return OrderedDict(first=rows[0] * len(rows), nothing=None, pair=(rows[1], None))

    model = Mapped().double()
    gm = trace(model, examples=[torch.randn(2, 3, 2, dtype=torch.float64)], layer=CaptureLayer.VALUES)
    assert_computes(gm, model, (3, 2))
    answer = gm(torch.randn(2, 3, 2, dtype=torch.float64))
    assert list(answer) == ["first", "pair"]


class Sizes(nn.Module):
    """Python's and numpy-like numbers made of sizes."""

    def forward(self, x):
        b, *rest = x.shape
        area = math.prod(rest)
        side = round(math.sqrt(area / len(rest)))
        assert b > 0
        torch._assert(x.size(1) == 3, "three channels")
        places = torch.arange(b, device=x.device)[:, None].to(x.dtype)
        flat = x.reshape(x.shape[0], area) / side
        halves = flat.new_zeros(b, 2 if x.shape[-1] % 7 else 3)
        return torch.cat([flat, places * 0, halves, torch.ones(b, 1, dtype=x.dtype)], 1) * (x.numel() / b)


def test_numbers_of_sizes():
    traced(Sizes(), IMAGE)


class InPlace(nn.Module):
    """Assignments to items, and changes in place of a piece and of what is made of a constant."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(6))

    def forward(self, x):
        bias = self.bias.clone()
        bias[2:4].zero_()
        y = x + bias
        y[:, 0] = 3
        y[..., -1] += y[:, 1]
        q, k, v = y.reshape(x.shape[0], 3, 2).permute(1, 0, 2)
        q *= 2.0
        mask = torch.zeros(4, 2, dtype=x.dtype)
        mask[1:3, 0] = 5
        out = torch.zeros(x.shape[0], 4, 2, dtype=x.dtype)
        out[:, 1:] = torch.stack([q, k, v], 1)
        out[:, 0] = out[:, 1].clone()
        return F.relu(out + mask, inplace=True)


def test_changes_in_place():
    traced(InPlace(), (6,))


def test_a_tensor_that_is_read_after_a_change_through_another_one_is_not_followed():
    class Aliased(nn.Module):
        def forward(self, x):
            y = x * 1
            flat = y.view(-1, 3)
            flat.mul_(2)
            return y if len(y.shape) == 3 else x

    model = Aliased().double()
    with pytest.raises(TraceError, match=r"read that was changed in place") as caught:
        trace(model, examples=[torch.randn(2, 2, 3, dtype=torch.float64)], layer=CaptureLayer.VALUES)
    assert "return y" in str(caught.value)


@pytest.mark.parametrize(
    ("decide", "said"),
    [
        (lambda x: x.mean() > 0, "depends on the data"),
        (lambda x: x.shape[0] > 4, "number of samples"),
        (lambda x: x.shape[0] % 2, "number of samples"),
        (lambda x: float(x.sum()) > 1, "depends on the data"),
        (lambda x: list(x), "one by one"),
    ],
    ids=["bool", "batch", "remainder", "float", "loop"],
)
def test_decisions_on_data_and_on_the_batch_size_are_refused(decide, said):
    class Decides(nn.Module):
        def forward(self, x):
            y = x.reshape(len(x.shape), -1) if x.dim() == 7 else x
            return y if decide(y) else -y

    with pytest.raises(TraceError, match=said) as caught:
        trace(Decides().eval(), examples=[torch.randn(2, 4)])
    assert "test_value_tracing.py" in caught.value.where


def test_a_loop_over_the_samples_does_not_become_a_graph_of_two():
    class Loops(nn.Module):
        def forward(self, x):
            return torch.stack([x[index] * 2 for index in range(x.shape[0])])

    with pytest.raises(TraceError):
        trace(Loops().eval(), examples=[torch.randn(2, 4)])


def test_a_function_that_plain_tracing_stops_at_is_opened():
    gm = traced(Wrapped(), (4,))
    assert not [node for node in gm.graph.nodes if node.target is scaled]


def scaled(x, factor):
    return x * factor if x.shape[-1] == 4 else x


torch.fx.wrap("scaled")


class Wrapped(nn.Module):
    def forward(self, x):
        return torch.relu(scaled(x, 3.0))


def test_what_plain_tracing_follows_stays_as_it_is():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x, scale=2.0):
            x = self.b(self.a(x)).relu()
            return x.view(x.size(0), -1) * scale

    model = Plain().eval()
    plain, given = trace(model, inputs=1), trace(model, inputs=1, examples=[torch.randn(2, 4)])
    assert captured(given).layer is CaptureLayer.SYMBOLIC
    assert plain.code == given.code
    values = trace(model, examples=[torch.randn(2, 4)], layer=CaptureLayer.VALUES)
    names = [node.name for node in plain.graph.nodes if node.op == "call_module"]
    assert [node.name for node in values.graph.nodes if node.op == "call_module"] == names
    stacks = [
        [list(node.meta.get("nn_module_stack", {})) for node in gm.graph.nodes if node.op == "call_module"]
        for gm in (plain, values)
    ]
    assert stacks[0] == stacks[1]
    assert not captured(values).guards


class Gated(nn.Module):
    """Converts, and needs values."""

    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1))
        return self.out(F.relu(self.conv(x)).mean((2, 3)))


def test_guards_are_shown_and_checked_and_saved(tmp_path):
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.rand(4, *IMAGE)
    found = tp.inspect(model, x)
    assert found.layer is CaptureLayer.VALUES
    assert found.guards == ((0, 3, 8),)
    assert "captured by tracing with values" in str(found)
    assert "input 0 dimension 3: 8" in str(found)
    snn = tp.convert(model, example_inputs=x, calibration=x)
    tp.save(snn, tmp_path / "net.safetensors")
    again = tp.load(tmp_path / "net.safetensors", model=Gated)
    assert again.capture == snn.capture
    for network in (snn, again):
        assert torch.equal(network(x, steps=4), snn(x, steps=4))
        with pytest.raises(InputError, match=r"size 9 in dimension 3, the network was captured with 8"):
            network(torch.rand(2, 3, 8, 9), steps=2)


def test_a_tailored_network_is_rebuilt_by_the_same_layer(tmp_path):
    torch.manual_seed(0)
    model, x = Gated(), torch.rand(4, *IMAGE)
    ann = tp.tailor(model, tp.activations.QCFS(4), example_inputs=x)
    assert captured(ann).layer is CaptureLayer.VALUES
    tp.save(ann, tmp_path / "ann.safetensors")
    again = tp.load_ann(tmp_path / "ann.safetensors", model=Gated)
    assert torch.equal(again(x), ann.eval()(x))
    assert tp.convert(again, example_inputs=x).capture.guards == ((0, 3, 8),)


def test_tracing_in_training_mode_changes_no_statistics():
    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return F.dropout(self.norm(x), 0.5, self.training) if x.shape[1] == 4 else x

    model = Trained().train()
    state = torch.get_rng_state()
    gm = trace(model, examples=[torch.randn(2, 4)], layer=CaptureLayer.VALUES)
    for key, value in model.state_dict().items():
        assert torch.equal(gm.state_dict()[key], value)
    assert gm.norm.training
    torch.randn(2, 4)
    assert not torch.equal(torch.get_rng_state(), state)  # only the example above was drawn
