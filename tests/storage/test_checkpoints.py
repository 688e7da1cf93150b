"""The trained networks that come with the repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import Subset

import transpike as tp
from transpike.data import load_data, loader
from transpike.schedules import AccumulateThenFire

ROOT = Path(__file__).parents[2]
# With the rows of the record.
ROWS = {
    "cifar-resnet20-qcfs4": 0,
    "cifar-resnet20-qcfs4-sparse": 1,
    "cifar-resnet20-qcfs4-sparser": 2,
    "cifar-resnet20-qcfs4-sparsest": 3,
}


def spiking(name: str = "cifar-resnet20-qcfs4") -> tuple[torch.nn.Module, tp.SpikingNetwork]:
    ann = tp.load_ann(ROOT / "checkpoints" / f"{name}.safetensors").eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return ann, tp.convert(ann, example_inputs=images)


@pytest.mark.parametrize("name", ROWS)
def test_it_loads_converts_and_runs_event_by_event(name: str) -> None:
    pytest.importorskip("transpike.kernels._native")
    ann, snn = spiking(name)
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert len(snn.sites) == 19
        assert all(stage.events for stage in snn.engine.report().values())
        answer = snn(x, steps=4, schedule=AccumulateThenFire(4))[-1]
        assert torch.equal(answer.argmax(1), ann(x).argmax(1))  # L = 4: exactly the QCFS network


@pytest.mark.data
@pytest.mark.parametrize("name", ROWS)
def test_its_accuracy_is_the_recorded_one(data_root: Path, name: str) -> None:
    """The first 1,000 test images; the record has all 10,000."""
    _, snn = spiking(name)
    data = load_data("cifar10", data_root)
    report = tp.evaluate(snn, loader(Subset(data.test, range(1000))), steps=8)
    record = json.loads((ROOT / "results" / "cifar10-resnet20-qcfs.json").read_text())["rows"]
    record = record[ROWS[name]]["report"]
    assert report.ann_top1 == pytest.approx(record["ann_top1"], abs=2.5)  # 95 % of such samples lie within 2.1 points
    assert report.row(8).top1 == pytest.approx(record["rows"][7]["top1"], abs=2.5)


@pytest.mark.data
def test_the_engine_does_not_change_accuracy(data_root: Path) -> None:
    """Rounded sums fall either way at a threshold: some spikes flip, and no more than a few answers with them."""
    _, snn = spiking()
    data = load_data("cifar10", data_root)
    images = torch.stack([data.test[index][0] for index in range(200)])
    counts: dict[str, torch.Tensor] = {}
    wanted: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        fast = snn(images, steps=4, count=lambda name, n: counts.update({name: n}))
        kernel = tp.kernels.KernelPreference.EAGER
        slow = snn(images, steps=4, kernel=kernel, count=lambda name, n: wanted.update({name: n}))
    spikes = sum(int(n.sum()) for n in wanted.values())
    flipped = sum(int((counts[name] - wanted[name]).abs().sum()) for name in wanted)
    assert flipped / spikes < 1e-3
    assert int((fast[-1].argmax(1) != slow[-1].argmax(1)).sum()) <= 2
