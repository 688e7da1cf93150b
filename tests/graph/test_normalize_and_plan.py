"""Names of activation calls, in-place rewriting, BatchNorm folding, and what the plan says about values."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.graph.capture import trace
from transpike.graph.example_run import batch_violations, shapes_of
from transpike.graph.fold import fold_batchnorm
from transpike.graph.plan import Kind


def _convert(model, x, **settings):
    return tp.convert(model.eval(), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x, **settings)


def _sites(model, x):
    return tuple(site.name for site in tp.inspect(model.eval(), x).plan.sites)


# ---- names ---------------------------------------------------------------------------------------------------------


def test_one_module_under_two_names_has_one_name_per_call():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2))
    assert _sites(model, torch.randn(2, 4)) == ("1@0", "1@1")


def test_functions_in_a_loop_over_a_module_list():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            for layer in self.layers:
                x = F.relu(layer(x))
            return x

    assert _sites(Net(), torch.randn(2, 4)) == ("relu@0", "relu@1", "relu@2")


def test_a_users_module_called_relu_keeps_its_name_beside_functions():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.relu = nn.ReLU()
            self.relu6 = nn.ReLU6()

        def forward(self, x):
            return F.relu6(self.relu6(F.relu(self.a(self.relu(x)))))

    assert _sites(Net(), torch.randn(2, 4)) == ("relu", "relu@0", "relu6", "relu6@0")


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.relu_(),
        lambda x: x.clamp_(min=0),
        lambda x: torch.relu_(x),
        lambda x: torch.clamp_(x, min=0.0),
        lambda x: torch.clamp_min_(x, 0.0),
        lambda x: F.relu(x, inplace=True),
        lambda x: F.relu_(x),
        lambda x: F.threshold_(x, 0.0, 0.0),
        lambda x: F.hardtanh_(x, 0.0, 0.25),
        lambda x: F.relu6(x, inplace=True),
        nn.ReLU(inplace=True),
        nn.ReLU6(inplace=True),
        nn.Threshold(0.0, 0.0, inplace=True),
    ],
)
def test_every_in_place_activation_changes_what_is_read_later(call):
    """The result of the call is thrown away: only its effect on ``h`` counts."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            if isinstance(call, nn.Module):
                self.call = call

        def forward(self, x):
            h = self.a(x)
            (self.call if isinstance(call, nn.Module) else call)(h)
            return self.b(h) + h

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(6, 4)
    snn = _convert(model, x)
    assert len(snn.sites) == 1
    assert torch.equal(snn.ann(x), model(x))
    assert float((model.a(x) < 0).float().mean()) > 0.2  # the activation does something here


@pytest.mark.parametrize("operation", ["add", "multiply", "method"])
def test_in_place_arithmetic(operation):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = F.relu(self.a(x))
            if operation == "add":
                h += x
            elif operation == "multiply":
                h *= 2
            else:
                h.add_(x).mul_(0.5)
            return self.b(h)

    model, x = Net().eval(), torch.randn(6, 4)
    torch.testing.assert_close(_convert(model, x).ann(x), model(x))


def test_source_lines_lead_through_helpers():
    def helper(x):
        return F.relu(x)  # this line

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return helper(self.a(x))

    (site,) = tp.inspect(Net(), torch.randn(2, 4)).plan.sites
    assert site.source.endswith("return F.relu(x)  # this line")
    assert "test_normalize_and_plan.py:" in site.source


# ---- BatchNorm -----------------------------------------------------------------------------------------------------


def _randomize(norm):
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.2, 2.0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
        (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (5, 4)),
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (5, 4, 7)),
        (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (5, 4, 5, 5)),
        (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (5, 4, 5, 5)),
        (nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), (5, 4, 3, 3, 3)),
        (nn.ConvTranspose2d(4, 6, 2), nn.BatchNorm2d(6), (5, 4, 3, 3)),
        (nn.ConvTranspose1d(4, 6, 2), nn.BatchNorm1d(6), (5, 4, 3)),
    ],
)
def test_batchnorm_folds_into(layer, norm, shape):
    torch.manual_seed(0)
    model = nn.Sequential(layer, _randomize(norm), nn.ReLU()).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    gm = trace(model)
    assert fold_batchnorm(gm, shapes_of(gm, (x,))) == ["1"]
    assert [node.target for node in gm.graph.nodes if node.op == "call_module"] == ["0", "2"]
    gm.recompile()
    torch.testing.assert_close(gm(x), model(x), rtol=1e-12, atol=1e-12)


class _TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.norm = _randomize(nn.BatchNorm1d(4))

    def forward(self, x):
        h = self.a(x)
        return F.relu(self.norm(h)) + h


class _OtherDimension(nn.Module):
    """BatchNorm over the middle dimension, behind a linear layer over the last one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.norm = _randomize(nn.BatchNorm1d(3))

    def forward(self, x):
        return F.relu(self.norm(self.a(x)))


class _OtherDimensionOfTheSameSize(_OtherDimension):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 3)


class _SharedLayer(nn.Module):
    """One convolution, two BatchNorms."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.norm1, self.norm2 = _randomize(nn.BatchNorm1d(4)), _randomize(nn.BatchNorm1d(4))

    def forward(self, x):
        return F.relu(self.norm2(self.a(F.relu(self.norm1(self.a(x))))))


@pytest.mark.parametrize(
    ("model", "shape", "folded"),
    [
        (_TwoReaders, (5, 4), ()),
        (_OtherDimension, (5, 3, 4), ()),
        (_OtherDimensionOfTheSameSize, (5, 3, 4), ()),
        (_SharedLayer, (5, 4), ("norm1", "norm2")),
    ],
)
def test_batchnorm_where_folding_is_not_simple(model, shape, folded):
    torch.manual_seed(0)
    source, x = model().double().eval(), torch.randn(shape, dtype=torch.float64)
    assert tp.inspect(source, x).folded == folded
    torch.testing.assert_close(_convert(source, x).ann(x), source(x), rtol=1e-11, atol=1e-12)


# ---- plan ----------------------------------------------------------------------------------------------------------


class _Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 0.5))
        self.softmax = nn.Softmax(1)

    def forward(self, x):
        rows = x.size(0)
        first = F.relu(self.a(x))
        second = F.relu(self.b(first) + x * self.scale)
        return self.softmax(self.c(second.view(rows, 4)))


def test_kinds_stages_and_readouts():
    x = torch.randn(2, 4)
    plan = tp.inspect(_Mixed(), x, leave=["softmax"]).plan
    first, second = (site.node for site in plan.sites)
    assert plan.kinds == {
        **{"x": Kind.STATIC, "a": Kind.STATIC, "mul": Kind.STATIC, "scale": Kind.CONSTANT, "size": Kind.SIZE},
        **{first: Kind.SEQUENCE, "b": Kind.SEQUENCE, "add": Kind.SEQUENCE, second: Kind.SEQUENCE},
        **{"view": Kind.SEQUENCE, "c": Kind.SEQUENCE, "softmax": Kind.MEAN, "output": Kind.MEAN},
    }
    assert plan.readouts == ("c",)
    assert plan.analogue == ("softmax",)
    assert plan.grows == {"size": True}
    assert [site.name for site in plan.sites] == ["relu@0", "relu@1"]
    assert [site.constant_drive for site in plan.sites] == [True, False]
    assert [site.shape for site in plan.sites] == [(4,), (4,)]


def test_static_values_are_computed_once_per_run():
    """The first convolution sees the constant image: it runs once, not T times."""
    calls = []

    class Counting(nn.Linear):
        def forward(self, x):
            calls.append(x.shape[0])
            return super().forward(x)

    model = nn.Sequential(Counting(4, 4), nn.ReLU(), nn.Linear(4, 4))
    x = torch.randn(3, 4)
    snn = tp.convert(
        model.eval(),
        tp.Conversion(tp.rules.Maximum()),
        example_inputs=x,
        calibration=x,
        leaf_modules=["0"],
        leave=["0"],
    )
    snn(x, steps=1)  # the first run packs the weights, which looks at shapes
    calls.clear()
    snn(x, steps=10)
    snn(x, steps=10, chunk=1)
    assert calls == [3, 3]


def test_max_pooling_moves_in_front_of_its_site_only_where_nobody_else_reads_it():
    class Net(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.a, self.pool, self.shared = nn.Conv1d(2, 2, 1), nn.MaxPool1d(2), shared

        def forward(self, x):
            h = F.relu(self.a(x))
            pooled = self.pool(h)
            return pooled + h[..., ::2] if self.shared else pooled

    x = torch.randn(2, 2, 4)
    moved = tp.inspect(Net(False), x).plan
    assert moved.pools == ()
    assert moved.sites[0].shape == (2, 2)
    kept = tp.inspect(Net(True), x).plan
    assert kept.pools == ("pool",)
    assert kept.sites[0].shape == (2, 4)


def test_unused_branches_are_not_run_and_not_an_obstacle():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.unused = nn.Linear(4, 4), nn.GELU()

        def forward(self, x):
            self.unused(x)
            return F.relu(self.a(x))

    assert _sites(Net(), torch.randn(2, 4)) == ("relu@0",)


def test_summary_and_inspection_name_everything():
    x = torch.randn(2, 4)
    text = str(tp.inspect(_Mixed(), x, leave=["softmax"]))
    for part in ("_Mixed: converts, 2 sites, 8 neurons", "relu@0", "relu@1", "kept analogue: softmax"):
        assert part in text
    snn = _convert(_Mixed(), x, leave=["softmax"])
    for part in ("2 sites, 8 neurons", "constant", "spikes", "0.5", "softmax"):
        assert part in snn.summary()


# ---- arguments by name ---------------------------------------------------------------------------------------------


class Named(nn.Module):
    """Layers for the models below, whose arguments are given by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.down = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1)
        self.relu, self.pool, self.dropout, self.out = nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(), nn.Conv2d(4, 2, 1)
        _randomize(self.norm)


class EverythingByName(Named):
    def forward(self, x):
        x = self.relu(input=self.norm(input=self.conv(input=x)))
        return self.out(input=self.dropout(input=self.pool(input=x)))


class OutputSize(Named):
    def forward(self, x):
        return self.out(self.relu(self.norm(self.up(self.relu(self.down(x)), output_size=x.shape[2:]))))


class FunctionsByName(Named):
    def forward(self, x):
        a, b = self.relu(self.conv(x)), torch.relu(input=self.conv(x + 1))
        x = F.dropout(input=F.max_pool2d(input=torch.cat(tensors=[a, b], dim=1), kernel_size=2), training=self.training)
        return torch.amax(input=x, dim=(2, 3))


@pytest.mark.parametrize(
    ("model", "folded"), [(EverythingByName, ["norm"]), (OutputSize, ["norm"]), (FunctionsByName, [])]
)
def test_arguments_by_name(model, folded):
    model, x = model().eval(), torch.rand(4, 3, 8, 8)
    assert list(tp.inspect(model, x).folded) == folded
    snn = _convert(model, x)
    torch.testing.assert_close(snn.ann(x), model(x))
    torch.testing.assert_close(snn(x, steps=512)[-1], model(x), atol=0.05, rtol=0.02)
    tailored = tp.tailor(model, tp.activations.ThresholdReLU(theta_init=1e6), example_inputs=x)
    assert tp.convert(tailored, example_inputs=x).sites


@pytest.mark.parametrize(
    ("pool", "shape"),
    [
        (lambda x: torch.amax(x, dim=1, keepdim=True), (4, 3, 8, 8)),
        (lambda x: torch.amax(x, dim=1), (4, 3, 8, 8)),
        (lambda x: torch.amax(x, dim=(-3, -1)), (4, 3, 8, 8)),
        (lambda x: F.max_pool1d(x, 2), (4, 6)),  # [N, C] is [C, L] to it
        (lambda x: F.max_pool2d(x, 2), (4, 6, 8)),
    ],
)
def test_pooling_over_channels_stays_behind_cat(pool, shape):
    class Joined(nn.Module):
        def forward(self, x):
            return pool(torch.cat([F.relu(x - 0.5), F.relu(0.25 - x)], dim=1)) * 2

    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    model = Joined().eval()
    found = tp.inspect(model, x)
    assert found.convertible, found
    assert len(found.plan.pools) == 1  # on the sequence, not in front of the sites
    snn = _convert(model, x)
    torch.testing.assert_close(snn.ann(x), model(x))
    torch.testing.assert_close(snn(x, steps=512)[-1], model(x), atol=0.02, rtol=0)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """As sums in another order do: other numbers for another number of samples, much nearer in float64."""
    return x + x.shape[0] * (1e-3 if x.dtype == torch.float32 else 1e-12)


def mixing(x: torch.Tensor) -> torch.Tensor:
    return x + 1e-3 * x.shape[0]


@pytest.mark.parametrize(
    ("functions", "wrong"),
    [((rounded,), []), ((mixing,), ["mixing"]), ((rounded, mixing), ["mixing"]), ((mixing, rounded), ["mixing"])],
)
def test_what_rounding_changes_does_not_mix_samples(
    functions: tuple[Callable[..., torch.Tensor], ...], wrong: list[str]
) -> None:
    graph = torch.fx.Graph()
    node = graph.placeholder("x")
    for function in functions:
        node = graph.call_function(function, (node,))
    graph.output(node)
    gm = torch.fx.GraphModule(nn.Module(), graph)
    found = batch_violations(gm, (torch.rand(3, 4),), dict.fromkeys(gm.graph.nodes, True), {})
    assert [node.name for node, _ in found] == wrong
    assert all(node in set(gm.graph.nodes) for node, _ in found)
