"""SlipReLU that learns c and N: values against eq. 8, gradients against float64 derivations, and what it comes to."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import transpike as tp
from transpike.activations import LearnedSlipActivation, LearnedSlipReLU
from transpike.data import Data
from transpike.serialization.model_info import InputSpec
from transpike.training import fit

Z = np.linspace(-0.7, 2.9, 73)


def eq8(z: np.ndarray, theta: float, levels: int, slope: float, shift: float = 0.5) -> np.ndarray:
    x = z / theta
    stair = np.clip(np.floor(levels * x + shift) / levels, 0, 1)
    return theta * (slope * np.clip(x, 0, 1) + (1 - slope) * stair)


def built(levels: list[float], slope: float, theta: float = 2.0, **settings: object) -> LearnedSlipActivation:
    """One activation for T = 4 alone with these weights of N = 1, 2, 4, 8."""
    module = LearnedSlipReLU(**{"steps": (4,), **settings}).build().double()  # type: ignore[arg-type]
    module.level_logits.data = torch.tensor([levels], dtype=torch.float64)
    module.slope_logits.data = torch.tensor([math.log(slope / (1 - slope))], dtype=torch.float64)
    module.theta.data.fill_(theta)
    return module


@pytest.mark.parametrize(("logits", "levels"), [([3, 1, 0, 2], 1), ([0, 1, 0, 0.9], 2), ([0, 0, 0, 1], 8)])
def test_the_value_is_eq_8_with_the_likeliest_levels(logits: list[float], levels: int) -> None:
    module = built(logits, 0.25).eval()
    assert module.learned == {4: (levels, pytest.approx(0.25))}
    found = module(torch.from_numpy(Z)).detach().numpy()
    np.testing.assert_allclose(found, eq8(Z, 2.0, levels, 0.25), rtol=0, atol=1e-14)


def test_the_gradients_are_those_of_the_straight_through_choice() -> None:
    logits, slope, theta = [0.1, 0.7, -0.2, 0.4], 0.3, 2.0
    module = built(logits, slope, theta, objective_penalty=0.0).eval()
    z = torch.from_numpy(Z).requires_grad_()
    weights = torch.from_numpy(np.cos(np.arange(len(Z))))  # what comes back from later layers
    module(z).backward(weights)
    w, x = weights.numpy(), Z / theta
    chances = np.exp(logits) / np.exp(logits).sum()
    stairs = [np.clip(np.floor(n * x + 0.5) / n, 0, 1) for n in (1, 2, 4, 8)]
    ramp = np.clip(x, 0, 1)
    by_chance = np.array([theta * (1 - slope) * (w * stair).sum() for stair in stairs])
    by_logits = chances * (by_chance - (chances * by_chance).sum())
    assert module.level_logits.grad is not None
    assert module.slope_logits.grad is not None
    np.testing.assert_allclose(module.level_logits.grad[0].numpy(), by_logits, atol=1e-12)
    by_slope = theta * slope * (1 - slope) * (w * (ramp - stairs[1])).sum()
    np.testing.assert_allclose(module.slope_logits.grad.item(), by_slope, atol=1e-12)
    inside = (x >= 0) & (x <= 1)
    near = np.abs(np.floor(2 * x + 0.5) - 1) <= 1  # the staircase of N = 2 before clipping lies in [0, 1]
    derivative = slope * inside + (1 - slope) * near
    assert z.grad is not None
    assert module.theta.grad is not None
    np.testing.assert_allclose(z.grad.numpy(), w * derivative, atol=1e-12)
    by_theta = (w * (slope * ramp + (1 - slope) * stairs[1] - x * derivative)).sum()
    np.testing.assert_allclose(module.theta.grad.item(), by_theta, atol=1e-12)


def test_the_objective_is_eq_5_at_the_steps_of_the_batch() -> None:
    module = LearnedSlipReLU(steps=(1, 3), objective_weight=0.25, objective_penalty=2.0).build().double()
    module.theta.data.fill_(2.0)
    z = torch.from_numpy(Z).reshape(1, -1).requires_grad_()
    for steps in (1, 3):
        module.steps = steps
        module(z)
        levels, slope = module.learned[steps]
        own = eq8(Z, 2.0, levels, slope)
        sent = 2.0 / steps * np.clip(np.floor((steps * Z + 1.0) / 2.0), 0, steps)
        wanted = 2.0 * (0.25 * np.abs(np.maximum(Z, 0) - own).mean() + 0.75 * np.abs(own - sent).mean()) / 2.0
        assert module.objective is not None
        np.testing.assert_allclose(module.objective.item(), wanted, rtol=1e-6)
        (by_input,) = torch.autograd.grad(module.objective, z, allow_unused=True)
        assert by_input is None


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_objective_alone_comes_to_the_staircase_of_the_spiking_network(steps: int) -> None:
    module = LearnedSlipReLU(steps=(steps,), objective_weight=0.0, theta_init=1.0).build()
    module.theta.requires_grad_(False)
    module.level_logits.data.zero_()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    torch.manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        module(1.2 * torch.rand(16, 100) - 0.1)
        assert module.objective is not None
        module.objective.backward()
        optimizer.step()
    levels, slope = module.learned[steps]
    assert levels == steps
    assert slope < 0.05


def test_the_objective_alone_comes_to_the_ramp_where_only_the_ann_counts() -> None:
    module = LearnedSlipReLU(steps=(2,), objective_weight=1.0, theta_init=1.0).build()
    module.theta.requires_grad_(False)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9)
    torch.manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        module(torch.rand(16, 100))
        assert module.objective is not None
        module.objective.backward()
        optimizer.step()
    assert module.learned[2][1] > 0.95


@pytest.mark.parametrize(
    "wrong", [{"steps": ()}, {"steps": (0, 2)}, {"candidates": (1.5,)}, {"slope_init": 1.0}, {"objective_weight": 1.5}]
)
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LearnedSlipReLU(**wrong)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))


def blobs() -> Data:
    torch.manual_seed(1)
    labels = torch.arange(96) % 3
    samples = TensorDataset(torch.eye(4)[labels] + 0.3 * torch.randn(96, 4), labels)
    return Data(InputSpec((4,), (), (), ("a", "b", "c")), samples, samples, samples, samples)


def test_training_learns_both_and_conversion_takes_theta(tmp_path: Path) -> None:
    model = tp.tailor(network(), LearnedSlipReLU(steps=(1, 2), theta_init=1.0), example_inputs=torch.ones(2, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = fit(model, blobs(), epochs=30, learning_rate=0.05, batch_size=16)
    assert history[-1].validation_accuracy > 90
    for name, value in model.state_dict().items():
        if "logits" in name:  # both T had their turn, so every row has moved
            moved = (value - before[name]).abs().reshape(2, -1).amax(1)
            assert bool((moved > 1e-4).all()), name
    copied = copy.deepcopy(model)
    snn = tp.convert(model, example_inputs=torch.ones(2, 4))
    trained = [module for module in copied.modules() if isinstance(module, LearnedSlipActivation)]
    for planned, activation in zip(snn.sites, trained, strict=True):
        site = snn.site(planned.name)
        assert site.theta.item() == activation.threshold.item()
        assert site.v_init.item() == 0.5 * site.theta.item()
    images = torch.stack([blobs().test[i][0] for i in range(96)])
    labels = torch.arange(96) % 3
    assert (snn(images, steps=1)[-1].argmax(1) == labels).float().mean() > 0.9
    tp.save(snn, tmp_path / "snn.safetensors")
    again = tp.load(tmp_path / "snn.safetensors", model=network())
    assert torch.equal(again(images, steps=2), snn(images, steps=2))


def test_a_loop_of_ones_own() -> None:
    """As the guide says; the network converts right behind a batch in training mode."""
    model = tp.tailor(network(), LearnedSlipReLU(steps=(1, 2), theta_init=1.0), example_inputs=torch.ones(2, 4))
    activations = [module for module in model.modules() if isinstance(module, LearnedSlipActivation)]
    model.train()
    for index, steps in enumerate((1, 2, 1)):
        for activation in activations:
            activation.begin_batch(index)
            assert activation.steps == steps
        loss = model(torch.rand(8, 4)).square().mean() + sum(a.objective for a in activations)
        loss.backward()
    assert all(activation.level_logits.grad is not None for activation in activations)
    snn = tp.convert(model.eval(), example_inputs=torch.ones(2, 4))
    assert snn(torch.rand(3, 4), steps=2).shape == (2, 3, 3)
