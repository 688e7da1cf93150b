"""Real data: a ResNet-20 that somebody else trained, on CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import Subset

import transpike as tp
from transpike import zoo
from transpike.data import fixed_test_indices, load_data, loader, random_subset

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
        [tp.Percentile(99.9, tp.PerChannel()), tp.HalfThreshold()],
        calibration=calibration,
        example_inputs=calibration[0][0][:8],
    )
    snn.verify(calibration[1][0][:8], ann=model.eval())
    report = tp.evaluate(snn, loader(Subset(data.test, fixed_test_indices("cifar10"))), steps=32)
    assert report.images == 2000
    assert 91.0 < report.ann_top1 < 93.5
    assert report.row(1).top1 < 25
    assert report.row(16).top1 >= 75
    assert report.row(32).top1 >= 88
