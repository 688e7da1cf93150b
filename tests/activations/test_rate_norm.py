"""The rate norm layer: values, gradients and running maximum by hand, and trained, converted, saved networks."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import transpike as tp
from transpike import zoo
from transpike.activations import RateNorm
from transpike.testing import TOPOLOGIES, assert_converges
from transpike.training.optimizers import parameter_groups

TAILORABLE = [topology for topology in TOPOLOGIES if topology.tailorable]


def test_values_and_gradients_by_hand():
    """w = log 3, so the share is 3/4; m = 2, theta = 3/2. Two of the five are clipped."""
    module = RateNorm(weight_init=math.log(3.0), theta_init=2.0).build().double().eval()
    z = torch.tensor([-1.0, 0.5, 1.25, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    y = module(z)
    np.testing.assert_allclose(y.detach(), [0, 0.5, 1.25, 1.5, 1.5], rtol=1e-7)
    weights = torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0], dtype=torch.float64)
    grad_z, grad_w = torch.autograd.grad((weights * y).sum(), (z, module.weight))
    assert grad_z.tolist() == [0, 2, 3, 0, 0]
    assert grad_w.item() == pytest.approx((5 + 7) * 2 * 0.75 * 0.25)  # what is clipped, m sigmoid (1 - sigmoid)


def test_the_running_maximum_by_hand():
    """Start 1, momentum 1/4: batches with the maxima 5, -2 (which counts as 0) and 4 give 2, 1.5 and 2.125."""
    module = RateNorm(momentum=0.25, weight_init=0.0).build()
    found = []
    for largest in (5.0, -2.0, 4.0):
        y = module(torch.tensor([[-3.0, largest]]))
        found.append(module.maximum.item())
        assert y.max().item() == min(max(largest, 0), found[-1] / 2)  # a share of one half; moved before it clips
    assert found == [2.0, 1.5, 2.125]
    module.eval()(torch.tensor([100.0]))
    assert module.maximum.item() == 2.125


def test_two_batches_before_one_backward():
    """The running maximum moves on without spoiling what the first batch's backward needs."""
    module = RateNorm(momentum=1.0, weight_init=0.0).build()
    total = module(torch.tensor([4.0])).sum() + module(torch.tensor([8.0])).sum()
    total.backward()
    assert module.weight.grad.item() == pytest.approx(4 / 4 + 8 / 4)


def test_half_precision_in_training():
    module = RateNorm().build()
    module(torch.tensor([3.0], dtype=torch.bfloat16))
    assert module.maximum.dtype == torch.float32
    assert module.maximum.item() == pytest.approx(1.2)


def test_the_threshold_never_vanishes_and_comes_back():
    module = RateNorm(momentum=1.0, weight_init=0.0).build()
    module(torch.tensor([-1.0]))
    assert module.maximum.item() == 0.0
    assert module.threshold.item() == 2**-10
    module(torch.tensor([6.0]))
    assert module.threshold.item() == 3.0


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"momentum": 0.0}, "momentum"),
        ({"momentum": 1.5}, "momentum"),
        ({"weight_init": math.nan}, "weight_init"),
        ({"weight_init": 100.0}, "weight_init"),
        ({"theta_init": 0.0}, "theta_init"),
        ({"theta_init": True}, "theta_init"),
    ],
)
def test_unusable_settings(settings, name):
    with pytest.raises(ValueError, match=name):
        RateNorm(**settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        RateNorm().momentum = 0.5


def test_weight_decay_is_a_setting():
    for decays in (True, False):
        ann = tp.tailor(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), RateNorm(decay_theta=decays))
        free = [group["params"] for group in parameter_groups(ann, 0.1) if group["weight_decay"] == 0.0]
        assert [p.item() for params in free for p in params] == ([] if decays else [10.0])


@pytest.mark.parametrize("topology", TAILORABLE, ids=str)
def test_tailored_trained_and_converted(topology):
    inputs = topology.random_inputs(6, seed=1, dtype=torch.float64)
    settings = RateNorm(weight_init=2.0, theta_init=tp.activations.ThetaPercentile(100.0))
    ann = tp.tailor(topology.model(dtype=torch.float64), settings, calibration=[inputs])
    assert tuple(call.name for call in tp.conversion.tailor.tailoring(ann).activations) == topology.sites
    starts = {name: ann.get_submodule(name).maximum.item() for name in topology.sites}
    modules = [ann.get_submodule(name).train() for name in topology.sites]
    ann(*(2.0 * x for x in inputs))  # larger than before
    ann.eval()
    share = 1 / (1 + math.exp(-2.0))
    snn = tp.convert(ann, example_inputs=inputs)
    for name, module in zip(topology.sites, modules, strict=True):
        site = snn.site(name)
        assert float(site.theta) == pytest.approx(share * float(module.maximum), rel=1e-12)
        assert float(site.v_init) == 0.0
        assert site.trained
    assert float(modules[0].maximum) > starts[topology.sites[0]] > 0
    torch.testing.assert_close(snn.ann(*inputs), ann(*inputs), rtol=1e-10, atol=1e-12)
    tp_half = tp.convert(ann, tp.Conversion(potential=tp.rules.HalfThreshold()), example_inputs=inputs)
    assert_converges(tp_half, *inputs, largest_error=0.03, steps=(64, 256))


def test_the_start_is_the_largest_activation_of_the_data():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.Linear(7, 2))
    x = torch.randn(50, 5)
    ann = tp.tailor(model, RateNorm(theta_init=tp.activations.ThetaPercentile(100.0)), calibration=x)
    assert ann.get_submodule("1").maximum.item() == pytest.approx(model[0](x).max().item(), rel=1e-2)
    assert tp.tailor(model, RateNorm()).get_submodule("1").maximum.item() == 1.0


def test_a_step_of_training_moves_the_share():
    torch.manual_seed(0)
    ann = tp.tailor(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU()), RateNorm(weight_init=0.0)).train()
    optimizer = torch.optim.SGD(ann.parameters(), 0.5)
    before = float(ann.get_submodule("1").threshold.detach())
    (-ann(3.0 * torch.ones(16, 4)).sum()).backward()
    optimizer.step()
    assert float(ann.get_submodule("1").weight.detach()) > 0.0
    assert float(ann.get_submodule("1").threshold.detach()) > before


def test_saved_and_loaded(tmp_path: Path):
    torch.manual_seed(3)
    settings = RateNorm(0.2, 1.0, tp.activations.ThetaPercentile(99.0), False)
    x = torch.rand(8, 1, 8, 8)
    ann = tp.tailor(zoo.build("digits-resnet", width=4, blocks=1), settings, calibration=x).train()
    ann(x)
    ann.eval()
    tp.save(ann, tmp_path / "ann.safetensors")
    back = tp.load_ann(tmp_path / "ann.safetensors")
    assert (
        tp.conversion.tailor.tailoring(back).activation
        == tp.describe(tmp_path / "ann.safetensors").activation
        == settings
    )
    assert torch.equal(back(x), ann(x))
    snn = tp.convert(back, example_inputs=x)
    tp.save(snn, tmp_path / "snn.safetensors")
    assert torch.equal(tp.load(tmp_path / "snn.safetensors")(x, steps=4), snn(x, steps=4))
    with pytest.raises(ValueError, match="tailored already"):
        tp.tailor(back, tp.activations.QCFS(4))


def test_printing_shows_the_numbers():
    assert "share=0.5, maximum=1, momentum=0.1" in repr(RateNorm(weight_init=0.0).build())
