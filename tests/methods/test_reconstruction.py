"""Block reconstruction: the loss falls block by block, what does not help is taken back, the source is left alone."""

from __future__ import annotations

import copy

import pytest
import torch

import transpike as tp
from transpike.methods import BlockReconstruction, HalfThreshold, Maximum, PerChannel
from transpike.schedules import AccumulateThenFire
from transpike.testing import TOPOLOGIES

RULES = [Maximum(PerChannel()), HalfThreshold()]
RESIDUAL = next(topology for topology in TOPOLOGIES if topology.name == "pad_and_slice")


def convert(topology, parts, inputs):
    return tp.convert(topology.model(), parts, example_inputs=inputs, calibration=[inputs], leave=topology.leave)


def error(snn, inputs, steps) -> float:
    with torch.no_grad():
        wanted = tp.convert(RESIDUAL.model(), RULES, example_inputs=inputs, calibration=[inputs]).ann(*inputs)
        return float((snn(*inputs, steps=steps, schedule=AccumulateThenFire(steps))[-1] - wanted).square().mean())


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_answer_comes_closer_to_the_source(steps):
    inputs = RESIDUAL.random_inputs(64)
    before = convert(RESIDUAL, RULES, inputs)
    after = convert(RESIDUAL, [*RULES, BlockReconstruction(steps, iterations=60, weight_rate=1e-2)], inputs)
    assert error(after, inputs, steps) < 0.9 * error(before, inputs, steps)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_every_block_gets_better_or_stays(topology):
    losses: list[tuple[float, float]] = []

    class Watched(BlockReconstruction):
        def update(self, block):
            before = self._loss(block)
            super().update(block)
            losses.append((before, self._loss(block)))

    inputs = topology.random_inputs(16)
    convert(topology, [*RULES, Watched(2, iterations=10, batch_size=8)], inputs)
    assert all(after <= before for before, after in losses)


def test_what_does_not_help_is_taken_back_to_the_bit():
    inputs = RESIDUAL.random_inputs(16)
    before = convert(RESIDUAL, RULES, inputs)
    after = convert(RESIDUAL, [*RULES, BlockReconstruction(2, iterations=3, weight_rate=1e4)], inputs)
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name


def test_the_model_is_not_changed_and_gradients_are_off_again():
    model = RESIDUAL.model()
    old = copy.deepcopy(model.state_dict())
    inputs = RESIDUAL.random_inputs(16)
    parts = [*RULES, BlockReconstruction(2, iterations=5)]
    snn = tp.convert(model, parts, example_inputs=inputs, calibration=[inputs])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in old.items())
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    for site in snn.sites:
        module = snn.site(site.name)
        torch.testing.assert_close(module.v_init, module.theta / 2)


def test_the_same_seed_gives_the_same_network():
    inputs = RESIDUAL.random_inputs(16)
    first, second = (convert(RESIDUAL, [*RULES, BlockReconstruction(2, iterations=5)], inputs) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_it_comes_last_and_its_settings_are_checked():
    inputs = RESIDUAL.random_inputs(4)
    with pytest.raises(ValueError, match="must come last"):
        convert(RESIDUAL, [*RULES, BlockReconstruction(2), BlockReconstruction(2)], inputs)
    for wrong in ({"iterations": 0}, {"mixing": 1.5}, {"weight_rate": -1.0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="must"):
            BlockReconstruction(4, **wrong)
