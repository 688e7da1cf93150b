"""Everything that cannot be converted is an error that names the node, the line in this file, and the way out."""

import re
from collections import namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.errors import ConversionError, InputError, TraceError, VerificationError
from transpike.graph.capture import CaptureLayer

FLAT, IMAGE, SEQUENCE = (2, 4), (2, 3, 4, 4), (2, 5, 4)


class Base(nn.Module):
    """Layers for the models below; each names only what it uses."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.gelu, self.silu, self.leaky = nn.GELU(), nn.SiLU(), nn.LeakyReLU()
        self.layer_norm, self.group_norm = nn.LayerNorm(4), nn.GroupNorm(1, 3)
        self.instance_norm = nn.InstanceNorm2d(3)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
        self.no_statistics_1d = nn.BatchNorm1d(4, track_running_stats=False)
        self.no_statistics_2d = nn.BatchNorm2d(3, track_running_stats=False)
        self.pool = nn.MaxPool2d(2, return_indices=True)


class GELUModule(Base):
    def forward(self, x):
        return self.b(self.gelu(self.a(x)))


class GELUFunctionOnSpikes(Base):
    def forward(self, x):
        return self.c(F.gelu(self.b(F.relu(self.a(x)))))


class SiLU(Base):
    def forward(self, x):
        return self.c(self.silu(self.b(F.relu(self.a(x)))))


class LeakyReLU(Base):
    def forward(self, x):
        return self.b(self.leaky(self.a(x)))


class Sigmoid(Base):
    def forward(self, x):
        return torch.sigmoid(self.b(F.relu(self.a(x))))


class SoftmaxInTheMiddle(Base):
    def forward(self, x):
        return self.c(F.relu(self.b(F.softmax(F.relu(self.a(x)), dim=1))))


class SoftmaxAtTheEnd(Base):
    def forward(self, x):
        return torch.softmax(self.b(F.relu(self.a(x))), dim=1)


class LayerNorm(Base):
    def forward(self, x):
        return F.relu(self.layer_norm(self.b(F.relu(self.a(x)))))


class GroupNorm(Base):
    def forward(self, x):
        return F.relu(self.group_norm(self.conv(F.relu(x))))


class InstanceNorm(Base):
    def forward(self, x):
        return F.relu(self.instance_norm(self.conv(F.relu(x))))


class LSTM(Base):
    def forward(self, x):
        states, _ = self.lstm(F.relu(self.a(x)))
        return self.b(states[:, -1])


class LSTMOnTheInput(Base):
    def forward(self, x):
        states, _ = self.lstm(x)
        return self.b(F.relu(self.a(states[:, -1])))


class Attention(Base):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.attention(x, x, x)[0]


class Gate(Base):
    def forward(self, x):
        return self.c(F.relu(self.a(x)) * F.relu(self.b(x)))


class MatrixProduct(Base):
    def forward(self, x):
        x = F.relu(self.a(x))
        return torch.matmul(x, x.transpose(1, 2))


class DividesBySpikes(Base):
    def forward(self, x):
        return x / (1 + F.relu(self.a(x)))


class DividesBySpikesByName(Base):
    def forward(self, x):
        return torch.div(x, other=1 + F.relu(self.a(x)))


class RoundingDivision(Base):
    def forward(self, x):
        return self.b(torch.div(F.relu(self.a(x)), 2, rounding_mode="floor"))


class Square(Base):
    def forward(self, x):
        return self.b(F.relu(self.a(x)) ** 2)


class Where(Base):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.b(torch.where(x > 0.5, x, -x))


class UpperClampOnly(Base):
    def forward(self, x):
        return self.b(torch.clamp(self.a(x), max=6.0))


class HardtanhOfBothSigns(Base):
    def forward(self, x):
        return self.b(F.hardtanh(self.a(x)))


class MeanOverBatch(Base):
    def forward(self, x):
        return self.b(F.relu(self.a(x))).mean(0)


class MinusMeanOverBatch(Base):
    def forward(self, x):
        x = F.relu(self.a(x))
        return self.b(x - x.mean(0, keepdim=True))


class SortsTheBatch(Base):
    def forward(self, x):
        return self.b(F.relu(self.a(x)).flip(0))


class FlipsTheFirstInput(Base):
    def forward(self, x):
        return F.relu(self.a(x + x.roll(1, 0)))


class MovesTheBatch(Base):
    def forward(self, x):
        return F.relu(self.a(x)).view(4, -1).transpose(0, 1)


class MergesTheBatch(Base):
    def forward(self, x):
        return self.b(F.relu(self.a(x)).view(-1, 4))


class ShapeFromBatchSize(Base):
    def forward(self, x):
        x = F.relu(self.a(x))
        rows = x.view(x.shape[0] * 2, 2)
        return rows


class ShapeFromTheInputsBatchSize(Base):
    def forward(self, x):
        half = x.size(0) * 2
        return F.relu(self.a(x)).reshape(half, 2)


class BatchNorm1dWithoutStatistics(Base):
    def forward(self, x):
        return self.b(F.relu(self.no_statistics_1d(self.a(x))))


class BatchNorm2dWithoutStatistics(Base):
    def forward(self, x):
        return F.relu(self.no_statistics_2d(self.conv(F.relu(x))))


class PoolWithIndices(Base):
    def forward(self, x):
        values, _ = self.pool(F.relu(self.conv(x)))
        return values


class ReturnsANumber(Base):
    def forward(self, x):
        return F.relu(self.a(x)), x.shape[0]


class ReturnsChunks(Base):
    def forward(self, x):
        return self.b(F.relu(self.a(x))).chunk(2, dim=1)


class ChangesAViewedTensor(Base):
    def forward(self, x):
        x = self.a(x)
        rows = x.view(-1, 2, 2)
        F.relu(x, inplace=True)
        return self.b(rows.flatten(1))


# model, shape of the inputs, node, what the reason says, what the way out says
OBSTACLES = [
    (LSTM, SEQUENCE, "lstm", "spikes arrive at it", "recurrent layers are not converted"),
    (MeanOverBatch, FLAT, "mean", "no dimension is a multiple", "keep the batch"),
    (MinusMeanOverBatch, FLAT, "mean", "no dimension is a multiple", "keep the batch"),
    (SortsTheBatch, FLAT, "flip", "depends on the other samples", "keep the batch"),
    (FlipsTheFirstInput, FLAT, "roll", "depends on the other samples", "keep the batch"),
    (MovesTheBatch, FLAT, "view", "depends on the other samples", "keep the batch"),
    (MergesTheBatch, SEQUENCE, "mul", "its first dimension is not the batch", "keep the batch"),
    (ShapeFromBatchSize, FLAT, "mul_1", "its first dimension is not the batch", "keep the batch"),
    (ShapeFromTheInputsBatchSize, FLAT, "mul_1", "its first dimension is not the batch", "keep the batch"),
    (BatchNorm1dWithoutStatistics, FLAT, "no_statistics_1d", "statistics from the batch", "track_running_stats=True"),
    (BatchNorm2dWithoutStatistics, IMAGE, "no_statistics_2d", "statistics from the batch", "track_running_stats=True"),
    (ReturnsANumber, FLAT, "getitem", "it is not one tensor", "return tensors only"),
    (ReturnsChunks, FLAT, "chunk", "it is not one tensor", "return tensors only"),
    (ChangesAViewedTensor, FLAT, "relu", "through another view", "without changing a tensor in place"),
]


def _followed(model):
    """The model in front of another layer of neurons: behind the last activation operators may stay."""

    class Followed(model):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.5))

        def forward(self, x):
            return self.gain * F.relu(super().forward(x))

    return Followed()


def _assert_names(text, *parts):
    for part in parts:
        assert part in text, f"{part!r} is missing in:\n{text}"


@pytest.mark.parametrize(
    ("model", "shape", "node", "reason", "fix"), OBSTACLES, ids=[row[0].__name__ for row in OBSTACLES]
)
def test_obstacle(model, shape, node, reason, fix):
    torch.manual_seed(0)  # a dead layer would hide what mixes samples
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    alone = (ReturnsANumber, ReturnsChunks, ChangesAViewedTensor)  # not one tensor, to give to a layer
    source = model() if model in alone else _followed(model)
    with pytest.raises(ConversionError) as caught:
        tp.convert(source.eval(), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    obstacle = next(o for o in caught.value.unsupported if o.node == node)
    assert re.search(r"test_obstacles\.py:\d+: \S", obstacle.source), obstacle.source
    _assert_names(str(caught.value), f"node {node!r}", obstacle.source, reason, fix)


# model, shape of the inputs, its sites that are no ReLU
FUNCTIONS = [
    (GELUModule, FLAT, {"gelu": "pointwise"}),
    (GELUFunctionOnSpikes, FLAT, {"gelu@0": "pointwise"}),
    (SiLU, FLAT, {"silu": "pointwise"}),
    (LeakyReLU, FLAT, {"leaky": "pointwise"}),
    (Sigmoid, FLAT, {"sigmoid@0": "pointwise"}),
    (SoftmaxInTheMiddle, FLAT, {"softmax@0": "group"}),
    (LayerNorm, FLAT, {"layer_norm": "group"}),
    (GroupNorm, IMAGE, {"group_norm": "group"}),
    (InstanceNorm, IMAGE, {"instance_norm": "group"}),
    (Gate, FLAT, {"mul@0": "product"}),
    (MatrixProduct, SEQUENCE, {"matmul@0": "product"}),
    (DividesBySpikes, FLAT, {"truediv@0": "product"}),
    (DividesBySpikesByName, FLAT, {"div@0": "product"}),
    (Square, FLAT, {"pow@0": "pointwise"}),
    (UpperClampOnly, FLAT, {"clamp@0": "pointwise"}),
    (HardtanhOfBothSigns, FLAT, {"hardtanh@0": "pointwise"}),
    (PoolWithIndices, IMAGE, {"getitem@0": "pointwise"}),
]


@pytest.mark.parametrize(("model", "shape", "sites"), FUNCTIONS, ids=[row[0].__name__ for row in FUNCTIONS])
def test_functions_that_need_events_of_either_sign(model, shape, sites):
    """Plain neurons refuse them and name the way; under digits the answer nears the network's."""
    torch.manual_seed(0)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = (GELUModule, LeakyReLU, UpperClampOnly, HardtanhOfBothSigns)  # in front of neurons they would stay analogue
    source = (model() if model in alone else _followed(model)).double().eval()
    found = tp.inspect(source, x)
    assert found.convertible
    assert {site.name: site.kind.value for site in found.plan.functions} == sites
    with pytest.raises(ConversionError) as caught:
        tp.convert(source, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    assert len(caught.value.unsupported) == len(sites)
    _assert_names(str(caught.value), "if sends no negative spikes", 'methods["digits"](steps=6)', "test_obstacles.py:")
    schedule = tp.schedules.SignedDigits(18, default_lag=18)  # every digit knows the whole drive
    snn = tp.convert(source, tp.Conversion(tp.rules.Maximum(), schedule=schedule), example_inputs=x, calibration=x)
    with torch.no_grad():
        answer, wanted = snn(x, steps=18)[-1], source(x)
    assert (answer - wanted).abs().max() < 1e-4 * (1 + wanted.abs().max())


@pytest.mark.parametrize("model", [BatchNorm1dWithoutStatistics, MeanOverBatch])
def test_each_obstacle_is_said_once(model):
    found = tp.inspect(_followed(model).eval(), torch.randn(FLAT))
    assert not found.convertible
    assert len(found.unsupported) == len({obstacle.node for obstacle in found.unsupported}) == 1
    assert "does not convert" in str(found)


def test_rounding_in_front_of_a_step_is_not_mixing():
    """The last probing sample, 0.75, becomes 3/8, a step of QCFS with L = 4, moved by 1e-6 as sums of other lengths."""

    class RoundsByBatchSize(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.out = nn.ReLU(), nn.Linear(1, 2)

        def forward(self, x):
            return self.out(self.relu(0.5 * x + 1e-6 * (x.shape[0] - 2)))

    ann = tp.tailor(RoundsByBatchSize().eval(), tp.activations.QCFS(4, theta_init=1.0)).eval()
    edge = torch.full((1, 1), 0.75)
    with torch.no_grad():
        assert not torch.allclose(ann(edge.expand(3, 1))[:1], ann(edge), rtol=1e-3)
    assert tp.convert(ann, example_inputs=torch.ones(1, 1)).sites


@pytest.mark.parametrize("model", [SortsTheBatch, FlipsTheFirstInput])
def test_mixing_is_found_behind_staircases(model):
    torch.manual_seed(0)
    ann = tp.tailor(model().eval(), tp.activations.QCFS(4, theta_init=4.0)).eval()
    with pytest.raises(ConversionError, match="depends on the other samples"):
        tp.convert(ann, example_inputs=torch.randn(FLAT, generator=torch.Generator().manual_seed(0)))


def test_all_obstacles_are_listed_together():
    class Many(Base):
        def forward(self, x):
            x = self.layer_norm(F.relu(self.a(x)))
            x = self.b(F.gelu(self.c(x)))
            return F.relu(F.relu(x) * F.relu(x + 1)) @ self.c.weight

    x = torch.randn(FLAT)
    with pytest.raises(ConversionError) as caught:
        tp.convert(Many().eval(), example_inputs=x, calibration=x)
    assert [obstacle.node for obstacle in caught.value.unsupported] == ["layer_norm", "gelu@0", "mul@0"]


# ---- what cannot be traced ---------------------------------------------------------------------------------------


class ControlFlow(Base):
    def forward(self, x):
        if x.sum() > 0:
            x = -x
        return F.relu(self.a(x))


class ItemAssignment(Base):
    def forward(self, x):
        x = F.relu(self.a(x))
        x[:, 0] = 0
        return self.b(x)


class PythonNumber(Base):
    def forward(self, x):
        return F.relu(self.a(x)) * float(x.mean())


class Inner(Base):
    def forward(self, x):
        while x.abs().max() > 100:
            x = x / 2
        return x


class Outer(Base):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return F.relu(self.a(self.inner(x)))


@pytest.mark.parametrize(
    ("model", "line", "leaf"),
    [
        (ControlFlow, "if x.sum() > 0:", None),
        (ItemAssignment, "x[:, 0] = 0", None),
        (PythonNumber, "float(x.mean())", None),
        (Outer, "while x.abs().max() > 100:", "leaf_modules=['inner']"),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "tailor"])
def test_what_cannot_be_traced(model, line, leaf, verb):
    x = torch.randn(FLAT)
    run = (
        partial(tp.inspect, example_inputs=x)
        if verb == "inspect"
        else partial(tp.tailor, activation=tp.activations.QCFS(4))
    )
    if model is ItemAssignment and verb == "inspect":  # with example inputs it is traced with values
        assert run(model().eval()).layer is CaptureLayer.VALUES
        return
    with pytest.raises(TraceError) as caught:
        run(model().eval())
    _assert_names(str(caught.value), model.__name__, "test_obstacles.py:", line, "rewrite that line")
    if leaf is None:  # the model itself cannot be a leaf
        assert "leaf_modules" not in str(caught.value)
    else:
        _assert_names(str(caught.value), leaf)


def test_a_leaf_on_the_input_is_the_way_out_of_control_flow():
    x = torch.randn(FLAT)
    snn = tp.convert(
        Outer().eval(),
        tp.Conversion(tp.rules.Maximum()),
        example_inputs=x,
        calibration=x,
        leaf_modules=["inner"],
    )
    assert snn.plan.analogue == ("inner",)
    with pytest.raises(ValueError, match="leaf 'inn' is not a submodule of Outer"):
        tp.inspect(Outer().eval(), x, leaf_modules=["inn"])


@dataclass
class Record:
    logits: torch.Tensor


Named = namedtuple("Named", "logits extra")


@pytest.mark.parametrize(
    "answer",
    [Record, lambda y: {"y": Record(y)}, lambda y: {"y": Named(y, y)}, lambda y: Named(y, Named(y, None))],
)
def test_an_object_around_the_answers(answer):
    class ReturnsAnObject(Base):
        def forward(self, x):
            return answer(self.b(F.relu(self.a(x))))

    (obstacle,) = tp.inspect(ReturnsAnObject().eval(), torch.randn(FLAT)).unsupported
    _assert_names(
        str(obstacle), "test_obstacles", "(what forward returns)", "returns it", "a tuple, list or dict of them"
    )


# ---- leave ---------------------------------------------------------------------------------------------------------


def test_leave_of_a_module_means_all_its_calls():
    class CalledTwice(Base):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return self.c(self.relu(self.b(self.relu(self.a(x))))).clamp(min=0)

    found = tp.inspect(CalledTwice().eval(), torch.randn(FLAT), leave="relu")
    assert found.convertible
    assert [site.name for site in found.plan.sites] == ["clamp@0"]
    assert found.plan.analogue == ("relu@0", "relu@1")


def test_leave_where_spikes_arrive_and_neurons_follow():
    """Spikes become a function's own there; it cannot stay as it is."""
    with pytest.raises(ConversionError) as caught:
        tp.convert(
            SoftmaxInTheMiddle().eval(),
            tp.Conversion(tp.rules.Maximum(), schedule=tp.schedules.SignedDigits(4)),
            example_inputs=torch.randn(FLAT),
            calibration=torch.randn(FLAT),
            leave=["softmax"],
        )
    _assert_names(
        str(caught.value), "'softmax'", "listed in leave, but spikes arrive", "out of leave", "test_obstacles.py:"
    )


def test_what_is_kept_anyway_may_be_listed():
    x = torch.randn(FLAT)
    assert tp.inspect(SoftmaxAtTheEnd().eval(), x, leave="softmax") == tp.inspect(SoftmaxAtTheEnd().eval(), x)


def test_unknown_leave():
    with pytest.raises(ValueError, match="leave names no operator of the model: sofmax"):
        tp.inspect(SoftmaxAtTheEnd().eval(), torch.randn(FLAT), leave=["sofmax", "softmax"])


# ---- no activation -------------------------------------------------------------------------------------------------


class OnlyAConstantReLU(Base):
    def forward(self, x):
        return self.b(x) * F.relu(self.a.bias)


@pytest.mark.parametrize("model", [nn.Linear(4, 4), OnlyAConstantReLU()], ids=["linear", "relu_of_a_weight"])
def test_no_activation_at_all(model):
    with pytest.raises(ConversionError) as caught:
        tp.convert(
            model.eval(),
            tp.Conversion(tp.rules.Maximum()),
            example_inputs=torch.randn(FLAT),
            calibration=torch.randn(FLAT),
        )
    _assert_names(str(caught.value), "holds no activation", "between two layers with weights", "the model")


# ---- verification --------------------------------------------------------------------------------------------------


def test_an_alias_that_tracing_does_not_see_is_found_by_parity():
    class Alias(Base):
        def forward(self, x):
            x = self.a(x)
            other = x
            x += 1  # fx sees ``x = x + 1``; other changes too, which fx does not see
            return self.b(F.relu(other))

    with pytest.raises(VerificationError, match="differs from the model by") as caught:
        tp.convert(
            Alias().eval(),
            tp.Conversion(tp.rules.Maximum()),
            example_inputs=torch.randn(FLAT),
            calibration=torch.randn(FLAT),
        )
    _assert_names(str(caught.value), "Alias", "changed in place")


def test_nan_in_the_weights_is_found_in_every_output():
    class Two(Base):
        def forward(self, x):
            x = F.relu(self.a(x))
            return self.b(x), self.c(x)

    for layer in ("b", "c"):
        model = Two().eval()
        with torch.no_grad():
            getattr(model, layer).bias[0] = float("nan")
        with pytest.raises(InputError, match=rf"the weight {layer}.bias holds NaN"):
            tp.convert(
                model,
                tp.Conversion(tp.rules.Maximum()),
                example_inputs=torch.randn(FLAT),
                calibration=torch.randn(FLAT),
            )


# ---- example inputs ------------------------------------------------------------------------------------------------

NAN = torch.tensor([[1.0, float("nan"), 0.0, float("inf")]])


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (NAN, "2 values are NaN or infinite"),
        (torch.ones(2, 4, dtype=torch.int64), "not a floating type"),
        (torch.ones(2, 4, dtype=torch.uint8), "scale images to floats"),
        (torch.empty(0, 4), "the batch is empty"),
        (torch.tensor(1.0), "no batch dimension"),
        ([1.0, 2.0], "a tensor is expected, not float"),
        ((), "no input given"),
        ((torch.ones(2, 4), torch.ones(2, 4)), "takes 1 input(s), got 2"),
        (torch.ones(2, 5), "fails on samples of shape [5]"),
        (torch.ones(2, 4, dtype=torch.float64), "torch.float64"),
    ],
)
@pytest.mark.parametrize("verb", ["inspect", "convert"])
def test_unusable_example_inputs(inputs, what, verb):
    class Net(Base):
        def forward(self, x):
            return self.b(F.relu(self.a(x)))

    run = (
        partial(tp.convert, conversion=tp.Conversion(tp.rules.Maximum()), calibration=torch.ones(2, 4))
        if verb == "convert"
        else tp.inspect
    )
    with pytest.raises(InputError) as caught:
        run(Net().eval(), example_inputs=inputs)
    _assert_names(str(caught.value), what, "where:", "fix:")


def test_example_inputs_that_do_not_match_each_other():
    class Two(Base):
        def forward(self, x, y):
            return F.relu(self.a(x)) + F.relu(self.b(y))

    with pytest.raises(InputError, match=r"different batch sizes \[2, 3\]"):
        tp.inspect(Two().eval(), (torch.ones(2, 4), torch.ones(3, 4)))
    with pytest.raises(InputError, match=r"takes 2 input\(s\), got 1"):
        tp.inspect(Two().eval(), torch.ones(2, 4))
