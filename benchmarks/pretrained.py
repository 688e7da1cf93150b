"""Pretrained CIFAR-10 ResNet-20, converted without retraining: transpike and SpikingJelly side by side in one run.

    TRANSPIKE_PRETRAINED=FOLDER python benchmarks/pretrained.py [--data FOLDER] [--images N|fixed|all] [--output FILE]

Both start from ``resnet20_cifar10_relu.th`` in that folder and see the same unlabelled training images. SpikingJelly's
rows are its two training-free recipes for ReLU networks, with its own neurons and its own way of running them: one step
at a time, outputs summed. Its percentile row has a row of ours beside it with the same method: both must nearly agree.
Every finished row lies in a file of its own under --cache, so an interrupted run goes on there; these files know the
settings and the versions, not the code: remove the folder after changing a method.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

import transpike as tp
from transpike import zoo
from transpike.data import load_data, loader, random_subset
from transpike.experiments.recipe import test_images
from transpike.rules import Part
from transpike.schedules import AccumulateThenFire, Plain, Schedule
from transpike.serialization.json_records import write_json

Batches = Sequence[tuple[Tensor, Tensor]]
WEIGHTS = "resnet20_cifar10_relu.th"
MOST_CALIBRATION_IMAGES = 512


def calibrations(steps: int) -> dict[str, tuple[Part, ...]]:
    """What follows the thresholds where all layers step together, by label: one row each."""
    return {"bias": (tp.rules.BiasCorrection(steps),)}


ITERATIONS = 800
"""Steps of Adam per block in the rows that train weights."""

PROBE_STEPS = (4, 8)
"""rho of the rows that run layer after layer."""

ANSWER_STEPS = 4
"""T for which the last layer's thresholds are chosen in the rows that train thresholds and biases."""


VIEWS = 4
"""Randomly shifted and mirrored copies of every calibration image where weights are trained.

Elsewhere they are left out: on held-back training images, bias correction at rho = 8 did worse with them (97.15 % at
T = 4) than without (97.95 %).
"""


def augmented(calibration: Batches) -> list[tuple[Tensor, Tensor]]:
    """The images and `VIEWS` random views of each, made as training makes them, with edges mirrored; seed 0."""
    generator = torch.Generator().manual_seed(0)
    found = list(calibration)
    for images, labels in [*calibration] * VIEWS:
        padded = nn.functional.pad(images, (4, 4, 4, 4), mode="reflect")
        places = torch.randint(9, (len(images), 2), generator=generator).tolist()
        cut = [padded[n, :, y : y + 32, x : x + 32] for n, (y, x) in enumerate(places)]
        mirrored = (torch.rand(len(images), generator=generator) < 0.5).tolist()
        views = [view.flip(-1) if flip else view for view, flip in zip(cut, mirrored, strict=True)]
        found.append((torch.stack(views), labels))
    return found


@dataclass(frozen=True)
class Found:
    """Numbers by T: top-1 in %, steps from the first input to the answer on a device that steps all layers at once,
    and spikes per image where they are counted; and the seconds that converting and running took."""

    top1: dict[str, float]
    pipeline_steps: dict[str, int]
    events: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Job:
    """A part of a row: one conversion, measured at some T. The settings say all that tells it from other jobs."""

    label: str
    settings: str
    steps: tuple[int, ...]
    measure: Callable[[], Found]


def ours(
    ann: nn.Module, parts: Sequence[Part], schedule: Schedule, steps: tuple[int, ...], calibration: Batches, test: Any
) -> Found:
    """Converts once and measures at every T."""
    began = time.perf_counter()
    snn = tp.convert(
        ann,
        tp.Conversion.of(*parts),
        calibration=[x for x, _ in calibration],
        example_inputs=calibration[0][0][:4],
        progress=True,
    )
    report = tp.evaluate(snn, loader(test), steps=steps[-1], schedule=schedule, at=steps, progress=True)
    rows = {str(t): report.row(t) for t in steps}
    return Found(
        top1={t: row.top1 for t, row in rows.items()},
        pipeline_steps={t: row.latency.pipeline_steps for t, row in rows.items()},
        events={t: row.events for t, row in rows.items()},
        seconds=time.perf_counter() - began,
    )


def as_convolution(shortcut: Any) -> nn.Module:
    """A shortcut that takes every second pixel and pads channels with zeros, as the 1x1 convolution that it is."""
    if isinstance(shortcut, nn.Sequential):  # the identity
        return shortcut
    channels, side = shortcut.channels, shortcut.channels // 4
    convolution = nn.Conv2d(channels // 2, channels, 1, stride=2, bias=False)
    nn.init.zeros_(convolution.weight)
    for channel in range(channels // 2):
        convolution.weight.data[side + channel, channel] = 1.0
    return convolution


class BlockOfModules(nn.Module):
    def __init__(self, source: Any) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = source.conv1, source.bn1, nn.ReLU()
        self.conv2, self.bn2, self.relu2 = source.conv2, source.bn2, nn.ReLU()
        self.shortcut = as_convolution(source.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


def of_modules(ann: zoo.CifarResNet20, x: Tensor) -> nn.Module:
    """The same network in modules only: SpikingJelly's recipes know neither ``F.relu`` nor ``F.pad``."""
    ann = copy.deepcopy(ann)
    blocks = [BlockOfModules(block) for stage in (ann.layer1, ann.layer2, ann.layer3) for block in stage]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), ann.linear)
    network = nn.Sequential(ann.conv1, ann.bn1, nn.ReLU(), *blocks, *head).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(x), ann(x))
    return network


def theirs(
    ann: zoo.CifarResNet20,
    recipe: Callable[[], Any],
    steps: tuple[int, ...],
    calibration: Batches,
    test: Any,
) -> Found:
    """Converts with SpikingJelly and sums its outputs step by step; one run gives all T."""
    from spikingjelly.activation_based import ann2snn, functional, neuron

    began = time.perf_counter()
    network = of_modules(ann, calibration[0][0][:4])
    relus = sum(isinstance(module, nn.ReLU) for module in network.modules())
    snn = ann2snn.Converter(recipe=recipe(), device="cpu").convert(network)
    populations = sum(isinstance(module, neuron.BaseNode) for module in snn.modules())
    assert populations == relus > 0, f"{populations} populations in place of {relus} ReLUs"
    right = dict.fromkeys(steps, 0)
    with torch.no_grad():
        for x, y in track(loader(test), "evaluating", transient=True):
            functional.reset_net(snn)
            total = torch.zeros(())
            for t in range(1, steps[-1] + 1):
                total = total + snn(x)
                if t in right:
                    right[t] += int((total.argmax(-1) == y).sum())
    return Found(
        top1={str(t): 100 * count / len(test) for t, count in right.items()},
        pipeline_steps={str(t): t for t in steps},
        events={},
        seconds=time.perf_counter() - began,
    )


LTB_PASSES = 20
"""How often local threshold balancing sees the calibration images. It moves the thresholds up from zero once per batch,
and one pass leaves it near chance; on held-back training images 20 passes beat 1 and 8 from T = 8 on."""

SPIKINGJELLY: dict[str, Callable[[Any, Batches], Any]] = {
    "percentile 99.9 per channel, half threshold": lambda ann2snn, data: ann2snn.RateCodingRecipe(
        data, mode="99.9%", channel_wise=True, half_threshold=True
    ),
    f"local threshold balancing, {LTB_PASSES} passes": lambda ann2snn, data: ann2snn.LocalThresholdBalancingRecipe(
        [*data] * LTB_PASSES
    ),
}


def jobs(ann: zoo.CifarResNet20, steps: tuple[int, ...], calibration: Batches, test: Any) -> list[Job]:
    """Everything to measure, in the order of the table."""
    found: list[Job] = []
    try:
        from spikingjelly.activation_based import ann2snn

        release = version("spikingjelly")
        for label, make in SPIKINGJELLY.items():
            run = partial(theirs, ann, partial(make, ann2snn, calibration), steps, calibration, test)
            found.append(Job(f"SpikingJelly {release}: {label}", f"{release}: {label}", steps, run))
    except ImportError as error:
        print(f"SpikingJelly's recipes cannot be imported ({error}), their rows are left out")

    seen = augmented(calibration)

    def add(label: str, parts: tuple[Part, ...], schedule: Schedule, at: tuple[int, ...]) -> None:
        trains = any(isinstance(part, tp.rules.BlockReconstruction) and part.weight_rate for part in parts)
        run = partial(ours, ann, parts, schedule, at, seen if trains else calibration, test)
        settings = repr((parts, schedule)) + (f", {VIEWS} views of each image" if trains else "")
        found.append(Job(f"transpike, {label}", settings, at, run))

    half, per_channel = tp.rules.HalfThreshold(), tp.PerChannel()
    control = (tp.rules.Percentile(99.9, per_channel), half)
    add("together: percentile 99.9 per channel, half threshold", control, Plain(), steps)
    for label in calibrations(1):
        for t in steps:
            parts = (tp.rules.MinimumMSE(t, per_channel), half, *calibrations(t)[label])
            add(f"together: minimum MSE, {label}", parts, Plain(), (t,))
    for rho in PROBE_STEPS:
        schedule = AccumulateThenFire(rho)
        parts = (tp.rules.MinimumMSE(rho, per_channel), half, tp.rules.BiasCorrection(rho, schedule))
        add(f"layer after layer: minimum MSE, bias, rho = {rho}", parts, schedule, steps)
        at_once = tp.rules.BlockReconstruction(rho, weight_rate=0.0, threshold_rate=1e-3, whole=True)
        still = (*parts, at_once, tp.rules.AnswerThresholds(ANSWER_STEPS, schedule))
        add(f"layer after layer: the same, thresholds and biases trained, rho = {rho}", still, schedule, steps)
        trained = tp.rules.BlockReconstruction(rho, iterations=ITERATIONS)
        add(f"layer after layer: the same, weights trained too, rho = {rho}", (*parts, trained), schedule, steps)
    return found


def measured(job: Job, run: Mapping[str, Any], folder: Path) -> Found:
    """The result of a job: from its file if that holds just this, else measured and written."""
    key = {"run": run, "label": job.label, "settings": job.settings, "steps": list(job.steps)}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    file = folder / f"{name}.json"
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["key"] == key:
            return Found(**record["found"])
    found = job.measure()
    write_json(file, {"key": key, "found": asdict(found)})
    return found


def merged(results: Sequence[tuple[Job, Found]]) -> list[dict[str, Any]]:
    """One record per label, with what all its jobs found."""
    rows: dict[str, dict[str, Any]] = {}
    for job, found in results:
        fresh = {"label": job.label, "settings": {}, "top1": {}, "pipeline_steps": {}, "events": {}, "seconds": 0.0}
        row = rows.setdefault(job.label, fresh)
        row["settings"] |= dict.fromkeys(found.top1, job.settings)
        for field in ("top1", "pipeline_steps", "events"):
            row[field] |= getattr(found, field)
        row["seconds"] += found.seconds
    return list(rows.values())


def table(rows: Sequence[Mapping[str, Any]], steps: tuple[int, ...], title: str) -> Table:
    """Accuracy and, in brackets, pipeline steps at each T."""
    found = Table(title=title, box=box.SIMPLE, title_justify="left")
    found.add_column("conversion", overflow="fold")
    for t in steps:
        found.add_column(f"T={t}", justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row['top1'][str(t)]:.2f} [{row['pipeline_steps'][str(t)]}]" for t in steps]
        found.add_row(*(escape(cell) for cell in (row["label"], *cells)))
    return found


def accuracy(ann: nn.Module, test: Any) -> float:
    """Top-1 of the source network in %."""
    with torch.no_grad():
        return 100 * sum(int((ann(x).argmax(-1) == y).sum()) for x, y in loader(test)) / len(test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", default="fixed", help="test images: how many, 'fixed' (2,000) or 'all'")
    parser.add_argument("--calibration", type=int, default=512, help="unlabelled training images, at most 512")
    parser.add_argument("--steps", default="1,2,4,8,16,32")
    parser.add_argument("--rows", default="", help="only rows whose label contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of calibration images")
    parser.add_argument("--cache", type=Path, default=Path("runs/pretrained"), help="folder for finished rows")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    folder = os.environ.get(zoo.WEIGHTS_VARIABLE)
    if not folder:
        parser.error(f"set {zoo.WEIGHTS_VARIABLE} to the folder that holds {WEIGHTS}")
    if not 1 <= options.calibration <= MOST_CALIBRATION_IMAGES:
        parser.error(f"--calibration must lie in 1 .. {MOST_CALIBRATION_IMAGES}")
    steps = tuple(sorted({int(part) for part in options.steps.split(",")}))
    weights = Path(folder) / WEIGHTS
    ann = zoo.CifarResNet20().eval()
    zoo.load_weights(ann, weights)
    data = load_data("cifar10", options.data, seed=options.seed)
    calibration = list(loader(random_subset(data.calibration, options.calibration, options.seed)))
    test = test_images(data, options.images)
    run = {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "images": options.images,
        "calibration_images": options.calibration,
        "seed": options.seed,
        "versions": {"transpike": tp.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    console = Console(highlight=False, width=140)
    results = []
    todo = [job for job in jobs(ann, steps, calibration, test) if options.rows in job.label]
    for index, job in enumerate(todo, start=1):
        console.print(f"{index}/{len(todo)} {escape(job.label)}, T = {', '.join(map(str, job.steps))}")
        results.append((job, measured(job, run, options.cache)))
    rows, top1 = merged(results), accuracy(ann, test)
    title = f"top-1 in %, {len(test):,} test images, ANN {top1:.2f}, {options.calibration} unlabelled "
    title += "training images; in brackets the steps from first input to answer when all layers step at once"
    console.print(table(rows, steps, title))
    if options.output is not None:
        write_json(options.output, {**run, "test_images": len(test), "ann_top1": top1, "rows": rows})


if __name__ == "__main__":
    main()
