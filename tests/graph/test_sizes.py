"""Sizes and constants that hold the batch, or do not: each network has a twin with numbers in place of sizes."""

import operator
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

import transpike as tp
from transpike.errors import ConversionError
from transpike.graph.plan import Kind
from transpike.graph.sizes import SymbolicSizes, at_steps
from transpike.kernels import KernelPreference

PLAIN = tp.schedules.Plain()
C, H, W = 3, 6, 8
"""Channels of the image: as many as samples in the probing batch."""


class Sized(nn.Module):
    """A convolution with neurons, and an operator that reads sizes; ``literal`` has the numbers instead."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.literal = literal
        self.conv = nn.Conv2d(C, 3, 3, padding=1)
        self.second = nn.Conv2d(5, 3, 1)
        self.token = nn.Parameter(torch.randn(1, 3, 1))
        self.scale = nn.Parameter(torch.randn(3))
        self.down = nn.Parameter(torch.linspace(-1, 1, H))
        self.right = nn.Parameter(torch.linspace(-1, 1, W))
        self.head = nn.Linear(3, 4)

    def image(self, x):
        return torch.relu(self.conv(x))


class InputAndSpikes(Sized):
    """The number of pixels of a sample, from a size of the input and one of the spikes."""

    def forward(self, x):
        h = self.image(x)
        pixels = C * H * W if self.literal else x.numel() / h.shape[0]
        return self.head(h.sum((2, 3)) / pixels)


class RatioOfBatches(Sized):
    def forward(self, x):
        h = self.image(x)
        ratio = 1 if self.literal else h.size(0) / x.size(0)
        return self.head(h.mean((2, 3)) * ratio)


class ViewByTheInputsBatch(Sized):
    def forward(self, x):
        h = self.image(x)
        h = h.flatten(2) if self.literal else h.view(x.size(0), 3, x.numel() // (C * x.shape[0]))
        return self.head(h.mean(-1))


class ShapeOfAnotherTensor(Sized):
    def forward(self, x):
        h = self.image(x)
        h = h if self.literal else h.flatten(1).view(x.shape)
        return self.head(h.mean((2, 3)))


class SliceByTheBatch(Sized):
    def forward(self, x):
        h = self.image(x)
        h = h if self.literal else h[: x.size(0), : h.size(1)]
        return self.head(h.mean((2, 3)))


class Grid(Sized):
    """The decoding of a detector's head."""

    def forward(self, x):
        h = self.image(x)
        return h * 2.0 + torch.arange(W if self.literal else h.shape[-1]).float()


class ClassToken(Sized):
    def forward(self, x):
        h = self.image(x).flatten(2)
        token = self.token.expand(x.shape[0] if self.literal else h.shape[0], -1, -1)
        return self.head(torch.relu(torch.cat([token, h], 2).transpose(1, 2) - 0.25).mean(1))


class Coordinates(Sized):
    def forward(self, x):
        h = self.image(x)
        n, _, rows, columns = (x.shape[0], 3, H, W) if self.literal else h.shape
        down, right = (
            (self.down, self.right) if self.literal else (torch.linspace(-1, 1, size) for size in (rows, columns))
        )
        down, right = down.view(1, 1, rows, 1).expand(n, 1, rows, columns), right.expand(n, 1, rows, columns)
        return self.head(torch.relu(self.second(torch.cat([h, down, right], 1))).mean((2, 3)))


class AsManyChannelsAsProbingSamples(Sized):
    """Tensors whose first dimension has the size of the probing batch, and does not hold it."""

    def forward(self, x):
        h = self.image(x)
        channels = 3 if self.literal else h.shape[1]
        weights = self.scale * torch.ones(channels)
        return self.head((h * weights.view(channels, 1, 1)).mean((2, 3)) + torch.arange(channels))


class SizeAfterSize(Sized):
    """A value that does not change in time, made with a size of one that does, on its way to the second neurons."""

    def forward(self, x):
        h = self.image(x)
        rows = H if self.literal else h.shape[2]
        part = x.flatten(2)[:, :, :rows].mean(2)
        return self.head(torch.relu(h.mean((2, 3)) + part))


class AnswerBySizes(Sized):
    """Behind the readout, where the running mean is a sequence too."""

    def forward(self, x):
        h = self.head(self.image(x).mean((2, 3))).softmax(1)
        return h if self.literal else h.view(x.size(0), -1).reshape(h.shape)


NETWORKS = [
    InputAndSpikes,
    RatioOfBatches,
    ViewByTheInputsBatch,
    ShapeOfAnotherTensor,
    SliceByTheBatch,
    Grid,
    ClassToken,
    Coordinates,
    AsManyChannelsAsProbingSamples,
    SizeAfterSize,
    AnswerBySizes,
]


def _convert(network, literal, schedule=None):
    torch.manual_seed(0)
    model = network(literal).eval()
    x = torch.randn(5, C, H, W)
    conversion = tp.Conversion(tp.rules.Maximum(tp.PerChannel()), tp.rules.HalfThreshold(), schedule=schedule or PLAIN)
    return tp.convert(model, conversion, example_inputs=x, calibration=x), model, x


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("schedule", [tp.schedules.Plain(), tp.schedules.Staggered(3), tp.schedules.Residual(4)])
def test_sizes_mean_what_they_mean_in_the_ann(network, schedule):
    """Oracle: the twin with numbers, event for event, for other batch sizes than that of conversion."""
    sized, _, x = _convert(network, False, schedule)
    literal, _, _ = _convert(network, True, schedule)
    for batch in (1, 2, 5):
        for kernel in (KernelPreference.AUTO, KernelPreference.EAGER):
            answers = [snn(x[:batch], steps=6, kernel=kernel) for snn in (sized, literal)]
            torch.testing.assert_close(answers[0], answers[1], rtol=1e-6, atol=1e-6)
            assert answers[0].shape[:2] == (6, batch)


@pytest.mark.parametrize("network", NETWORKS)
def test_error_falls_with_the_steps(network):
    snn, model, x = _convert(network, False)
    errors = [(snn(x, steps=steps)[-1] - model(x)).abs().max().item() for steps in (4, 256)]
    assert errors[1] < max(errors[0] / 16, 1e-3 * model(x).abs().max())


@pytest.mark.parametrize("network", NETWORKS)
def test_steps_and_chunks_answer_as_one_run(network):
    snn, _, x = _convert(network, False)
    whole = snn(x, steps=5, kernel=KernelPreference.EAGER)
    torch.testing.assert_close(snn(x, steps=5, chunk=2), whole, rtol=1e-6, atol=1e-6)
    state, answers = None, []
    for _ in range(5):
        answer, state = snn.step(x, state)
        answers.append(answer)
    torch.testing.assert_close(torch.stack(answers), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("network", [InputAndSpikes, ClassToken, Coordinates, SizeAfterSize])
def test_inputs_that_differ_from_step_to_step(network):
    """Every input is a sequence then: equal frames give what a constant input gives."""
    snn, _, x = _convert(network, False)
    frames = tp.FrameSequence(x.unsqueeze(0).expand(4, *x.shape))
    torch.testing.assert_close(snn(frames, steps=4), snn(x, steps=4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("network", [ViewByTheInputsBatch, ClassToken, Coordinates])
def test_calibration_block_by_block(network):
    """A block that reads a size of another block is calibrated as its twin."""
    torch.manual_seed(0)
    x = torch.randn(6, C, H, W)
    conversion = tp.methods["snm"](steps=4)
    answers = []
    for literal in (False, True):
        torch.manual_seed(0)
        model = network(literal).eval()
        snn = tp.convert(model, conversion, example_inputs=x, calibration=[x[:4], x[4:]])
        answers.append(snn(x, steps=4))
    torch.testing.assert_close(answers[0], answers[1], rtol=1e-5, atol=1e-5)


class HalfTheBatch(Sized):
    def forward(self, x):
        h = self.image(x).mean((2, 3))
        return self.head(h)[: (x.size(0) + 1) // 2]


class MaskOfPairs(Sized):
    """A constant that holds the batch twice."""

    def forward(self, x):
        h = self.image(x).mean((2, 3))
        return self.head(torch.matmul(torch.eye(h.size(0)), h))


class TimesTheBatch(Sized):
    def forward(self, x):
        return self.head(self.image(x).mean((2, 3)) * x.size(0))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (HalfTheBatch, "is no multiple of it"),
        (MaskOfPairs, "elsewhere than in its first dimension"),
        (TimesTheBatch, "depends on the other samples"),
    ],
)
def test_other_uses_of_the_batch_size_are_refused(network, reason):
    with pytest.raises(ConversionError, match=reason):
        _convert(network, False)


def test_constants_are_told_from_values_per_sample():
    kinds = tp.inspect(Coordinates(False).eval(), torch.randn(2, C, H, W)).plan.kinds
    assert kinds["linspace"] is Kind.CONSTANT
    assert kinds["expand"] is Kind.STATIC
    kinds = tp.inspect(AsManyChannelsAsProbingSamples(False).eval(), torch.randn(2, C, H, W)).plan.kinds
    assert {kinds["ones"], kinds["mul"], kinds["arange"]} == {Kind.CONSTANT}


_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_NUMBERS = st.recursive(
    st.sampled_from(["n", "m", "c", "2", "3"]),
    lambda inner: st.tuples(st.sampled_from("+-*/"), inner, inner),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(_NUMBERS)
def test_growth_of_random_expressions(expression):
    """Oracle: the expression for several batch sizes in fractions."""
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    leaves = {
        "n": graph.call_method("size", (x, 0)),
        "m": graph.call_method("size", (y, 0)),
        "c": graph.call_method("size", (x, 1)),
        "2": 2,
        "3": 3,
    }

    def build(part):
        if isinstance(part, str):
            return leaves[part]
        a, b = build(part[1]), build(part[2])
        if not isinstance(a, fx.Node) and not isinstance(b, fx.Node):
            return _OPERATORS[part[0]](a, b)
        return graph.call_function(_OPERATORS[part[0]], (a, b))

    def value(part, n):
        numbers = {"n": n, "m": n, "c": 7, "2": 2, "3": 3}
        if isinstance(part, str):
            return Fraction(numbers[part])
        return _OPERATORS[part[0]](value(part[1], n), value(part[2], n))

    try:
        values = {n: value(expression, Fraction(n)) for n in (2, 3, 5, 7, 11, 13, 17, 19)}
        node = build(expression)
    except ZeroDivisionError:
        return
    if not isinstance(node, fx.Node):
        return
    gm = fx.GraphModule(nn.Module(), graph)
    examples = {x: torch.zeros(3, 7), y: torch.zeros(3, 2)}
    found = SymbolicSizes(gm, examples, lambda each: (0, 1) if each in (x, y) else None).grows(node)
    constant = len(set(values.values())) == 1
    multiple = len({each / n for n, each in values.items()}) == 1
    assert found is (False if constant else True if multiple else None)


def test_sizes_at_steps():
    assert at_steps(6, True, 4) == 24
    assert at_steps((3, 5, 6), (True, False, True), 4) == (12, 5, 24)
    assert at_steps(slice(None, 3), (False, True, False), 4) == slice(None, 12, None)
