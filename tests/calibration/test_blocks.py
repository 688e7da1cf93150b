"""Blocks: cut where one value goes on, and run as the source network or as the layer-after-layer network."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

import transpike as tp
from transpike.calibration import find_blocks, visit_blocks
from transpike.errors import CalibrationError
from transpike.functional import expected_count
from transpike.rules import BlockView, Maximum
from transpike.schedules import AccumulateThenFire
from transpike.testing import TOPOLOGIES, set_dyadic_thresholds
from transpike.zoo import build

STEPS = 4


def blocks_of(snn: tp.SpikingNetwork, data) -> list[BlockView]:
    seen: list[BlockView] = []
    visit_blocks(snn.network, snn.plan, data, STEPS, seen.append)
    return seen


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_blocks_give_what_the_source_and_the_layer_after_layer_network_give(topology):
    inputs = topology.dyadic_inputs(3)
    model = topology.dyadic_model()
    snn = tp.convert(model, tp.Conversion(Maximum()), example_inputs=inputs, calibration=[inputs])
    set_dyadic_thresholds(snn)
    first = snn.site(snn.sites[0].name)
    first.set_bias(first.theta.max() / 4)
    activations, emitted = {}, {}
    hooks = [
        snn.site(site.name).register_forward_hook(lambda _, __, value, n=site.node: activations.update({n: value}))
        for site in snn.sites
    ]
    snn.ann(*inputs)
    for hook in hooks:
        hook.remove()
    nodes = {site.name: site.node for site in snn.sites}

    def observe(name: str, drive: torch.Tensor, events: torch.Tensor) -> None:
        emitted[nodes[name]] = snn.site(name).theta * events.sum(0) / STEPS

    snn(*inputs, steps=STEPS, schedule=AccumulateThenFire(STEPS), observe=observe)
    pooled = bool(snn.plan.pools)  # max-pooling of spikes is not max-pooling of their mean
    *blocks, last = blocks_of(snn, [inputs, tuple(x[:1] for x in inputs)])
    answers = [leaf.flatten(1) for leaf in tree_leaves(snn.ann(*inputs))]
    torch.testing.assert_close(last.target[:3], torch.cat(answers, 1))
    for block in blocks:
        assert len(block.target) == 4
        torch.testing.assert_close(block.target[:3], activations[block.name])
        if not pooled:
            assert torch.equal(block.run(*block.inputs)[:3], emitted[block.name]), block.name


def test_a_residual_network_is_cut_behind_every_block_and_a_plain_one_behind_every_layer():
    for name, expected in (("cifar-resnet20", 11), ("cifar-vgg16-linear", 14)):
        model = build(name).eval()
        x = torch.randn(2, 3, 32, 32)
        snn = tp.convert(model, tp.Conversion(Maximum()), example_inputs=x, calibration=[x])
        assert len(find_blocks(snn.network, snn.plan)) == expected


def test_what_one_block_sets_reaches_the_next():
    topology = next(topology for topology in TOPOLOGIES if "nested" in topology.name)
    inputs = topology.random_inputs(4)
    snn = tp.convert(topology.model(), tp.Conversion(Maximum()), example_inputs=inputs, calibration=[inputs])
    seen: list[BlockView] = []

    def update(block: BlockView) -> None:
        seen.append(block)
        for site in block.sites.values():
            site.set_bias(torch.tensor(-1e6))

    visit_blocks(snn.network, snn.plan, [inputs], STEPS, update)
    assert seen[0].target.abs().sum() > 0
    for block in seen[1:]:
        assert block.end is None or block.end in block.sites.values()
        assert block.inputs[0].abs().sum() == 0
        assert block.source[0].abs().sum() > 0


def test_quantised_sites_by_formula_and_their_gradient():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
    x = torch.linspace(-1, 2, 301).unsqueeze(1)
    snn = tp.convert(model, tp.Conversion(Maximum()), example_inputs=x, calibration=[x])
    site = snn.site(snn.sites[0].name)
    site.set_threshold(torch.tensor(1.0))
    site.set_initial_potential(torch.tensor(0.5))
    site.set_bias(torch.tensor(0.125))
    z = x.clone().requires_grad_(True)
    out = site.quantised(z, STEPS)
    count = expected_count(STEPS * (x + 0.125), 1.0, 0.5, STEPS)
    torch.testing.assert_close(out, count / STEPS)
    out.sum().backward()
    raw = torch.floor(STEPS * (x + 0.125) + 0.5)
    assert len(raw.unique()) > STEPS + 1
    assert torch.equal(z.grad[1:-1], ((raw > 0) & (raw < STEPS)).float()[1:-1])
    theta = site.theta.requires_grad_(True)
    above = site.quantised(torch.full((1, 1), 5.0), STEPS)
    (gradient,) = torch.autograd.grad(above.sum(), theta)
    assert gradient == 1.0  # a clipped output is theta


def test_mistakes_are_named():
    topology = TOPOLOGIES[0]
    inputs = topology.random_inputs(2)
    snn = tp.convert(topology.model(), tp.Conversion(Maximum()), example_inputs=inputs, calibration=[inputs])
    with pytest.raises(CalibrationError, match="empty"):
        blocks_of(snn, [])
    with pytest.raises(CalibrationError, match="refuses the batch"):
        blocks_of(snn, [inputs[0][..., :-1]])


def test_biases_that_differ_from_step_to_step_count_with_their_mean():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.rand(8, 3)
    snn = tp.convert(model, tp.Conversion(Maximum()), example_inputs=x, calibration=[x])
    site = snn.site(snn.sites[0].name)
    site.set_bias(torch.tensor([0.5, -0.25, 0.125]).reshape(3, 1))
    sent: list[torch.Tensor] = []
    snn(x, steps=STEPS, schedule=AccumulateThenFire(STEPS), observe=lambda _, __, events: sent.append(events.sum(0)))
    torch.testing.assert_close(site.quantised(model[0](x), STEPS), site.theta * sent[0] / STEPS)


def test_tied_weights_are_left_alone():
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    second.weight = first.weight
    model = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), torch.nn.Linear(4, 2))
    x = torch.rand(8, 4)
    snn = tp.convert(model, tp.Conversion(Maximum()), example_inputs=x, calibration=[x])
    assert [len(block.layers) for block in blocks_of(snn, [x])] == [0, 0, 1]
