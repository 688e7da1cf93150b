"""Torch's attention and transformer layers, opened in capture, against the modules themselves."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from transpike.graph.capture import CaptureLayer, captured, trace

LENGTH, WIDTH = 5, 8


class Attends(nn.Module):
    """Attention over ``[N, L, E]``, in the layout of the module."""

    def __init__(self, call, **settings):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, **settings)
        self.call = call
        mask = torch.zeros(LENGTH, LENGTH).masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf)
        self.register_buffer("mask", mask)
        self.register_buffer("seen", torch.tensor([False, False, True, False, True]))

    def forward(self, x):
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        answer, weights = self.call(self, x)
        answer = answer if self.attention.batch_first else answer.transpose(0, 1)
        return answer if weights is None else (answer, weights)


def unlike(module, x):
    other = x[..., :5].flip(-1) if module.attention.kdim == 5 else x * 0.5
    return module.attention(x, other, other + 1)


def padded(module, x, **more):
    samples = x.shape[0 if module.attention.batch_first else 1]
    return module.attention(x, x, x, key_padding_mask=module.seen.expand(samples, LENGTH), **more)


CALLS = {
    "weights": (lambda m, x: m.attention(x, x, x), {}),
    "no weights": (lambda m, x: m.attention(x, x, x, need_weights=False), {}),
    "weights of every head": (lambda m, x: m.attention(x, x, x, average_attn_weights=False), {}),
    "float mask": (lambda m, x: m.attention(x, x, x, attn_mask=m.mask), {}),
    "boolean mask": (lambda m, x: m.attention(x, x, x, attn_mask=m.mask < 0, need_weights=False), {}),
    "causal": (lambda m, x: m.attention(x, x, x, attn_mask=m.mask, is_causal=True, need_weights=False), {}),
    "padding": (padded, {}),
    "padding and mask": (lambda m, x: padded(m, x, attn_mask=m.mask < 0, need_weights=False), {}),
    "cross": (unlike, {}),
    "widths of their own": (unlike, {"kdim": 5, "vdim": 5}),
    "no bias": (lambda m, x: m.attention(x, x, x), {"bias": False}),
    "extra keys": (lambda m, x: m.attention(x, x, x, attn_mask=m.mask), {"add_bias_kv": True, "add_zero_attn": True}),
    "the function": (
        lambda m, x: F.multi_head_attention_forward(
            *(x, x, x, WIDTH, 2, m.attention.in_proj_weight, m.attention.in_proj_bias, None, None, False, 0.0),
            *(m.attention.out_proj.weight, m.attention.out_proj.bias, False),
        ),
        {},
    ),
}


def graph_of(model, *shapes, leaf_modules=()):
    torch.manual_seed(1)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    examples = [torch.randn(2, *shape, dtype=torch.float64) for shape in shapes]
    return trace(model, leaf_modules, examples=examples, bake=True).eval(), model


def assert_equal(gm, model, *shapes):
    for samples in (1, 3, 4):
        inputs = [torch.randn(samples, *shape, dtype=torch.float64) for shape in shapes]
        with torch.no_grad():
            wanted, found = model(*inputs), gm(*inputs)
        wanted, found = ((one,) if isinstance(one, torch.Tensor) else one for one in (wanted, found))
        for one, other in zip(wanted, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_attention_is_linear_layers_and_a_softmax(name, batch_first):
    if name == "the function" and batch_first:
        pytest.skip("the function has the length first")
    call, settings = CALLS[name]
    gm, model = graph_of(Attends(call, batch_first=batch_first, **settings), (LENGTH, WIDTH))
    assert captured(gm).layer is CaptureLayer.VALUES
    assert not [node for node in gm.graph.nodes if node.op == "call_module"]
    read = {node.target for node in gm.graph.nodes if node.op == "get_attr"}
    assert {"attention.out_proj.weight"} < read
    assert_equal(gm, model, (LENGTH, WIDTH))
    assert {"attention.in_proj_weight", "attention.q_proj_weight"} & read
    assert set(model.state_dict()) <= set(gm.state_dict())
    softmax = [node for node in gm.graph.nodes if "softmax" in node.name or "scaled_dot" in node.name]
    assert len(softmax) == 1
    linear = [node for node in gm.graph.nodes if node.target is F.linear]
    assert len(linear) == (4 if name in ("cross", "widths of their own") else 2)


def test_attention_may_stay_a_leaf():
    gm, model = graph_of(
        Attends(CALLS["weights"][0], batch_first=True), (LENGTH, WIDTH), leaf_modules=nn.MultiheadAttention
    )
    assert captured(gm).layer is CaptureLayer.SYMBOLIC
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == ["attention"]
    assert_equal(gm, model, (LENGTH, WIDTH))


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_layers_are_opened(batch_first, norm_first):
    class Encodes(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, 2, 12, batch_first=batch_first, norm_first=norm_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            x = self.encoder(x)
            return x if batch_first else x.transpose(0, 1)

    gm, model = graph_of(Encodes(), (LENGTH, WIDTH))
    called = [str(node.target) for node in gm.graph.nodes if node.op == "call_module"]
    assert called.count("encoder.layers.1.linear1") == 1
    assert not [name for name in called if name.endswith("self_attn")]
    assert_equal(gm, model, (LENGTH, WIDTH))


def test_a_decoder_with_a_memory():
    class Decodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerDecoderLayer(WIDTH, 2, 12, batch_first=True, activation="gelu")

        def forward(self, x, memory):
            return self.layer(x, memory)

    gm, model = graph_of(Decodes(), (LENGTH, WIDTH), (3, WIDTH))
    assert_equal(gm, model, (LENGTH, WIDTH), (3, WIDTH))
