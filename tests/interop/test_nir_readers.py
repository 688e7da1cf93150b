"""Every simulator runs what we export for it, spike for spike as we simulate it.

These tests need the simulators: `make interop` makes an environment with them. Elsewhere they are skipped.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from readers import READERS, read_and_run
from torch import Tensor, nn

import transpike as tp
from transpike.architectures.digits import DigitsResNet
from transpike.architectures.resnet20 import CifarResNet20
from transpike.data import load_data
from transpike.interop import NIR_TARGETS, compare_with_target, nir_samples, simulate_nir, write_nir

nir = pytest.importorskip("nir")

MANY = [name for name in READERS if name != "spyx"]
"""Spyx compiles each graph for about a minute: it runs the small network only."""


def need(target: str) -> None:
    if importlib.util.find_spec(target) is None:
        pytest.skip(f"{target} is not installed (make interop)")


def test_all_checked_targets_have_a_reader() -> None:
    assert set(READERS) == {name for name, row in NIR_TARGETS.items() if row.checked and row.package}


@pytest.fixture(scope="module")
def digits() -> tuple[tp.SpikingNetwork, Tensor, Tensor]:
    """A residual network with shortcuts through convolutions, a little trained; test images and labels."""
    data = load_data("digits")
    torch.manual_seed(0)
    model = tp.tailor(DigitsResNet(width=4, blocks=1), tp.activations.QCFS(4, theta_init=2.0))
    tp.fit(model, data, epochs=4, learning_rate=0.05, device="cpu")
    images = torch.stack([data.test[index][0] for index in range(60)])
    labels = torch.tensor([int(data.test[index][1]) for index in range(60)])
    return tp.convert(model, example_inputs=images[:4]), images, labels


def like_trained(model: nn.Module, shape: tuple[int, ...]) -> tp.SpikingNetwork:
    """A network with random weights, and BatchNorm statistics and thresholds that fit them."""
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(10):
            model(torch.rand(16, *shape))
    x = torch.rand(16, *shape)
    return tp.convert(model.eval(), example_inputs=x[:2], calibration=[x])


def vgg() -> nn.Module:
    """Convolutions with stride, dilation and groups, pooling that pads and overlaps, two linear layers."""
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(3, 2, 1)),
        *(nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10)),
    )


def assert_same(target: str, snn: tp.SpikingNetwork, x: Tensor, steps: int, folder: Path) -> None:
    graph = tp.to_nir(snn, target=target, steps=steps)
    write_nir(graph, folder / "net.nir", nir_samples(graph, x, steps))
    wanted = nir.read_data(folder / "net.samples.nir").nodes
    length = steps + int(graph.metadata["transpike"]["delay"])
    events, output = read_and_run(target, folder / "net.nir", x, length)
    differing = {}
    for name, theirs in events.items():
        ours = wanted[name].observables["spikes"].data.astype(np.float32)
        assert theirs.any()
        differing[name] = int((theirs.transpose(0, 1).flatten(2).numpy() != ours).sum())
    assert not any(differing.values()), differing
    np.testing.assert_allclose(output.transpose(0, 1).numpy(), wanted["output"].observables["current"].data, atol=1e-5)


@pytest.mark.parametrize("target", READERS)
def test_digits(target: str, digits: tuple[tp.SpikingNetwork, Tensor, Tensor], tmp_path: Path) -> None:
    need(target)
    snn, images, _ = digits
    assert_same(target, snn, images[:8], 4, tmp_path)


@pytest.mark.parametrize("target", MANY)
def test_digits_accuracy_is_what_the_export_prints(
    target: str, digits: tuple[tp.SpikingNetwork, Tensor, Tensor], tmp_path: Path
) -> None:
    need(target)
    snn, images, labels = digits
    report = compare_with_target(snn, [(images, labels)], target=target, steps=8)
    write_nir(tp.to_nir(snn, target=target, steps=8), tmp_path / "net.nir")
    _, output = read_and_run(target, tmp_path / "net.nir", images, 8)
    assert report.target_top1 == pytest.approx(100 * (output.mean(0).argmax(1) == labels).float().mean().item())


@pytest.mark.parametrize("target", MANY)
@pytest.mark.parametrize("shortcut", ["pad", "conv"])
def test_cifar_resnet20(target: str, shortcut: str, tmp_path: Path) -> None:
    need(target)
    assert_same(target, like_trained(CifarResNet20(shortcut), (3, 32, 32)), torch.rand(2, 3, 32, 32), 4, tmp_path)


@pytest.mark.parametrize("target", MANY)
def test_cifar_vgg(target: str, tmp_path: Path) -> None:
    need(target)
    assert_same(target, like_trained(vgg(), (3, 32, 32)), torch.rand(2, 3, 32, 32), 6, tmp_path)


@pytest.mark.parametrize("target", READERS)
def test_linear_layers(target: str, tmp_path: Path) -> None:
    need(target)
    model = nn.Sequential(nn.Linear(12, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
    assert_same(target, like_trained(model, (12,)), torch.rand(5, 12), 6, tmp_path)


def test_snntorch_does_not_read_if_by_itself(digits: tuple[tp.SpikingNetwork, Tensor, Tensor]) -> None:
    """What the table says of its reader; when this fails, the note and the way to read it can go."""
    need("snntorch")
    from snntorch.import_nir import import_from_nir

    snn, images, _ = digits
    model = import_from_nir(tp.to_nir(snn, target="snntorch", steps=4, source=False))
    with pytest.raises(TypeError, match="tuple"):
        model(images[:1])


def test_the_executor_of_sinabs_drops_a_branch(digits: tuple[tp.SpikingNetwork, Tensor, Tensor]) -> None:
    """Why graphs for it are chains: in a graph with a second branch its answer is another one."""
    need("sinabs")
    from sinabs.nir import from_nir

    snn, images, _ = digits
    graph = tp.to_nir(snn, target="spikingjelly", source=False)  # no chain
    graph.nodes = {name: node for name, node in graph.nodes.items() if not isinstance(node, nir.AvgPool2d)}
    joins = [target for _, target in graph.edges]
    join = next(target for target in joins if joins.count(target) == 2)
    sources = [source for source, target in graph.edges if target == join]
    x = images[:2]
    kept = {join, *sources}
    while True:
        before = {source for source, target in graph.edges if target in kept}
        if before <= kept:
            break
        kept |= before
    nodes = {name: graph.nodes[name] for name in graph.nodes if name in kept}
    shape = graph.nodes[join].output_type["output"]
    nodes["output"] = nir.Output({"output": shape})
    edges = [edge for edge in graph.edges if set(edge) <= kept] + [(join, "output")]
    cut = nir.NIRGraph(nodes, edges)
    ours = simulate_nir(cut, x, 1, NIR_TARGETS["sinabs"].rule).output[0]
    theirs = from_nir(cut, batch_size=2)(x)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    assert not torch.equal(ours, theirs)
