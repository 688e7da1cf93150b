"""Tailoring: what is replaced, what stays, what is reported."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.activations import SlipActivation
from transpike.errors import CalibrationError, ConversionError, TraceError

QCFS = tp.activations.QCFS(levels=4, theta_init=2.0)


class Net(nn.Module):
    """Every spelling of ReLU, two max-poolings, functional dropout, a head that forward never uses."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.unused = nn.Linear(3, 2)
        self.register_parameter("spare", nn.Parameter(torch.ones(2)))
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        x = self.pool(self.relu(self.norm(self.conv1(x))))
        identity = x
        x = self.conv2(x)
        x += identity
        x = F.max_pool2d(self.relu(x), 2)
        x = F.dropout(x.mean((2, 3)), 0.5, training=self.training)
        return torch.clamp(self.fc(x), 0, 6)


def _net():
    """Weights large enough that every site is active, none saturated."""
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for layer in (model.conv1, model.conv2, model.fc):
            layer.weight.mul_(3)
        model.fc.bias.copy_(torch.tensor([0.9, 0.7, 1.1, 0.6]))
    return model


def _images(samples=5):
    return torch.randn(samples, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def _by_hand(model, x, theta):
    """The tailored network in evaluation mode, from PyTorch's functions and eq. 8 with c = 0, delta = 1/2."""

    def staircase(z):
        return theta * torch.clip(torch.floor(4 * z / theta + 0.5) / 4, 0, 1)

    norm = model.norm
    h = model.conv1(x)
    h = F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    h = F.avg_pool2d(staircase(h), 2)
    h = F.avg_pool2d(staircase(model.conv2(h) + h), 2)
    return staircase(model.fc(h.mean((2, 3))))


def test_tailored_network_computes_the_staircase():
    model = _net().eval()
    x = 4 * _images()
    tailored = tp.tailor(model, QCFS)
    torch.testing.assert_close(tailored(x), _by_hand(model, x, 2.0))
    assert len(tailored(x).unique()) > 2


def test_weights_and_keys_stay_and_thetas_come():
    model = _net()
    tailored = tp.tailor(model, QCFS)
    before, after = model.state_dict(), tailored.state_dict()
    assert set(after) - set(before) == {"relu@0.theta", "relu@1.theta", "clamp@0.theta"}
    assert set(before) <= set(after)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert [float(after[f"{name}.theta"]) for name in ("relu@0", "relu@1", "clamp@0")] == [2.0, 2.0, 2.0]
    assert {name for name, p in tailored.named_parameters() if p.requires_grad} == set(
        dict(tailored.named_parameters())
    )


def test_nothing_is_shared_with_the_source():
    model = _net()
    kept = copy.deepcopy(model.state_dict())
    tailored = tp.tailor(model, QCFS)
    with torch.no_grad():
        for values in (*tailored.parameters(), *tailored.buffers()):
            values.zero_()
    assert all(torch.equal(kept[key], value) for key, value in model.state_dict().items())
    tailored.to(torch.float64)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert type(model.relu) is nn.ReLU
    assert model.relu.inplace
    assert type(model.pool) is nn.MaxPool2d


def test_a_state_dict_goes_both_ways():
    model = _net()
    tailored = tp.tailor(model, QCFS)
    with torch.no_grad():
        tailored.fc.weight.add_(1.0)
    model.load_state_dict(tailored.state_dict(), strict=False)
    assert torch.equal(model.fc.weight, tailored.fc.weight)
    fresh = tp.tailor(_net(), tp.activations.QCFS(levels=8))
    fresh.load_state_dict(tailored.state_dict())
    assert fresh.get_submodule("relu@1").theta.item() == 2.0


def test_what_was_replaced_is_listed_with_its_sources():
    record = tp.conversion.tailor.tailoring(tp.tailor(_net(), QCFS))
    assert record.activation == QCFS
    assert [(call.name, call.operator) for call in record.activations] == [
        ("relu@0", "torch.nn.ReLU"),
        ("relu@1", "torch.nn.ReLU"),
        ("clamp@0", "torch.clamp"),
    ]
    assert [(call.name, call.operator) for call in record.pools] == [
        ("pool", "torch.nn.MaxPool2d"),
        ("maxpool2d@0", "torch.nn.MaxPool2d"),
    ]
    lines = [call.source.split(": ", 1) for call in record.activations + record.pools]
    assert all("test_tailor.py:" in where for where, _ in lines)
    assert lines[1][1] == "x = F.max_pool2d(self.relu(x), 2)"
    text = str(record)
    for part in ("3 activations", "2 max-poolings", "clamp@0", "test_tailor.py:"):
        assert part in text


def test_idempotent():
    once = tp.tailor(_net(), QCFS).eval()
    with torch.no_grad():
        once.get_submodule("relu@0").theta.fill_(0.5)  # training went on in between
    twice = tp.tailor(once, QCFS).eval()
    x = _images()
    assert torch.equal(once(x), twice(x))
    assert list(once.state_dict()) == list(twice.state_dict())
    assert tp.conversion.tailor.tailoring(twice) == tp.conversion.tailor.tailoring(once)
    assert twice.get_submodule("relu@0") is not once.get_submodule("relu@0")


@pytest.mark.parametrize("wrap", [lambda network: network, lambda network: nn.Sequential(network, nn.ReLU())])
def test_other_settings_on_a_tailored_network_are_refused(wrap):
    once = tp.tailor(_net(), QCFS)
    with pytest.raises(ValueError, match=r"tailored already.*levels 4.*levels 16"):
        tp.tailor(wrap(once), tp.activations.QCFS(levels=16))


def test_new_activations_join_the_old_ones():
    once = tp.tailor(_net(), QCFS)
    with torch.no_grad():
        once.get_submodule("relu@0").theta.fill_(0.5)
    twice = tp.tailor(nn.Sequential(once, nn.ReLU()), QCFS)
    found = {name: m.theta.item() for name, m in twice.named_modules() if isinstance(m, SlipActivation)}
    assert found == {"0.relu@0": 0.5, "0.relu@1": 2.0, "0.clamp@0": 2.0, "1": 2.0}


def test_a_new_activation_never_takes_the_name_of_an_old_one():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return self.a(F.relu(self.a(x)))

    once = tp.tailor(Functional(), QCFS)
    output = next(node for node in once.graph.nodes if node.op == "output")
    with once.graph.inserting_before(output):
        output.args = (once.graph.call_function(F.relu, output.args),)
    once.recompile()
    twice = tp.tailor(once, QCFS)
    assert [call.name for call in tp.conversion.tailor.tailoring(twice).activations] == ["relu@0", "relu@1"]
    assert twice.get_submodule("relu@0") is not twice.get_submodule("relu@1")


def test_a_network_that_was_not_tailored():
    assert tp.conversion.tailor.tailoring(_net()) is None


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_that_of_the_source(training):
    model = _net().train(training)
    tailored = tp.tailor(model, QCFS)
    assert all(module.training is training for module in tailored.modules())
    x = 4 * _images(64)
    same = torch.equal(tailored(x), tailored(x))
    assert same is not training, "dropout acts in training and only then"
    tailored.eval()
    assert torch.equal(tailored(x), tailored(x))
    tailored.train()
    assert not torch.equal(tailored(x), tailored(x)), "functional dropout must follow the mode"


def test_frozen_parts_stay_frozen():
    model = _net().train()
    model.norm.eval()
    model.conv1.requires_grad_(False)
    tailored = tp.tailor(model, QCFS)
    assert not tailored.norm.training
    assert not model.norm.training
    assert not tailored.conv1.weight.requires_grad


def test_every_threshold_gets_a_gradient_of_its_own():
    tailored = tp.tailor(_net(), tp.activations.SlipReLU(levels=4, slope=0.3, theta_init=1.0)).eval()
    tailored(3 * _images()).square().sum().backward()
    gradients = [float(tailored.get_submodule(name).theta.grad) for name in ("relu@0", "relu@1", "clamp@0")]
    assert all(gradient != 0 for gradient in gradients)
    assert len(set(gradients)) == 3


def test_precision_of_the_source_is_kept():
    assert {p.dtype for p in tp.tailor(_net().double(), QCFS).parameters()} == {torch.float64}


# ---- thresholds from data ------------------------------------------------------------------------------------------


def test_theta_from_a_percentile_of_the_relu_networks_activations():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()).eval()
    x = torch.randn(2000, 6)
    settings = tp.activations.QCFS(levels=4, theta_init=tp.activations.ThetaPercentile(99.0))
    tailored = tp.tailor(model, settings, calibration=x.split(500))
    with torch.no_grad():
        first = model[1](model[0](x))
        second = model[3](model[2](first))
    for name, values in (("1", first), ("3", second)):
        np.testing.assert_allclose(
            tailored.get_submodule(name).theta.item(), np.percentile(values.numpy(), 99.0), rtol=2e-3
        )


def test_theta_from_data_does_not_train_batchnorm_or_change_the_mode():
    model = _net().train()
    kept = copy.deepcopy(model.state_dict())
    settings = tp.activations.QCFS(levels=4, theta_init=tp.activations.ThetaPercentile())
    tailored = tp.tailor(model, settings, calibration=[_images()])
    assert model.training
    assert tailored.training
    for key, value in kept.items():
        assert torch.equal(tailored.state_dict()[key], value), key
        assert torch.equal(model.state_dict()[key], value), key
    assert tailored.get_submodule("relu@0").theta.item() != 1.0


def test_theta_from_data_without_data():
    with pytest.raises(CalibrationError, match="needs data") as caught:
        tp.tailor(_net(), tp.activations.QCFS(levels=4, theta_init=tp.activations.ThetaPercentile()))
    assert "calibration=batches" in caught.value.fix


# ---- back to spikes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [QCFS, tp.activations.SlipReLUMode0(4, 0.3, theta_init=2.0), tp.activations.QCF(2, theta_init=2.0)]
)
def test_converts_with_theta_and_shift(settings):
    x = _images().double()
    tailored = tp.tailor(_net().double(), settings).eval()
    with torch.no_grad():
        tailored.get_submodule("relu@1").theta.fill_(0.625)
    snn = tp.convert(tailored, example_inputs=x)
    assert [site.name for site in snn.sites] == ["relu@0", "relu@1", "clamp@0"]
    for name, theta in (("relu@0", 2.0), ("relu@1", 0.625), ("clamp@0", 2.0)):
        assert float(snn.site(name).theta) == theta
        assert float(snn.site(name).v_init) == settings.shift * theta
    assert snn.plan.pools == ()
    torch.testing.assert_close(snn.ann(x), tailored(x), rtol=1e-12, atol=1e-12)  # BatchNorm was folded
    assert all("test_tailor.py:" in site.source for site in snn.sites)


@pytest.mark.parametrize("name", ["MaxPool1d", "MaxPool2d", "MaxPool3d", "AdaptiveMaxPool2d"])
def test_max_pooling_becomes_average_pooling_of_the_same_geometry(name):
    dimensions = int(name[-2])
    pool = getattr(nn, name)(3) if name.startswith("Adaptive") else getattr(nn, name)(3, stride=2, padding=1)
    average = getattr(nn, name.replace("Max", "Avg"))
    expected = average(3) if name.startswith("Adaptive") else average(3, stride=2, padding=1)
    x = torch.rand(2, 3, *[6] * dimensions)
    tailored = tp.tailor(nn.Sequential(nn.ReLU(), pool), tp.activations.ThresholdReLU(theta_init=8.0))
    torch.testing.assert_close(tailored(x), expected(x))


@pytest.mark.parametrize(
    ("pool", "reason"),
    [(nn.MaxPool2d(2, return_indices=True), "it returns indices"), (nn.MaxPool2d(2, dilation=2), "no dilation")],
)
def test_max_pooling_without_an_average_counterpart(pool, reason):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.pool = nn.Conv2d(2, 2, 1), pool

        def forward(self, x):
            out = self.pool(F.relu(self.conv(x)))
            return out[0]

    with pytest.raises(ConversionError) as caught:
        tp.tailor(Pooled(), QCFS)
    text = str(caught.value)
    for part in (reason, "'pool'", "test_tailor.py:", "out = self.pool(F.relu(self.conv(x)))", "average pooling"):
        assert part in text


def test_a_relu_of_a_weight_is_not_an_activation():
    class Positive(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return F.relu(F.linear(x, F.relu(self.weight)))

    record = tp.conversion.tailor.tailoring(tp.tailor(Positive(), QCFS))
    assert [call.name for call in record.activations] == ["relu@0"]


def test_leaves_are_kept_whole():
    class Branches(nn.Module):
        def forward(self, x):
            return F.relu(x) if x.sum() > 0 else x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Branches()

        def forward(self, x):
            return F.relu(self.inner(x))

    with pytest.raises(TraceError, match="leaf_modules=\\['inner'\\]"):
        tp.tailor(Outer(), QCFS)
    for leaf in ("inner", Branches):
        tailored = tp.tailor(Outer(), QCFS, leaf_modules=[leaf])
        assert len(tp.conversion.tailor.tailoring(tailored).activations) == 1


def test_thresholds_of_a_network_that_is_not_trained_yet_fit_its_training():
    """BatchNorm that has seen no data takes the batch's statistics, so that activations do not shrink with depth."""
    torch.manual_seed(0)
    layers = [(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(8)]
    model = nn.Sequential(*(module for layer in layers for module in layer))
    kept = copy.deepcopy(model.state_dict())
    x = torch.randn(64, 4, 8, 8)
    tailored = tp.tailor(model, tp.activations.QCFS(4, theta_init=tp.activations.ThetaPercentile(99)), calibration=x)
    assert all(torch.equal(tailored.state_dict()[key], value) for key, value in kept.items())
    with torch.no_grad():
        for index, module in enumerate(copy.deepcopy(model).train()):
            x = module(x)
            if isinstance(module, nn.ReLU):
                wanted = np.percentile(x.numpy(), 99.0)
                np.testing.assert_allclose(tailored.get_submodule(str(index)).theta.item(), wanted, rtol=5e-3)
    assert wanted > 1.0
