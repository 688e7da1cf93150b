"""The traced graph must compute what the model computes; every verb that traces says so where it does not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.activations import SlipActivation
from transpike.errors import ConversionError, InputError, VerificationError

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.5)


class Alias(Base):
    def forward(self, x):
        x = self.a(x)
        other = x
        other += 1  # fx sees ``other = x + 1``; x changes too, which fx does not see
        return self.out(F.relu(x))


class AliasInTraining(Alias):
    def forward(self, x):
        return super().forward(x) if self.training else self.out(F.relu(self.a(x)))


class Noise(Base):
    """Dropout and statistics of the batch: in training, each call gives something else."""

    def forward(self, x):
        x = F.dropout(F.relu(self.norm(self.a(x))), 0.5, training=self.training)
        return self.out(self.dropout(x))


class KeywordOnly(Base):
    def forward(self, *, x):
        return self.out(F.relu(self.a(x)))


def test_inspection_finds_what_conversion_refuses():
    found = tp.inspect(Alias().eval(), X)
    assert not found.convertible
    assert "differs from the model" in found.unsupported[0].reason
    assert "changed in place" in str(found)
    assert tp.inspect(Noise().eval(), X).convertible


@pytest.mark.parametrize("data", [{"example_inputs": X}, {"calibration": [X]}, {"calibration": iter([(X, None)])}])
def test_tailoring_finds_it_where_it_has_data(data):
    tp.tailor(Alias().eval(), tp.activations.QCFS(4))  # nothing to compare with
    with pytest.raises(VerificationError, match="Alias differs from the model"):
        tp.tailor(Alias().eval(), tp.activations.QCFS(4), **data)


def test_tailoring_compares_in_the_mode_of_the_model():
    tp.tailor(AliasInTraining().eval(), tp.activations.QCFS(4), example_inputs=X)
    with pytest.raises(VerificationError):
        tp.tailor(AliasInTraining().train(), tp.activations.QCFS(4), example_inputs=X)


@pytest.mark.parametrize("training", [True, False])
def test_noise_of_training_is_no_difference_and_nothing_learns(training):
    model = Noise().train(training)
    kept, random = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    tailored = tp.tailor(model, tp.activations.QCFS(4), example_inputs=X)
    for key, value in kept.items():
        assert torch.equal(model.state_dict()[key], value)
        assert torch.equal(tailored.state_dict()[key], value)
    assert torch.equal(torch.random.get_rng_state(), random)


def test_an_iterator_of_calibration_data_is_read_once():
    settings = tp.activations.QCFS(4, theta_init=tp.activations.ThetaPercentile())
    one, other = (tp.tailor(Noise().eval(), settings, calibration=data) for data in (iter([X, 2 * X]), [X, 2 * X]))
    assert torch.equal(one.get_submodule("relu@0").theta, other.get_submodule("relu@0").theta)


def test_a_model_that_takes_no_input_by_position():
    with pytest.raises(InputError, match="KeywordOnly fails on the inputs"):
        tp.inspect(KeywordOnly().eval(), X)
    with pytest.raises(InputError, match="takes 1 input"):
        tp.tailor(Noise().eval(), tp.activations.QCFS(4), example_inputs=(X, X))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.view(-1, 2, 2).transpose(1, 2),
        lambda x: x.flatten(1).unflatten(1, (2, 2)),
        lambda x: x.chunk(2, 1)[0],
        lambda x: x.detach().swapaxes(0, 1),
    ],
)
def test_views_of_views_are_followed(view):
    class Stale(Base):
        def forward(self, x):
            x = self.a(x)
            other = view(x)
            x.relu_()
            return self.out(x) + other.sum()

    with pytest.raises(ConversionError, match="reads later through another view"):
        tp.tailor(Stale().eval(), tp.activations.QCFS(4))


def test_another_piece_of_a_split_tensor_is_no_view():
    class Pieces(Base):
        def forward(self, x):
            one, other = self.a(x).chunk(2, 1)
            return self.out(torch.cat([F.relu(one, inplace=True), F.relu(other)], 1))

    assert tp.inspect(Pieces().eval(), X).convertible


class Stairs(nn.Module):
    """Sums that lie on the steps of a staircase but for rounding, which folded statistics change."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.b, self.out = nn.Conv2d(16, 16, 3), nn.Linear(16, 4)
        with torch.no_grad():
            self.a.weight.copy_(0.3 * torch.randint(-3, 4, self.a.weight.shape))  # a third of it, as folded
            self.norm.weight.fill_(0.7)
            self.norm.bias.fill_(0.05)  # steps lie at odd multiples of it
            self.norm.running_var.fill_((3 * 0.7) ** 2 - self.norm.eps)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.out(F.relu(self.b(x)).mean((2, 3)))


def test_a_rounding_in_front_of_a_step_is_no_difference():
    x = torch.randint(0, 2, (8, 3, 8, 8)).float()
    ann = tp.tailor(Stairs(), tp.activations.QCFS(10, theta_init=1.0)).eval()
    snn = tp.convert(ann, example_inputs=x)
    with torch.no_grad():
        assert (snn.network(x) - ann(x)).abs().max() > 1e-3 * ann(x).abs().max()  # a level, in some neurons
    assert max(snn.verify(x, ann=ann)) < 1e-5
    activation = next(module for module in ann.modules() if isinstance(module, SlipActivation))
    assert "forward" not in vars(activation)
    activation.forward = watched = activation.forward  # somebody's wrapper stays
    snn.verify(x, ann=ann)
    assert vars(activation)["forward"] is watched
    with torch.no_grad():
        ann.get_parameter("out.weight").mul_(1.01)
    with pytest.raises(VerificationError, match="difference"):
        snn.verify(x, ann=ann)
