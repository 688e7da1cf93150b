"""What one of several processes does for test_processes.py: evaluates and trains, and writes what came of it."""

from __future__ import annotations

import copy
import json
import os
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import transpike as tp
from transpike.data import Data
from transpike.errors import InputError
from transpike.runtime.encoding import Coding
from transpike.schedules import OffsetSpike


class FrozenNorm(nn.BatchNorm2d):
    """Always in evaluation mode."""

    def train(self, mode: bool = True) -> FrozenNorm:
        return super().train(False)


def model(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), norm(4), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)),
    )
    return made.double()


def data(count: int) -> Data:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % 3
    images = torch.rand(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    part = TensorDataset(images + 0.3 * labels.view(-1, 1, 1, 1), labels)
    return Data(tp.InputSpec((1, 4, 4), dataset="blobs"), part, part, part, part)


def evaluations(folder: Path, shared: bool) -> dict[str, Any]:
    ann = tp.tailor(model(), tp.activations.QCFS(4, theta_init=1.0)).eval()
    test = data(26).test
    snn = tp.convert(ann, example_inputs=test.tensors[0][:2])
    seen: list[float] = []
    batches = DataLoader(test, 4)
    own = snn.ann

    def ann_of(images: torch.Tensor) -> torch.Tensor:
        seen.extend(images[:, 0, 0, 0].tolist())
        return own(images)

    snn.ann = ann_of
    reports = {"plain": tp.evaluate(snn, batches, steps=3)}
    once = list(seen)
    reports["two passes"] = tp.evaluate(snn, batches, steps=4, schedule=OffsetSpike(2), at=(1, 4))
    reports["poisson"] = tp.evaluate(snn, batches, steps=3, coding=Coding.POISSON)
    reports["fewer batches than processes"] = tp.evaluate(snn, list(batches)[:1], steps=2)
    cache = folder.parent / f"cache-{shared}.json"
    tp.evaluate(snn, batches, steps=3, cache=cache)
    seen.clear()
    reports["cached"] = tp.evaluate(snn, batches, steps=3, cache=cache)
    assert not seen, "a finished evaluation was run again"
    refused = ""
    if shared:
        try:
            tp.evaluate(snn, DataLoader(test, 4, sampler=DistributedSampler(test)), steps=1)
        except InputError as error:
            refused = str(error)
    return {"reports": {name: found.to_json() for name, found in reports.items()}, "seen": once, "refused": refused}


def trained(network: nn.Module, fit: Any) -> dict[str, Any]:
    start = copy.deepcopy(network.state_dict())
    history = fit(network)
    state = network.state_dict()
    moved = max(float((state[name] - value).abs().max()) for name, value in start.items() if value.is_floating_point())
    weights = {name: value.flatten().tolist() for name, value in state.items() if value.is_floating_point()}
    return {"weights": weights, "history": [astuple(epoch) for epoch in history], "moved": moved}


def main(folder: Path) -> None:
    shared = "RANK" in os.environ
    if shared:
        distributed.init_process_group("gloo")
    found: dict[str, Any] = evaluations(folder, shared)
    how: dict[str, Any] = {"epochs": 2, "batch_size": 4, "device": "cpu", "precision": "64-true"}
    for name, count in (("fit", 15), ("fit, a process without a sample", 13)):
        found[name] = trained(model(FrozenNorm), lambda net, count=count: tp.fit(net, data(count), **how))
    for name, parts in (("fit_snn", None), ("fit_snn, parts", 2)):
        ann = tp.tailor(model(), tp.activations.QCFS(4, theta_init=1.0)).eval()
        snn = tp.convert(ann, example_inputs=data(4).test.tensors[0])
        found[name] = trained(
            snn,
            lambda net, parts=parts: tp.fit_snn(net, data(15), steps=2, micro_batch=parts, spike_penalty=0.5, **how),
        )
    snn = tp.convert(model().eval(), calibration=[data(4).test.tensors[0]], example_inputs=data(4).test.tensors[0])
    found["tdbn"] = trained(snn, lambda net: tp.fit_snn(net, data(15), steps=2, batch_norm="tdbn", **how))
    (folder / "found.json").write_text(json.dumps(found))
    if shared:
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
