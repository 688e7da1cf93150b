"""The event-driven engine beside its ANN, dense simulation, SpikingJelly and int8: ratios from one run, behind a gate.

    python benchmarks/engine.py snn.safetensors [--data FOLDER] [--batches 1,16,100] [--steps 1,4,8] [--output FILE]

SpikingJelly runs where it is installed, in its best CPU mode: all steps at once, time folded into the batch, the first
convolution computed once, BatchNorm folded; the same weights, thresholds and initial potentials. ONNX Runtime runs
where it is installed (pip install -e '.[bench]'), in float32 and in int8 (quantised.py). Accuracies are those on the
first images of the test set; nothing is chosen by them.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

import transpike as tp
from transpike.bench import Baseline, bench
from transpike.cli.words import schedule_for
from transpike.data import load_data, random_subset
from transpike.graph.site import Site
from transpike.report.bench import bench_table
from transpike.serialization.json_records import write_json
from transpike.serialization.model_info import model_info

Call = Callable[[Tensor], Tensor]


def spikingjelly(snn: tp.SpikingNetwork) -> Baseline:
    """The same network with SpikingJelly's neurons."""
    from spikingjelly.activation_based import base, functional, neuron

    base.check_backend_library = lambda *_: None

    class Population(nn.Module):
        def __init__(self, site: Site, first: bool) -> None:
            super().__init__()
            self.node = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")
            self.first, self.steps = first, 1
            self.theta, self.start = site.theta.detach(), (site.v_init / site.theta).detach()

        def forward(self, x: Tensor) -> Tensor:
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

    def run(x: Tensor, steps: int) -> Tensor:
        for population in populations:
            population.steps = steps
        functional.reset_net(network)
        sums = network(x).unflatten(0, (steps, -1)).cumsum(0)
        return sums / torch.arange(1, steps + 1, device=sums.device).view(-1, 1, 1)

    return run


def accuracies(calls: dict[str, Call], images: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 in % of functions from images to answers."""
    right = dict.fromkeys(calls, 0)
    with torch.no_grad():
        for x, y in zip(torch.split(images, 50), torch.split(labels, 50), strict=True):
            for name, call in calls.items():
                right[name] += int((call(x).argmax(-1) == y).sum())
    return {name: 100 * count / len(labels) for name, count in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="a converted network of images")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batches", default="1,16,100")
    parser.add_argument("--steps", default="1,4,8")
    parser.add_argument("--schedule", help="plain, residual, cos, exact or accumulate (default: the network's own)")
    parser.add_argument("--probe-steps", type=int, help="rho of the schedule (default: 4)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, default=1000, help="test images for accuracies")
    parser.add_argument("--calibration", type=int, default=300, help="training images that int8 is calibrated with")
    parser.add_argument("--compile", action="store_true", help="also time the ANN under torch.compile")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    snn = tp.load(options.file)
    assert isinstance(snn, tp.SpikingNetwork), "convert the network first"
    schedule = schedule_for(snn, options.schedule, options.probe_steps)
    inputs = model_info(snn.network).inputs
    assert inputs is not None
    batches, steps = ([int(part) for part in text.split(",")] for text in (options.batches, options.steps))
    data = load_data(inputs.dataset, options.data, like=inputs)
    pairs = [data.test[index] for index in range(max(options.images, *batches))]
    images, labels = torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])
    others: dict[str, Baseline] = {}
    try:
        others["SpikingJelly"] = spikingjelly(snn)
    except ImportError as error:
        print(f"SpikingJelly is not installed ({error})")
    with torch.no_grad():
        for name, other in others.items():
            ours, theirs = snn(images[:16], steps=8), other(images[:16], 8)
            same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
            assert same > 0.97, f"{name} gives other answers ({same:.1%} the same), no time is reported"
    references: dict[str, Call] = {}
    answers: dict[str, Call] = {"ANN": snn.ann}
    try:
        from quantised import quantise

        training = random_subset(data.calibration, options.calibration)
        found = quantise(snn, torch.stack([image for image, _ in training]))
        references = {"ANN, ONNX Runtime": found.single, "ANN, ONNX Runtime int8": found.integer}
        with torch.no_grad():
            wanted = found.clipped(images[:200])
            torch.testing.assert_close(found.single(images[:200]), wanted, rtol=1e-3, atol=1e-3)
            same = (found.integer(images[:200]).argmax(-1) == wanted.argmax(-1)).float().mean()
        assert same > 0.9, f"int8 gives other answers ({same:.1%} the same), no time is reported"
        answers |= {"ANN with clipped ReLU": found.clipped, "ANN with clipped ReLU, int8": found.integer}
    except ImportError as error:
        print(f"ONNX Runtime is not installed ({error})")
    report = bench(
        snn,
        images,
        batches=batches,
        steps=steps,
        schedule=schedule,
        repeats=options.repeats,
        compile_ann=options.compile,
        others=others,
        references=references,
    )
    console = Console(highlight=False, width=120)
    console.print(bench_table(report))
    for t in steps:
        answers[f"events, T={t}"] = lambda x, t=t: snn(x, steps=t, schedule=schedule)[-1]
    top1 = accuracies(answers, images[: options.images], labels[: options.images])
    console.print(f"top-1 in % on {options.images} test images: {', '.join(f'{n} {v:.2f}' for n, v in top1.items())}")
    if options.output is not None:
        write_json(options.output, {**report.to_json(), "accuracy": {"images": options.images, "top1": top1}})


if __name__ == "__main__":
    main()
