"""Real data: a ResNet-20 that somebody else trained, on CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Subset

import transpike as tp
from transpike import zoo
from transpike.data import fixed_test_indices, load_data, loader, random_subset
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Residual

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def model(pretrained: Path) -> torch.nn.Module:
    network = zoo.build("cifar-resnet20")
    zoo.load_weights(network, pretrained / "resnet20_cifar10_relu.th")
    return network


def test_accuracy_of_the_source(model: torch.nn.Module, data_root: Path) -> None:
    data = load_data("cifar10", data_root)
    with torch.no_grad():
        hits = sum(int((model.eval()(x).argmax(1) == y).sum()) for x, y in loader(data.test, 500))
    assert hits == 9173  # the published accuracy of these weights, 91.73 %


def test_direct_conversion(model: torch.nn.Module, data_root: Path) -> None:
    """99.9 percentile per channel over 512 training images, v(0) = theta/2, on the fixed 2,000 test images."""
    data = load_data("cifar10", data_root)
    calibration = list(loader(random_subset(data.calibration, 512)))
    snn = tp.convert(
        model,
        tp.Conversion(tp.rules.Percentile(99.9, tp.PerChannel()), tp.rules.HalfThreshold()),
        calibration=calibration,
        example_inputs=calibration[0][0][:8],
    )
    snn.verify(calibration[1][0][:8], ann=model.eval())
    report = tp.evaluate(snn, loader(Subset(data.test, fixed_test_indices("cifar10"))), steps=32)
    assert report.images == 2000
    assert 91.0 < report.ann_top1 < 93.5
    assert report.row(1).top1 < 25
    assert report.row(32).top1 >= 88
    found: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, _: Site, args: tuple[torch.Tensor, ...]) -> torch.Tensor:
        value = args[0].clamp_min(0.0)
        found.setdefault(name, []).append(value.transpose(0, 1).flatten(1))
        return value

    with torch.no_grad():
        for images, _ in calibration:
            NodeVisitor(snn.network, on_site=keep).run(images)
    for name, parts in found.items():
        theta = snn.site(name).theta.flatten().double()
        exact = torch.from_numpy(np.percentile(torch.cat(parts, 1).double().numpy(), 99.9, axis=1))
        torch.testing.assert_close(theta, torch.where(exact > 0, exact, theta), rtol=2**-9, atol=0)
        snn.site(name).set_threshold(torch.where(exact > 0, exact, theta))
        snn.site(name).set_initial_potential(snn.site(name).theta / 2)
    exactly = tp.evaluate(snn, loader(Subset(data.test, fixed_test_indices("cifar10"))), steps=16)
    assert abs(exactly.row(16).top1 - report.row(16).top1) < 1
    assert exactly.row(16).top1 > 75


@pytest.fixture(scope="module")
def qcfs(qcfs_resnet20: torch.nn.Module, data_root: Path) -> tuple[SpikingNetwork, torch.nn.Module, list]:
    """The ResNet-20 that was fine-tuned with QCFS, L = 4, converted; and the first 1,000 of the fixed test images."""
    ann = qcfs_resnet20
    data = load_data("cifar10", data_root)
    batches = list(loader(Subset(data.test, fixed_test_indices("cifar10")[:1000])))
    return tp.convert(ann, example_inputs=batches[0][0][:8]), ann, batches


def test_accumulate_then_fire_is_the_qcfs_network_on_every_image(qcfs) -> None:
    snn, ann, batches = qcfs
    ties = 0
    with torch.no_grad():
        for images, _ in batches:
            answer = snn(images, steps=4, schedule=AccumulateThenFire(4))[-1]
            ties += int((answer.argmax(1) != ann(images).argmax(1)).sum())
    assert ties <= 5  # float rounding at a step of the staircase


def test_schedules_on_trained_weights(qcfs) -> None:
    """The order that the papers and ours claim, at T = 1 and T = 4, by margins far above the noise of 1,000 images."""
    snn, _, batches = qcfs
    plain, residual, cos, accumulate = (
        tp.evaluate(snn, batches, steps=4, schedule=schedule)
        for schedule in (Plain(), Residual(4), OffsetSpike(4), AccumulateThenFire(4))
    )
    ann = plain.ann_top1
    assert plain.row(1).top1 < ann - 30
    assert residual.row(1).top1 > plain.row(1).top1 + 20
    assert cos.row(1).top1 > residual.row(1).top1
    assert cos.row(4).top1 > plain.row(4).top1 + 10
    assert accumulate.row(1).top1 > ann - 1.5
    assert accumulate.row(4).top1 == pytest.approx(ann, abs=0.3)
    assert cos.row(1).latency.pipeline_steps == 77
