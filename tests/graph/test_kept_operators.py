"""Operators that are not linear in time stay in front of the first neurons and behind the last ones.

Oracle: the answer at step t is the tail, applied by hand to the running mean of the network without it, which is
converted on its own.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ConversionError

STEPS = 5


class Body(nn.Module):
    """A small network whose answers are ``[N, 8]``."""

    def __init__(self):
        super().__init__()
        self.hidden, self.answer = nn.Linear(6, 12), nn.Linear(12, 8)

    def forward(self, x):
        return self.answer(torch.relu(self.hidden(x)))


class Boxes(nn.Module):
    """A detector's head: boxes, scores and classes out of one map."""

    def forward(self, y):
        centre, size, score = y[:, :2], y[:, 2:4], y[:, 4:5]
        low = torch.sigmoid(centre) * 2 - 0.5 - torch.exp(size.clamp(max=4.0)) / 2
        high = low + torch.exp(size.clamp(max=4.0))
        return torch.cat([low, high], 1).clamp(0, 1), torch.sigmoid(score), torch.softmax(y[:, 5:], 1)


class Recurrent(nn.Module):
    """A recurrent layer over the answers as a sequence of four pairs."""

    def __init__(self, kind):
        super().__init__()
        self.layer = kind(2, 3, batch_first=True)

    def forward(self, y):
        out, _ = self.layer(y.reshape(-1, 4, 2))
        return out[:, -1]


class LastState(Recurrent):
    """What the layer remembers, whose batch is the second dimension."""

    def forward(self, y):
        _, state = self.layer(y.reshape(-1, 4, 2))
        return state[-1]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)

    def forward(self, y):
        rows = y.reshape(-1, 4, 2)
        return self.attention(rows, rows, rows)[0].flatten(1)


class Prototypes(nn.Module):
    """Distances to learned points."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(5, 8))

    def forward(self, y):
        return -torch.cdist(y, self.points)


class Layers(nn.Module):
    """A head of its own behind an activation that neurons cannot stand for."""

    def __init__(self, activation):
        super().__init__()
        self.activation, self.last = activation, nn.Linear(8, 3)

    def forward(self, y):
        return self.last(self.activation(y))


class Function(nn.Module):
    """A function as a module that is traced into."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, y):
        return self.function(y)


TAILS = {
    "softmax": lambda: nn.Softmax(1),
    "log_softmax": lambda: Function(lambda y: F.log_softmax(y, -1)),
    "sigmoid of several labels": lambda: Function(torch.sigmoid),
    "tanh": nn.Tanh,
    "embedding": lambda: Function(F.normalize),
    "embedding by hand": lambda: Function(lambda y: y / y.norm(dim=1, keepdim=True)),
    "magnitude": lambda: Function(lambda y: y.abs()),
    "square root of squares": lambda: Function(lambda y: (y**2).sum(1, keepdim=True).sqrt()),
    "exponent": lambda: Function(torch.exp),
    "boxes": Boxes,
    "clipped probability": lambda: Function(lambda y: torch.softmax(y, 1).clamp(1e-3, 1.0)),
    "clipped after a sigmoid": lambda: Function(lambda y: torch.sigmoid(y).clamp(0, 0.6)),
    "rectified deviation": lambda: Function(lambda y: F.relu(y.abs() - 0.1)),
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "state of a gru": lambda: LastState(nn.GRU),
    "attention": Attention,
    "prototypes": Prototypes,
    "gate": lambda: Function(lambda y: y[:, :4] * torch.sigmoid(y[:, 4:])),
    "product": lambda: Function(lambda y: y[:, :4] * y[:, 4:]),
    "outer product": lambda: Function(lambda y: torch.matmul(y.unsqueeze(2), y.unsqueeze(1)).flatten(1)),
    "layer norm": lambda: nn.LayerNorm(8),
    "gelu and a layer": lambda: Layers(nn.GELU()),
    "leaky and a layer": lambda: Layers(nn.LeakyReLU()),
    "places of the largest": lambda: Function(lambda y: y.argmax(1)),
    "counts": lambda: Function(lambda y: (4 * y).int().float()),
    "top two": lambda: Function(lambda y: y.topk(2, 1)[0]),
    "dict": lambda: Function(lambda y: {"logits": y, "scores": y.softmax(1)}),
}


LEFT = {"gelu and a layer": "GELU", "leaky and a layer": "LeakyReLU", "attention": "1.attention"}
"""What stays analogue between layers with weights because it is listed."""


def _pair(tail, seed=0):
    torch.manual_seed(seed)
    body, end = Body().double().eval(), TAILS[tail]().double().eval()
    x = torch.randn(7, 6, dtype=torch.float64)
    both = nn.Sequential(body, end).eval()
    convert = tp.Conversion(tp.rules.Maximum(tp.PerChannel()), tp.rules.HalfThreshold())
    whole = tp.convert(both, convert, example_inputs=x, calibration=x, leave=LEFT.get(tail, ()))
    return both, end, whole, tp.convert(body, convert, example_inputs=x, calibration=x), x


@pytest.mark.parametrize("tail", TAILS)
def test_the_tail_acts_on_the_running_mean(tail):
    both, end, whole, body, x = _pair(tail)
    rows, means = whole(x, steps=STEPS), body(x, steps=STEPS)
    assert [site.name for site in whole.plan.sites] == ["0.relu@0"]
    assert whole.plan.analogue
    for step in range(STEPS):
        expected = end(means[step])
        for row, leaf in zip(pytree.tree_leaves(rows), pytree.tree_leaves(expected), strict=True):
            torch.testing.assert_close(row[step], leaf, rtol=1e-9, atol=1e-9)
    for leaf, exact in zip(pytree.tree_leaves(whole.ann(x)), pytree.tree_leaves(both(x)), strict=True):
        torch.testing.assert_close(leaf, exact)


@pytest.mark.parametrize("tail", ["boxes", "lstm", "state of a gru", "gate", "clipped probability"])
def test_streams_chunks_and_parts_of_batches(tail):
    both, _, whole, _, x = _pair(tail)
    rows = pytree.tree_leaves(whole(x, steps=STEPS))
    state = None
    for step in range(STEPS):
        answer, state = whole.step(x, state)
        for leaf, row in zip(pytree.tree_leaves(answer), rows, strict=True):
            torch.testing.assert_close(leaf, row[step], rtol=1e-9, atol=1e-9)
    for row, part in zip(rows, pytree.tree_leaves(whole(x[2:4], steps=STEPS, chunk=2)), strict=True):
        torch.testing.assert_close(part, row[:, 2:4], rtol=1e-9, atol=1e-9)
    assert whole.verify(x, ann=both).difference < 1e-10


def test_what_stays_is_named():
    whole = _pair("boxes")[2]
    assert {"exp", "sigmoid", "softmax"} <= {name.rstrip("_0123456789") for name in whole.plan.analogue}
    assert "sigmoid" in whole.summary()
    model = nn.Sequential(
        nn.LSTM(6, 4, batch_first=True), Function(lambda found: found[0][:, -1]), nn.Linear(4, 4), nn.ReLU()
    )
    found = tp.inspect(model.eval(), torch.randn(2, 3, 6))
    assert found.plan.analogue == ("0",)
    assert "kept analogue: 0" in str(found)


class Front(nn.Module):
    """Something in front of the first neurons."""

    def __init__(self, front):
        super().__init__()
        self.front, self.hidden, self.answer = front, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.answer(torch.relu(self.hidden(self.front(x))))


class Memory(nn.Module):
    def __init__(self, kind, *, state=False):
        super().__init__()
        self.layer, self.state = kind(6, 6, batch_first=True), state

    def forward(self, x):
        out, state = self.layer(x.reshape(-1, 2, 6))
        return (state[0] if isinstance(self.layer, nn.GRU) else state[0][-1]) if self.state else out[:, -1]


FRONTS = {
    "normalised": lambda: Function(lambda x: F.normalize(x[:, :6])),
    "standardised": lambda: Function(lambda x: (x[:, :6] - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)),
    "logarithm": lambda: Function(lambda x: torch.log1p(x[:, :6].abs())),
    "whole numbers": lambda: Function(lambda x: (4 * x[:, :6]).int().double()),
    "mask": lambda: Function(lambda x: x[:, :6].masked_fill(x[:, 6:] > 0.5, 0.0)),
    "lstm": lambda: Memory(nn.LSTM),
    "gru": lambda: Memory(nn.GRU),
    "state of a gru": lambda: Memory(nn.GRU, state=True),
    "state of an lstm": lambda: Memory(nn.LSTM, state=True),
    "gelu": lambda: nn.Sequential(nn.Linear(12, 6), nn.GELU()),
    "layer norm": lambda: nn.Sequential(nn.Linear(12, 6), nn.LayerNorm(6)),
    "attention": lambda: Function(lambda x: F.scaled_dot_product_attention(*3 * [x.reshape(-1, 2, 6)])[:, 0]),
}


@pytest.mark.parametrize("front", FRONTS)
def test_the_front_gives_a_constant_drive(front):
    """The same spikes as the network behind it gets from what the front computes."""
    torch.manual_seed(0)
    x, model = torch.randn(7, 12, dtype=torch.float64), Front(FRONTS[front]()).double().eval()
    conversion = tp.Conversion(tp.rules.Maximum(tp.PerChannel()))
    snn = tp.convert(
        model,
        conversion,
        example_inputs=x,
        calibration=x,
        leave={"gelu": "GELU", "layer norm": "LayerNorm"}.get(front, ()),
    )
    behind = nn.Sequential(model.hidden, nn.ReLU(), model.answer).eval()
    features = model.front(x).detach()
    alone = tp.convert(behind, conversion, example_inputs=features, calibration=features)
    assert snn.plan.analogue
    assert all(site.constant_drive for site in snn.plan.sites)
    torch.testing.assert_close(snn(x, steps=STEPS), alone(features, steps=STEPS), rtol=1e-9, atol=1e-9)
    with pytest.raises(ConversionError, match=r"spikes arrive at it|rounds to|both factors|divides by"):
        snn(tp.FrameSequence(x.expand(STEPS, 7, 12)), steps=STEPS)


def test_layers_behind_an_operator_are_no_decoding():
    """A clamp without weights behind it decodes the answer; in front of a layer a softmax is sent as events."""
    tail = Function(lambda y: y.softmax(1).clamp(0, 0.5))
    x = torch.randn(3, 6)
    assert not tp.inspect(nn.Sequential(Body(), tail).eval(), x).plan.functions
    (site,) = tp.inspect(nn.Sequential(Body(), tail, nn.Linear(8, 2)).eval(), x).plan.functions
    assert (site.operator, site.kind.value) == ("Tensor.softmax", "group")


def test_samples_must_not_mix_behind_the_end():
    found = tp.inspect(nn.Sequential(Body(), Function(lambda y: torch.softmax(y, 0))).eval(), torch.randn(3, 6))
    assert "depends on the other samples" in found.unsupported[0].reason


@pytest.mark.parametrize("leave", [(), ("softmax", "gru")])
def test_files_with_and_without_names_of_what_is_kept(leave, tmp_path):
    """Files of before list operators in ``leave`` that now stay without it."""

    def build():
        gru, tail = nn.GRU(6, 6, batch_first=True), Function(lambda y: torch.softmax(y, 1))

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.gru, self.hidden, self.tail = gru, nn.Linear(6, 4), tail

            def forward(self, x):
                out, _ = self.gru(x)
                return self.tail(torch.relu(self.hidden(out[:, -1])))

        return Net().eval()

    x = torch.randn(3, 2, 6)
    snn = tp.convert(build(), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x, leave=leave)
    tp.save(snn, tmp_path / "kept.safetensors")
    again = tp.load(tmp_path / "kept.safetensors", model=build)
    assert again.plan.analogue == snn.plan.analogue == ("gru", "softmax")
    assert again.capture.leave == tuple(sorted(leave))
    assert torch.equal(again(x, steps=4), snn(x, steps=4))
