"""The conversion: thresholds, potentials, what comes from training, and what is refused."""

import copy

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import transpike as tp
from transpike.errors import CalibrationError, VerificationError
from transpike.testing import assert_converges, record


def _mlp(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU6(), nn.Linear(8, 3)).to(dtype).eval()


def _data(samples=200, dtype=torch.float32, seed=1):
    return torch.randn(samples, 6, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _activations(model, x):
    """ReLU outputs of both sites by NumPy, without any of our code."""
    value, found = x.numpy(), []
    for layer in model:
        if isinstance(layer, nn.Linear):
            value = value @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        else:
            value = np.clip(value, 0, 6 if isinstance(layer, nn.ReLU6) else None)
            found.append(value)
    return found


# ---- thresholds ----------------------------------------------------------------------------------------------------


def test_maximum_per_layer_and_per_channel():
    model, x = _mlp(torch.float64), _data(dtype=torch.float64)
    first, second = _activations(model, x)
    layer = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x[:2], calibration=x)
    np.testing.assert_allclose(layer.site("1").theta.numpy(), first.max(), rtol=1e-12)
    np.testing.assert_allclose(layer.site("3").theta.numpy(), second.max(), rtol=1e-12)
    channel = tp.convert(model, tp.Conversion(tp.rules.Maximum(tp.PerChannel())), example_inputs=x[:2], calibration=x)
    np.testing.assert_allclose(channel.site("1").theta.numpy(), first.max(0), rtol=1e-12)
    np.testing.assert_allclose(channel.site("3").theta.numpy(), second.max(0), rtol=1e-12)


def test_percentile_is_that_of_numpy():
    model, x = _mlp(torch.float64), _data(3000, dtype=torch.float64)
    first, _ = _activations(model, x)
    snn = tp.convert(
        model, tp.Conversion(tp.rules.Percentile(99.0, tp.PerChannel())), example_inputs=x[:2], calibration=x.split(500)
    )
    np.testing.assert_allclose(snn.site("1").theta.numpy(), np.percentile(first, 99.0, axis=0), rtol=2e-3)
    snn = tp.convert(model, tp.Conversion(tp.rules.Percentile(99.0)), example_inputs=x[:2], calibration=x.split(500))
    np.testing.assert_allclose(snn.site("1").theta.numpy(), np.percentile(first, 99.0), rtol=2e-3)


def test_the_ceiling_of_a_clipped_relu_bounds_its_threshold():
    model, x = _mlp(), 100 * _data()
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    assert float(snn.site("3").theta) == 6.0
    assert float(snn.site("1").theta) > 6.0


def test_clipped_relu_needs_no_rule():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU6(), nn.Linear(8, 8), nn.Hardtanh(0.0, 0.5), nn.Linear(8, 3))
    snn = tp.convert(model, example_inputs=_data())
    assert [float(snn.site(name).theta) for name in ("1", "3")] == [6.0, 0.5]
    assert [float(snn.site(name).v_init) for name in ("1", "3")] == [3.0, 0.25]


@pytest.mark.parametrize(
    ("rule", "fraction"),
    [
        (None, 0.5),
        (tp.rules.HalfThreshold(), 0.5),
        (tp.rules.ZeroPotential(), 0.0),
        (tp.rules.ShiftedPotential(0.25), 0.25),
    ],
)
def test_initial_potentials_of_relu_sites(rule, fraction):
    parts = [tp.rules.Maximum(tp.PerChannel())] + ([] if rule is None else [rule])
    snn = tp.convert(_mlp(), tp.Conversion.of(*parts), example_inputs=_data(), calibration=_data())
    for name in ("1", "3"):
        assert torch.equal(snn.site(name).v_init, fraction * snn.site(name).theta)


def test_random_potentials_are_those_of_the_site_s_name():
    """Two networks whose site "3" is alike start it alike, whatever else they hold; a trained shift is overridden."""
    parts = [tp.rules.Maximum(tp.PerChannel()), tp.rules.RandomPotential(7)]
    snn = tp.convert(_mlp(), tp.Conversion.of(*parts), example_inputs=_data(), calibration=_data())
    ann = tp.tailor(_mlp(), tp.activations.QCFS(4, theta_init=2.0))
    trained = tp.convert(ann, tp.Conversion(potential=tp.rules.RandomPotential(7)), example_inputs=_data())
    for name in ("1", "3"):
        one, two = snn.site(name), trained.site(name)
        assert one.v_init.shape == snn.sites[0].shape == (8,)
        torch.testing.assert_close(one.v_init / one.theta, two.v_init / two.theta)
    assert not torch.equal(trained.site("1").v_init, trained.site("3").v_init)
    first = trained(_data(), steps=1)
    trained.site("1").set_initial_potential(torch.tensor(1.0))
    assert not torch.equal(trained(_data(), steps=1), first)


def test_parts_come_in_any_order():
    one = tp.convert(
        _mlp(), tp.Conversion(tp.rules.Maximum(), tp.rules.ZeroPotential()), example_inputs=_data(), calibration=_data()
    )
    two = tp.convert(
        _mlp(), tp.Conversion(tp.rules.Maximum(), tp.rules.ZeroPotential()), example_inputs=_data(), calibration=_data()
    )
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_calibration_takes_tensors_batches_and_labelled_batches():
    x = _data()
    labelled = [(part, torch.zeros(len(part))) for part in x.split(64)]
    thetas = {
        float(tp.convert(_mlp(), tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=data).site("1").theta)
        for data in (x, list(x.split(64)), (part for part in x.split(64)), labelled)
    }
    assert len(thetas) == 1


def test_channel_thresholds_are_exact_across_an_identity_shortcut():
    """Scale a channel up by 8: its threshold grows by 8 and nobody else notices; spikes stay the same."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return self.out(torch.relu(self.b(x) + x))

    torch.manual_seed(0)
    model = Net().double().eval()
    with torch.no_grad():
        model.a.weight[2] *= 8
        model.a.bias[2] *= 8
    x = _data(8, torch.float64)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum(tp.PerChannel())), example_inputs=x, calibration=x)
    theta = snn.site("relu@0").theta
    np.testing.assert_allclose(theta.numpy(), torch.relu(model.a(x)).amax(0).detach().numpy(), rtol=1e-12)
    assert_converges(snn, x)
    steps = 1024
    with torch.no_grad():
        error = (snn(x, steps=steps)[-1] - model(x)).abs().max() / model(x).abs().max()
    assert float(error) < 0.01


# ---- trained thresholds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.5, -0.25])
def test_tailored_networks_bring_thresholds_and_potentials(shift):
    settings = tp.activations.SlipReLU(levels=4, slope=0.3, shift=shift, theta_init=1.5)
    ann = tp.tailor(_mlp(), settings)
    with torch.no_grad():
        ann.get_submodule("3").theta.fill_(0.75)
    snn = tp.convert(ann, example_inputs=_data())
    assert [float(snn.site(name).theta) for name in ("1", "3")] == [1.5, 0.75]
    assert [float(snn.site(name).v_init) for name in ("1", "3")] == [1.5 * shift, 0.75 * shift]
    assert torch.equal(snn.ann(_data()), ann(_data()))


def test_a_threshold_that_training_made_negative_is_the_one_the_forward_pass_used():
    ann = tp.tailor(_mlp(), tp.activations.QCFS(4))
    with torch.no_grad():
        ann.get_submodule("1").theta.fill_(-3.0)
    assert float(tp.convert(ann, example_inputs=_data()).site("1").theta) == 2.0**-10


def test_a_potential_rule_overrides_the_trained_shift():
    ann = tp.tailor(_mlp(), tp.activations.QCFS(4, theta_init=2.0))
    snn = tp.convert(ann, tp.Conversion(potential=tp.rules.ZeroPotential()), example_inputs=_data())
    assert float(snn.site("1").v_init) == 0.0
    assert float(snn.site("1").theta) == 2.0


def test_a_threshold_rule_on_a_tailored_network():
    ann = tp.tailor(_mlp(), tp.activations.QCFS(4))
    with pytest.raises(CalibrationError, match="fits no site: all thresholds were trained") as caught:
        tp.convert(ann, tp.Conversion(tp.rules.Maximum()), example_inputs=_data(), calibration=_data())
    assert "leave the threshold rule out" in caught.value.fix


def test_qcfs_network_equals_its_spiking_twin_at_t_equal_l_in_the_first_layer():
    """SlipReLU's corollary: with T = N and constant drive the staircase is the spike count (numbers on a grid)."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_((model[0].weight * 64).round() / 64)
        model[0].bias.copy_((model[0].bias * 64).round() / 64)
    x = (_data() * 8).round() / 8
    ann = tp.tailor(model, tp.activations.QCFS(levels=4, theta_init=1.0)).eval()
    snn = tp.convert(ann, example_inputs=x)
    assert torch.equal(snn(x, steps=4)[-1], ann(x).detach())
    assert 3 < len(ann(x).unique()) <= 5


# ---- refused -------------------------------------------------------------------------------------------------------


def test_missing_rule():
    """Plain ReLUs get the stated default, which needs data; the record says so."""
    with pytest.raises(CalibrationError, match="needs data"):
        tp.convert(_mlp(), example_inputs=_data())
    default = tp.Conversion(tp.rules.Percentile(99.9, tp.PerChannel()))
    found = tp.convert(_mlp(), example_inputs=_data(), calibration=_data())
    named = tp.convert(_mlp(), default, example_inputs=_data(), calibration=_data())
    assert found.conversion == named.conversion == default
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), named.state_dict().values(), strict=True))


def test_missing_calibration():
    with pytest.raises(CalibrationError, match="needs data") as caught:
        tp.convert(_mlp(), tp.Conversion(tp.rules.Percentile(99.0)), example_inputs=_data())
    assert "percentile" in str(caught.value)
    assert "calibration=batches" in caught.value.fix


def _used_up():
    batches = iter([_data()])
    list(batches)
    return batches


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the calibration data is empty"),
        (_used_up(), "the calibration data is empty"),
        (torch.empty(0, 6), "the batch is empty"),
        (torch.full((2, 6), float("nan")), "12 values are NaN"),
        (torch.ones(2, 6, dtype=torch.int64), "not a floating type"),
        ([{"image": torch.ones(2, 6)}], "a batch is a dict"),
        ([()], "a batch is a tuple"),
    ],
)
def test_unusable_calibration(data, message):
    with pytest.raises(CalibrationError, match=message) as caught:
        tp.convert(_mlp(), tp.Conversion(tp.rules.Maximum()), example_inputs=_data(), calibration=data)
    assert "calibration" in str(caught.value)
    assert caught.value.fix


def test_two_rules_of_a_kind():
    with pytest.raises(ValueError, match="at most one threshold rule") as caught:
        tp.convert(
            _mlp(),
            tp.Conversion.of(tp.rules.Maximum(), tp.rules.Percentile(99.0)),
            example_inputs=_data(),
            calibration=_data(),
        )
    assert "Maximum" in str(caught.value)
    assert "Percentile" in str(caught.value)
    with pytest.raises(ValueError, match="at most one rule for initial potentials"):
        tp.convert(
            _mlp(),
            tp.Conversion.of(tp.rules.Maximum(), tp.rules.HalfThreshold(), tp.rules.ZeroPotential()),
            example_inputs=_data(),
            calibration=_data(),
        )


def test_something_that_is_no_part():
    with pytest.raises(ValueError, match="corrections takes corrections, not IF"):
        tp.Conversion.of(tp.rules.Maximum(), tp.neurons.IF())
    with pytest.raises(ValueError, match="threshold takes a threshold rule, not HalfThreshold"):
        tp.Conversion(tp.rules.HalfThreshold())
    with pytest.raises(ValueError, match="schedule takes a schedule such as Plain"):
        tp.Conversion(schedule="cos")
    with pytest.raises(ValueError, match="convert takes a Conversion, not"):
        tp.convert(_mlp(), [tp.rules.Maximum()], example_inputs=_data(), calibration=_data())


def test_corrections_for_another_schedule_are_refused():
    with pytest.raises(ValueError, match=r"temporal-bias .*cannot be made for accumulate"):
        tp.Conversion(corrections=[tp.rules.TemporalBiasCorrection(4)], schedule=tp.schedules.AccumulateThenFire(4))


def test_randomness_is_found():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 4)

        def forward(self, x):
            return torch.relu(self.a(x)) * float(torch.rand(()) + 1)  # traced once, another number at every call

    with pytest.raises(VerificationError, match="traced graph of Noisy differs") as caught:
        tp.convert(Noisy(), tp.Conversion(tp.rules.Maximum()), example_inputs=_data(), calibration=_data())
    assert "randomness" in caught.value.fix


def test_a_failed_conversion_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(6, 6), nn.GELU()).train()
    before = copy.deepcopy(model.state_dict())
    for run in (
        lambda: tp.convert(model, example_inputs=_data()),
        lambda: tp.convert(model, example_inputs=_data()[0]),
    ):
        with pytest.raises(tp.errors.TranspikeError):
            run()
        assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


# ---- other precisions and devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_network_keeps_the_precision_of_the_model(dtype):
    snn = tp.convert(
        _mlp(dtype), tp.Conversion(tp.rules.Maximum()), example_inputs=_data(8, dtype), calibration=_data(64, dtype)
    )
    assert {parameter.dtype for parameter in snn.parameters()} == {dtype}
    run = record(snn, _data(8, dtype), steps=4)
    assert run.answer.dtype == dtype
    assert run.answer.isfinite().all()


# ---- networks of others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "sites", "folded"), [("resnet18", 17, 20), ("resnet34", 33, 36)])
def test_torchvision_resnets_unedited(name, sites, folded):
    """One ReLU per block called twice, in-place adds, a max-pooling behind the stem, BatchNorm everywhere."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10).eval()
    x = torch.randn(2, 3, 32, 32)
    found = tp.inspect(model, x)
    assert found.convertible, str(found)
    assert len(found.plan.sites) == sites
    assert len(found.folded) == folded
    assert found.plan.pools == ()
    names = [site.name for site in found.plan.sites]
    assert names[:3] == ["relu", "layer1.0.relu@0", "layer1.0.relu@1"]
    assert "torchvision/models/resnet.py:" in found.plan.sites[1].source


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_torchvision_resnets_converge(name):
    """Below 2 % at every site at T = 256, falling as 1/T; channel thresholds, random weights."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10).double().eval()
    x = torch.randn(16, 3, 32, 32, dtype=torch.float64)
    rule = tp.rules.Percentile(99.0, tp.PerChannel())
    snn = tp.convert(model, tp.Conversion.of(rule), example_inputs=x[:1], calibration=x)
    assert_converges(snn, x[:1], largest_error=0.02, steps=(64, 256))


@pytest.mark.parametrize("name", ["cifar-resnet20", "cifar-resnet20-conv"])
def test_cifar_resnets_converge(name):
    """Functional ReLU, padding and slicing; the same bound."""
    torch.manual_seed(0)
    x = torch.randn(16, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rule = tp.rules.Percentile(99.0, tp.PerChannel())
    snn = tp.convert(tp.zoo.build(name).double(), tp.Conversion.of(rule), example_inputs=x[:2], calibration=x)
    assert_converges(snn, x[:1], largest_error=0.02, steps=(64, 256))


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121", "mobilenet_v2", "squeezenet1_1", "googlenet"])
def test_other_torchvision_networks_can_be_inspected(name):
    arguments = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=4, **arguments).eval()
    found = tp.inspect(model, torch.randn(1, 3, 64, 64))
    assert found.convertible, str(found)
    relus = {"vgg11_bn": 10, "densenet121": 121, "mobilenet_v2": 35, "squeezenet1_1": 26, "googlenet": 57}
    assert len(found.plan.sites) == relus[name]
