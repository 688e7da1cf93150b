"""Submodules that stay one operator each: what they compute decides, not what they inherit from."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import transpike as tp
from transpike.errors import ConversionError

X = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class RectifiedConv(nn.Conv2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class RectifiedInside(nn.Conv2d):
    def _conv_forward(self, *arguments):
        return F.relu(super()._conv_forward(*arguments))


class SquaringNorm(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) ** 2


class SquaringPool(nn.AvgPool2d):
    def forward(self, x):
        return super().forward(x) ** 2


class SquaringMaxPool(nn.MaxPool2d):
    def forward(self, x):
        return super().forward(x) ** 2


class SquaringIdentity(nn.Identity):
    def forward(self, x):
        return x**2


class WithNewStart(nn.Conv2d):
    """Another initialisation computes nothing else."""

    def reset_parameters(self):
        nn.init.constant_(self.weight, 0.25)
        nn.init.zeros_(self.bias)


def _around(leaf, *behind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), leaf, *behind, nn.Flatten()).eval()


LEAVES = [
    RectifiedConv(3, 3, 1),
    RectifiedInside(3, 3, 1),
    SquaringNorm(3),
    SquaringPool(2),
    SquaringMaxPool(2),
    SquaringIdentity(),
]


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_a_leaf_with_a_forward_of_its_own_is_not_what_it_inherits_from(leaf):
    with pytest.raises(ConversionError, match=f"{type(leaf).__name__} \\(node '2'\\)"):
        tp.convert(
            _around(leaf, nn.ReLU(), nn.Conv2d(3, 2, 1)),
            tp.Conversion(tp.rules.Maximum()),
            example_inputs=X,
            calibration=X,
            leaf_modules=["2"],
        )


@pytest.mark.parametrize(
    "leaf", [WithNewStart(3, 3, 1), parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.LazyConv2d(3, 1)]
)
def test_a_leaf_that_inherits_its_forward_is_what_it_inherits_from(leaf):
    model = _around(leaf)
    model(X)  # gives a lazy layer its weights
    snn = tp.convert(
        model, tp.Conversion(tp.rules.Maximum(tp.PerChannel())), example_inputs=X, calibration=X, leaf_modules=["2"]
    )
    torch.testing.assert_close(snn(X, steps=512)[-1], model(X), atol=0.02, rtol=0)


def test_batchnorm_is_not_folded_into_a_layer_with_a_forward_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(RectifiedConv(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU()).eval()
    found = tp.inspect(model, X, leaf_modules=["0"])
    assert not found.folded
    assert found.plan.analogue == ("0",)


# ---- how they are named --------------------------------------------------------------------------------------------


class Branching(nn.Module):
    """Cannot be traced."""

    def forward(self, x):
        return x if x.sum() > 1e9 else 2 * x


class WithBranch(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.branch, self.a, self.out = Branching(), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(F.relu(self.a(self.branch(x))))


FLAT = torch.rand(4, 4, generator=torch.Generator().manual_seed(0))
SPELLINGS = ["branch", ["branch"], Branching, [Branching], {"branch", Branching}]


@pytest.mark.parametrize("leaf_modules", SPELLINGS, ids=range(len(SPELLINGS)))
def test_a_converted_network_stores_the_names_of_its_leaves(leaf_modules, tmp_path):
    snn = tp.convert(
        WithBranch().eval(),
        tp.Conversion(tp.rules.Maximum()),
        example_inputs=[FLAT],
        calibration=FLAT,
        leaf_modules=leaf_modules,
        leave="branch",
    )
    assert snn.capture.leaf_modules == snn.capture.leave == ("branch",)
    assert snn.conversion == tp.Conversion(tp.rules.Maximum())
    tp.save(snn, tmp_path / "n.safetensors")
    back = tp.load(tmp_path / "n.safetensors", model=WithBranch)
    assert torch.equal(back(FLAT, steps=4), snn(FLAT, steps=4))


@pytest.mark.parametrize("leaf_modules", SPELLINGS, ids=range(len(SPELLINGS)))
def test_a_tailored_network_stores_the_names_of_its_leaves(leaf_modules, tmp_path):
    tailored = tp.tailor(WithBranch().eval(), tp.activations.QCFS(4), leaf_modules=leaf_modules, example_inputs=[FLAT])
    assert tp.conversion.tailor.tailoring(tailored).leaf_modules == ("branch",)
    snn = tp.convert(tailored, example_inputs=FLAT, leave=["branch"], leaf_modules=leaf_modules)
    tp.save(snn, tmp_path / "n.safetensors")
    back = tp.load(tmp_path / "n.safetensors", model=WithBranch)
    assert torch.equal(back(FLAT, steps=4), snn(FLAT, steps=4))


@pytest.mark.parametrize("leaf_modules", ["nonsense", ["branch", "nonsense"], nn.LSTM])
def test_leaves_that_are_not_there(leaf_modules):
    for model in (WithBranch(), tp.tailor(WithBranch(), tp.activations.QCFS(4), leaf_modules="branch")):
        with pytest.raises(ValueError, match=r"leaf ('nonsense'|LSTM) is not a submodule"):
            tp.inspect(model, FLAT, leaf_modules=leaf_modules)
        with pytest.raises(ValueError, match=r"leaf ('nonsense'|LSTM) is not a submodule"):
            tp.tailor(model, tp.activations.QCFS(4), leaf_modules=leaf_modules)


def test_inputs_may_come_as_a_list():
    snn = tp.convert(
        WithBranch().eval(),
        tp.Conversion(tp.rules.Maximum()),
        example_inputs=FLAT,
        calibration=FLAT,
        leaf_modules="branch",
        leave="branch",
    )
    assert torch.equal(snn.step([FLAT])[0], snn.step(FLAT)[0])
