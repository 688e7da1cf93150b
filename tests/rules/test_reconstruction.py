"""Block reconstruction: the loss falls block by block, what does not help is taken back, the source is left alone."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch.utils._pytree import tree_leaves

import transpike as tp
from transpike.rules import BlockReconstruction, HalfThreshold, Maximum, PerChannel
from transpike.schedules import AccumulateThenFire, Plain
from transpike.testing import TOPOLOGIES

RULES = [Maximum(PerChannel()), HalfThreshold()]
RESIDUAL = next(topology for topology in TOPOLOGIES if topology.name == "pad_and_slice")


def convert(topology, parts, inputs, schedule=None):
    conversion = tp.Conversion.of(*parts, schedule=schedule)
    return tp.convert(topology.model(), conversion, example_inputs=inputs, calibration=[inputs])


class Watched(BlockReconstruction):
    """Keeps the loss of every block before and after."""

    def update(self, block):
        before = self._loss(block)
        super().update(block)
        losses.append((before, self._loss(block)))


losses: list[tuple[float, float]] = []


@pytest.fixture(autouse=True)
def fresh():
    losses.clear()


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_block_makes_up_for_the_levels_before_and_inside_it(steps):
    inputs = RESIDUAL.random_inputs(64)
    convert(RESIDUAL, [*RULES, Watched(steps, iterations=100)], inputs, AccumulateThenFire(steps))
    (first, _), *others = losses
    assert first == 0  # its input is exact, and its only site is not quantised in the loss
    assert len(others) == 2
    assert all(0 < after < 0.95 * before for before, after in others)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_every_block_gets_better_or_stays(topology):
    inputs = topology.random_inputs(16)
    parts = [*RULES, Watched(2, iterations=10, batch_size=8)]
    convert(topology, parts, inputs, AccumulateThenFire(2))
    assert losses
    assert all(after <= before for before, after in losses)


def test_what_does_not_help_is_taken_back_to_the_bit():
    inputs = RESIDUAL.random_inputs(16)
    before = convert(RESIDUAL, RULES, inputs)
    after = convert(
        RESIDUAL, [*RULES, BlockReconstruction(2, iterations=3, weight_rate=1e4)], inputs, AccumulateThenFire(2)
    )
    for name, value in before.state_dict().items():
        assert torch.equal(after.state_dict()[name], value), name


def test_the_model_is_not_changed_and_gradients_are_off_again():
    model = RESIDUAL.model()
    old = copy.deepcopy(model.state_dict())
    inputs = RESIDUAL.random_inputs(16)
    conversion = tp.Conversion.of(*RULES, BlockReconstruction(2, iterations=5), schedule=AccumulateThenFire(2))
    snn = tp.convert(model, conversion, example_inputs=inputs, calibration=[inputs])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in old.items())
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    for site in snn.sites:
        module = snn.site(site.name)
        torch.testing.assert_close(module.v_init, module.theta / 2)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_where_all_layers_step_together_blocks_see_the_mean_of_the_spikes_that_come(topology):
    inputs = topology.random_inputs(6)
    halves = [tuple(x[:4] for x in inputs), tuple(x[4:] for x in inputs)]
    seen: dict[str, torch.Tensor] = {}

    class Look(BlockReconstruction):
        def update(self, block):
            order.append((block.name, block.inputs[0]))
            for site in block.sites.values():
                site.set_threshold(site.theta / 2)

    order: list[tuple[str, torch.Tensor]] = []
    snn = tp.convert(
        topology.model(),
        tp.Conversion.of(*RULES, Look(4)),
        example_inputs=inputs,
        calibration=halves,
    )
    assert snn.schedule == Plain()
    nodes = {site.name: site.node for site in snn.sites}

    def observe(site, _, events):
        seen[nodes[site]] = snn.site(site).theta * events.mean(0)

    snn(*inputs, steps=4, observe=observe)
    for (name, _), (_, received) in itertools.pairwise(order):
        torch.testing.assert_close(received, seen[name])


def test_trained_weights_bring_the_layers_that_step_together_nearer_to_the_source():
    inputs = RESIDUAL.random_inputs(64)
    source = RESIDUAL.model()(*inputs).detach()

    def error(*parts) -> float:
        return float((convert(RESIDUAL, [*RULES, *parts], inputs)(*inputs, steps=4)[-1] - source).square().mean())

    assert error(BlockReconstruction(4, iterations=100, mixing=0.0)) < 0.9 * error()


def test_the_same_seed_gives_the_same_network():
    inputs = RESIDUAL.random_inputs(16)
    parts, schedule = [*RULES, BlockReconstruction(2, iterations=5)], AccumulateThenFire(2)
    first, second = (convert(RESIDUAL, parts, inputs, schedule) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_it_comes_last_and_its_settings_are_checked():
    inputs = RESIDUAL.random_inputs(4)
    with pytest.raises(ValueError, match="must come last"):
        convert(RESIDUAL, [*RULES, BlockReconstruction(2), BlockReconstruction(2)], inputs)
    for wrong in (
        {"iterations": 0},
        {"mixing": 1.5},
        {"weight_rate": -1.0},
        {"batch_size": 0},
    ):
        with pytest.raises(ValueError, match="must"):
            BlockReconstruction(4, **wrong)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_without_weights_the_source_stays_what_it_was(topology, whole):
    """Thresholds and the sites' own biases only; other parts may follow."""
    inputs = topology.random_inputs(16)
    settings = {"iterations": 10, "batch_size": 8, "weight_rate": 0.0, "threshold_rate": 1e-2, "whole": whole}
    plain = convert(topology, RULES, inputs)
    parts = [*RULES, Watched(2, **settings), tp.rules.BiasCorrection(2)]
    snn = convert(topology, parts, inputs, AccumulateThenFire(2))
    assert all(after <= before for before, after in losses)
    assert len(losses) == 1 or not whole
    own = {f"{site.name}.{name}" for site in snn.sites for name in ("theta", "v_init", "bias")}
    values = snn.network.state_dict()
    assert all(torch.equal(values[name], old) for name, old in plain.network.state_dict().items() if name not in own)
    for found, wanted in zip(tree_leaves(snn.ann(*inputs)), tree_leaves(plain.ann(*inputs)), strict=True):
        assert torch.equal(found, wanted)


def test_the_whole_network_at_once_comes_nearer_to_the_answer():
    inputs = RESIDUAL.random_inputs(64)
    source = RESIDUAL.model()(*inputs).detach()
    settings = {"iterations": 100, "weight_rate": 0.0, "threshold_rate": 1e-2, "whole": True}

    def error(*parts) -> float:
        snn = convert(RESIDUAL, [*RULES, *parts], inputs, AccumulateThenFire(4))
        return float((snn(*inputs, steps=4)[-1] - source).square().mean())

    assert error(BlockReconstruction(4, **settings)) < 0.9 * error(tp.rules.BiasCorrection(4))


def test_neurons_that_send_more_than_one_spike_are_refused():
    with pytest.raises(ValueError, match="counts spikes of 0 and 1"):
        tp.Conversion.of(*RULES, BlockReconstruction(2), neuron=tp.neurons.SignedIF())
