"""The event-driven engine beside the ANN, dense simulation and SpikingJelly: ratios from one run, behind a gate.

    python benchmarks/engine.py snn.safetensors [--data FOLDER] [--batches 1,16,100] [--steps 1,4,8]

SpikingJelly runs where it is installed, in its best CPU mode: all steps at once, time folded into the batch, the first
convolution computed once, BatchNorm folded; the same weights, thresholds and initial potentials.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

import transpike as tp
from transpike.bench import Contender, bench
from transpike.card import card_of
from transpike.config import write_json
from transpike.data import load_data
from transpike.graph.site import Site
from transpike.report.bench import bench_table


def spikingjelly(snn: tp.SpikingNetwork) -> Contender:
    """The same network with SpikingJelly's neurons."""
    from spikingjelly.activation_based import base, functional, neuron

    base.check_backend_library = lambda *_: None

    class Population(nn.Module):
        def __init__(self, site: Site, first: bool) -> None:
            super().__init__()
            self.node = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
            self.first, self.steps = first, 1
            self.theta, self.start = site.theta.detach(), (site.v_init / site.theta).detach()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.unsqueeze(0).expand(self.steps, *x.shape) if self.first else x.unflatten(0, (self.steps, -1))
            self.node.v = self.start.expand(x.shape[1:]).clone()
            return (self.node(x / self.theta) * self.theta).flatten(0, 1)

    network = copy.deepcopy(snn.network)
    populations = []
    for plan in snn.sites:
        parent, _, leaf = plan.name.rpartition(".")
        population = Population(snn.site(plan.name), plan.constant_drive)
        setattr(network.get_submodule(parent), leaf, population)
        populations.append(population)

    def run(x: torch.Tensor, steps: int) -> torch.Tensor:
        for population in populations:
            population.steps = steps
        functional.reset_net(network)
        sums = network(x).unflatten(0, (steps, -1)).cumsum(0)
        return sums / torch.arange(1, steps + 1).view(-1, 1, 1)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a converted network of images")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batches", default="1,16,100")
    parser.add_argument("--steps", default="1,4,8")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    snn = tp.load(options.file)
    assert isinstance(snn, tp.SpikingNetwork), "convert the network first"
    inputs = card_of(snn.network).inputs
    assert inputs is not None
    batches = [int(part) for part in options.batches.split(",")]
    data = load_data(inputs.dataset, options.data, like=inputs)
    images = torch.stack([data.test[index][0] for index in range(max(batches))])
    others: dict[str, Contender] = {}
    try:
        others["SpikingJelly"] = spikingjelly(snn)
    except ImportError as error:
        print(f"SpikingJelly is not installed ({error})")
    with torch.no_grad():
        for name, other in others.items():
            ours, theirs = snn(images[:16], steps=8), other(images[:16], 8)
            same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
            assert same > 0.97, f"{name} gives other answers ({same:.1%} the same), no time is reported"
    steps = [int(part) for part in options.steps.split(",")]
    report = bench(snn, images, batches=batches, steps=steps, repeats=options.repeats, others=others)
    Console(highlight=False, width=120).print(bench_table(report))
    if options.output is not None:
        write_json(options.output, report.to_json())


if __name__ == "__main__":
    main()
