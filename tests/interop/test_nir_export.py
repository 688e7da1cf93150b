"""NIR graphs of converted networks: what stands in them, what they do, and the way back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.errors import CheckpointError, ConfigError, ExportError, MissingExtraError, ModelError
from transpike.interop import NIR_TARGETS, NirTarget, compare_with_target, nir_samples, simulate_nir, write_nir
from transpike.interop.targets import FiringRule, Start, Topology
from transpike.neurons import IF, Burst
from transpike.neurons.integrate_fire import Reset
from transpike.rules import Conversion
from transpike.schedules import AccumulateThenFire
from transpike.testing import TOPOLOGIES

nir = pytest.importorskip("nir")

STEPS = 5
EXPORTED = [
    *("mlp", "conv", "conv_batchnorm", "shared_relu", "functional_relu", "in_place", "depthwise_relu6", "hardtanh"),
    *("clamp", "pad_and_slice", "grouped_dilated", "adaptive_average_pool", "dropout", "nested_sequential"),
    *("block_twice", "functional_batchnorm"),
]
REFUSED = {
    "pre_activation_cat": "NIR has no node for it",
    "two_inputs_two_outputs": "it takes 2 inputs",
    "conv1d": "NIR has no node for it",
    "max_pool_after_relu": "max-pooling in time needs a memory of its own",
    "view_with_input_size": "a change of shape that is not a flattening",
    "mean_over_space": "a mean over other dimensions than rows and columns",
    "two_heads": "it is no single tensor",
    "softmax_readout": "NIR has no node for it",
}
BY_NAME = {topology.name: topology for topology in TOPOLOGIES}


def converted(name: str, start: float = 0.5) -> tuple[tp.SpikingNetwork, Tensor]:
    """A network with all numbers on a dyadic grid, so that every sum is exact in float32; v(0) = start * theta."""
    topology = BY_NAME[name]
    x = topology.dyadic_inputs(3)
    snn = tp.convert(topology.dyadic_model(), example_inputs=x, calibration=[x if len(x) > 1 else x[0]])
    for planned in snn.sites:
        site = snn.site(planned.name)
        site.set_threshold(torch.exp2(site.theta.log2().round()))
        site.set_initial_potential(start * site.theta)
    return snn, x[0]


def events_of(snn: tp.SpikingNetwork, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    events: dict[str, Tensor] = {}
    answers = snn(x, steps=STEPS, observe=lambda site, _, sent: events.__setitem__(site, (sent != 0).float()))
    return events, answers


def by_site(graph: Any, events: dict[str, Tensor]) -> dict[str, Tensor]:
    """A run's events by our names of sites."""
    found = {}
    for node, parts in json.loads(graph.metadata["transpike"]["sites"]).items():
        found |= {site: events[node][:, :, first:last] for site, (first, last) in parts.items()}
    return found


def assert_same_events(graph: Any, snn: tp.SpikingNetwork, x: Tensor, rule: FiringRule) -> None:
    ours, answers = events_of(snn, x)
    run = simulate_nir(graph, x, STEPS, rule)
    theirs = by_site(graph, run.events)
    assert set(theirs) == set(ours)
    assert next(iter(ours.values())).any()
    for site, events in ours.items():
        assert torch.equal(theirs[site].flatten(2), events.flatten(2)), site
    assert torch.equal(run.answer(), answers.flatten(2))


@pytest.mark.parametrize("name", EXPORTED)
def test_the_plain_graph_gives_our_events(name: str) -> None:
    snn, x = converted(name)
    assert_same_events(tp.to_nir(snn), snn, x, NIR_TARGETS["plain"].rule)


@pytest.mark.parametrize("name", EXPORTED)
def test_the_way_back_is_exact(name: str, tmp_path: Path) -> None:
    topology = BY_NAME[name]
    x = topology.random_inputs(3)[0]
    snn = tp.convert(topology.model(), example_inputs=x, calibration=[x])
    for target in ("plain", "sinabs"):
        graph = tp.to_nir(snn, target=target, steps=STEPS)
        write_nir(graph, tmp_path / "net.nir")
        for back in (tp.from_nir(graph), tp.from_nir(tmp_path / "net.nir"), tp.from_nir(str(tmp_path / "net.nir"))):
            ours, answers = events_of(snn, x)
            theirs, again = events_of(back, x)
            assert torch.equal(again, answers)
            assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("flatten", [True, False])
@pytest.mark.parametrize("one_threshold", [True, False])
def test_chains_and_folding_change_no_event(
    name: str, flatten: bool, one_threshold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = NirTarget(
        "here",
        "",
        start=Start.BIAS,
        topology=Topology.CHAIN,
        dilated=False,
        flatten=flatten,
        one_threshold=one_threshold,
    )
    monkeypatch.setattr("transpike.interop.nir_graph.NIR_TARGETS", {"here": row})
    snn, x = converted(name, start=0.0)
    graph = tp.to_nir(snn, target="here", steps=STEPS)
    names = list(graph.nodes)
    assert names == sorted(names)
    assert graph.edges == list(itertools.pairwise(names))
    kinds = {type(node).__name__ for node in graph.nodes.values()}
    assert flatten or "Flatten" not in kinds
    if one_threshold:
        thresholds = [node.v_threshold for node in graph.nodes.values() if isinstance(node, nir.IF)]
        assert all((theta == 1).all() for theta in thresholds)
    assert_same_events(graph, snn, x, row.rule)


def test_hard_reset_counts_from_v0() -> None:
    """Norse and SpikingJelly give what our IF would give that returns to v(0)."""
    snn, x = converted("mlp")
    for target in ("norse", "spikingjelly"):
        run = simulate_nir(tp.to_nir(snn, target=target), x, STEPS, NIR_TARGETS["spikingjelly"].rule)
        drive: dict[str, Tensor] = {}
        snn(x, steps=STEPS, observe=lambda site, current, _, drive=drive: drive.__setitem__(site, current))
        first = snn.sites[0].name
        theta = snn.site(first).theta
        v = theta / 2 * torch.ones_like(drive[first][0])
        for t, current in enumerate(drive[first]):
            u = v + current
            assert torch.equal(next(iter(run.events.values()))[t], (u >= theta).float())
            v = torch.where(u >= theta, theta / 2, u)


def test_what_stands_in_the_graph() -> None:
    """One neuron per layer, all by hand: theta 2, v(0) = 1; w = 3, b = 0.5; then w = 5."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(3)
        model[0].bias.fill_(0.5)
        model[2].weight.fill_(5)
    x = torch.ones(1, 1)
    snn = tp.convert(model, example_inputs=x, calibration=[x])
    snn.site("1").set_threshold(torch.tensor(2.0))
    snn.site("1").set_initial_potential(torch.tensor(1.0))
    graph = tp.to_nir(snn)
    weights = [node.weight.item() for node in graph.nodes.values() if isinstance(node, nir.Affine)]
    assert weights == [3, 1, 10]  # the second input brings v(0); spikes are worth theta
    (neuron,) = [node for node in graph.nodes.values() if isinstance(node, nir.IF)]
    assert (neuron.v_threshold.item(), neuron.r.item()) == (2, 1)
    graph = tp.to_nir(snn, target="spinnaker2")
    assert [node.weight.item() for node in graph.nodes.values() if isinstance(node, nir.Affine)] == [1.5, 0.5, 10]
    graph = tp.to_nir(snn, target="sinabs", steps=4)
    affine = next(node for node in graph.nodes.values() if isinstance(node, nir.Affine))
    assert (affine.weight.item(), affine.bias.item()) == (3, 0.75)  # b + v(0) / T
    graph = tp.to_nir(snn, target="spikingjelly")  # theta - v(0) = 1
    assert [node.weight.item() for node in graph.nodes.values() if isinstance(node, nir.Affine)] == [3, 10]


def test_pooling_is_a_sum_and_a_factor() -> None:
    snn, _ = converted("conv")
    for target, kind in (("sinabs", nir.SumPool2d), ("spikingjelly", nir.AvgPool2d)):
        graph = tp.to_nir(snn, target=target, steps=4)
        assert sum(isinstance(node, kind) for node in graph.nodes.values()) == 1
    last = [node for node in tp.to_nir(snn).nodes.values() if isinstance(node, nir.Affine)][-1]
    theta = snn.site(snn.sites[-1].name).theta.expand(4, 1, 1).reshape(4, 1)
    source = snn.network.get_submodule(str([n for n in snn.network.graph.nodes if n.op == "call_module"][-1].target))
    wanted = source.weight.view(5, 4, 16) * theta / 4
    assert np.array_equal(last.weight.reshape(5, 4, 16), wanted.numpy())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_named(name: str) -> None:
    topology = BY_NAME[name]
    x = topology.dyadic_inputs(2)
    snn = tp.convert(topology.dyadic_model(), example_inputs=x, calibration=[x if len(x) > 1 else x[0]])
    with pytest.raises(ExportError, match="nothing is written") as refused:
        tp.to_nir(snn)
    assert REFUSED[name] in str(refused.value)
    assert "fix:" in str(refused.value)


def test_all_reasons_come_at_once() -> None:
    topology = BY_NAME["max_pool_on_spikes"]
    x = topology.dyadic_inputs(2)[0]
    conversion = Conversion(neuron=Burst(), schedule=AccumulateThenFire())
    snn = tp.convert(topology.dyadic_model(), conversion, example_inputs=x, calibration=[x])
    site = snn.sites[0]
    snn.site(site.name).set_initial_potential(torch.rand(site.shape))
    last = snn.site(snn.sites[-1].name)
    last.set_bias(torch.rand(2, *last.population))
    with pytest.raises(ExportError) as refused:
        tp.to_nir(snn, target="sinabs", steps=4)
    reasons = " ".join(found.reason for found in refused.value.unsupported)
    for part in ("looks ahead", "spikes are 0 and 1", "differs from step to step", "differ within a channel", "memory"):
        assert part in reasons, part
    assert "cannot be exported to sinabs" in str(refused.value)


def test_a_chain_that_is_none_is_refused() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Linear(32, 3)
            self.far = nn.Conv2d(2, 2, 5, padding=2)

        def forward(self, x: Tensor) -> Tensor:
            a = torch.relu(self.a(x))
            return self.c(torch.relu(self.far(a) + self.b(torch.relu(self.b(a)))).flatten(1))

    x = torch.rand(2, 1, 4, 4)
    snn = tp.convert(Wide(), example_inputs=x, calibration=[x])
    tp.to_nir(snn, target="spikingjelly")
    with pytest.raises(ExportError, match="look at different windows"):
        tp.to_nir(snn, target="spyx", steps=4)


def test_wrong_words_and_missing_steps() -> None:
    snn, _ = converted("mlp")
    with pytest.raises(ConfigError, match="did you mean sinabs"):
        tp.to_nir(snn, target="sinaps")
    with pytest.raises(ValueError, match="give steps=T"):
        tp.to_nir(snn, target="sinabs")
    with pytest.raises(ModelError, match="not converted"):
        tp.to_nir(nn.Linear(1, 1))  # type: ignore[arg-type]


def test_without_nir_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, _ = converted("mlp")
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(MissingExtraError, match=r'pip install "transpike\[nir\]"'):
        tp.to_nir(snn)


def test_graphs_of_others() -> None:
    """Thresholds of 2 and 0.5, hand-made; the drive of 1.25 gives 2 of 4 spikes, theirs of weight 1 all 4."""
    graph = nir.NIRGraph.from_list(
        nir.Affine(weight=np.float32([[1.0]]), bias=np.float32([0.25])),
        nir.IF(r=np.ones(1, np.float32), v_threshold=np.full(1, 2, np.float32)),
        nir.Linear(weight=np.float32([[1.0]])),
        nir.IF(r=np.full(1, 2, np.float32), v_threshold=np.full(1, 1, np.float32)),
    )
    snn = tp.from_nir(graph)
    answers = snn(torch.ones(1, 1), steps=4)
    # u = 1.25, 2.5 -> spike, 0.5 + 1.25, 3 -> spike; each of weight 1 lifts the next by 1 above its threshold 0.5
    assert answers.flatten().tolist() == [0, 0.5, pytest.approx(2 / 3), 0.75]
    assert torch.equal(answers, simulate_nir(graph, torch.ones(1, 1), 4, FiringRule()).answer())


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "no.nir").write_text("nothing")
    with pytest.raises(CheckpointError, match="no NIR graph"):
        tp.from_nir(tmp_path / "no.nir")
    graph = nir.NIRGraph.from_list(nir.Linear(weight=np.ones((1, 1))), nir.Delay(np.ones(1)))
    with pytest.raises(ConfigError, match="no Delay"):
        tp.from_nir(graph)
    graph.metadata = {"transpike": {"format": 99}}
    with pytest.raises(CheckpointError, match="format 99"):
        tp.from_nir(graph)
    graph.metadata = {"transpike": {"format": 1, "layers": '[{"name": 1}]', "arrays": {}}}
    with pytest.raises(CheckpointError, match="cannot become a spiking network"):
        tp.from_nir(graph)
    snn, _ = converted("mlp")
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        tp.from_nir(tp.to_nir(snn, source=False))


def test_samples_hold_the_events(tmp_path: Path) -> None:
    snn, x = converted("shared_relu")
    graph = tp.to_nir(snn)
    write_nir(graph, tmp_path / "net.nir", nir_samples(graph, x, STEPS))
    data = nir.read_data(tmp_path / "net.samples.nir")
    ours, answers = events_of(snn, x)
    sites = json.loads(graph.metadata["transpike"]["sites"])
    for node, parts in sites.items():
        spikes = data.nodes[node].observables["spikes"].data
        assert spikes.dtype == np.bool_
        assert np.array_equal(spikes, ours[next(iter(parts))].transpose(0, 1).flatten(2).numpy() != 0)
    assert np.array_equal(data.nodes["input"].observables["current"].data[:, 2], x.flatten(1).numpy())
    start = data.nodes["input_start"].observables["current"].data
    assert start[:, 0].all()
    assert not start[:, 1:].any()
    output = data.nodes["output"].observables["current"].data
    assert np.array_equal(output.sum(1) / STEPS, answers[-1].numpy())
    assert not list(tmp_path.glob(".*"))


def test_a_target_beside_the_network() -> None:
    snn, x = converted("conv")
    labels = snn(x, steps=STEPS)[-1].argmax(1)
    same = compare_with_target(snn, [(x, labels)], target="plain", steps=STEPS)
    assert (same.top1, same.target_top1, same.same_answers, same.same_events) == (100, 100, 100, 100)
    assert same.spikes == same.target_spikes == sum(float(each.sum()) for each in events_of(snn, x)[0].values()) / 3
    assert same.delay == 0
    late = compare_with_target(snn, [x], target="spyx", steps=STEPS)
    assert late.delay == len(snn.sites)
    assert late.top1 is None
    assert late.same_events < 100
    assert late.to_json()["target"] == "spyx"


def test_a_late_target_is_compared_with_its_own_steps() -> None:
    """A late, but else equal neuron without biases and v(0) gives our events, each layer one step later."""
    snn, x = converted("conv", start=0.0)
    for module in snn.network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    row = NirTarget("late", "", FiringRule(late=True), topology=Topology.CHAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transpike.interop.nir_graph.NIR_TARGETS", {"late": row})
        report = compare_with_target(snn, [x], target="late", steps=STEPS)
    assert (report.same_events, report.same_answers, report.delay) == (100, 100, 2)


def test_a_batchnorm_behind_neurons_comes_back() -> None:
    """It cannot go into the layer in front of it, and becomes a layer of its own; values by hand below."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, 5)),
    )
    for value in (model[2].running_mean, model[2].running_var, model[2].weight.data, model[2].bias.data):
        value.uniform_(0.3, 0.9)
    x = torch.rand(4, 1, 8, 8)
    snn = tp.convert(model.eval(), example_inputs=x, calibration=[x])
    graph = tp.to_nir(snn)
    back = tp.from_nir(graph)
    assert torch.equal(back(x, steps=6), snn(x, steps=6))
    norm, theta = model[2], snn.site("1").theta.flatten()
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    node = next(n for n in graph.nodes.values() if isinstance(n, nir.Conv2d) and n.weight.shape == (3, 3, 1, 1))
    np.testing.assert_allclose(node.weight[:, :, 0, 0].diagonal(), (theta * scale).detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(node.bias, (norm.bias - norm.running_mean * scale).detach().numpy(), rtol=1e-5)


def test_hard_reset_of_ours_is_remembered() -> None:
    topology = BY_NAME["mlp"]
    x = topology.random_inputs(2)[0]
    snn = tp.convert(topology.model(), Conversion(neuron=IF(reset=Reset.HARD)), example_inputs=x, calibration=[x])
    back = tp.from_nir(tp.to_nir(snn))
    assert back.neuron == IF(reset=Reset.HARD)
    assert torch.equal(back(x, steps=6), snn(x, steps=6))
