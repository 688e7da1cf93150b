"""SpikingJelly's two training-free recipes for ReLU networks, on the pretrained CIFAR-10 ResNet-20.

    TRANSPIKE_PRETRAINED=FOLDER python benchmarks/spikingjelly_recipes.py [--images N|fixed|all] [--output FILE]

Weights, unlabelled training images and test images are those of ``transpike run cifar10-resnet20-pretrained``, whose
row of the same percentile method is the control: both must nearly agree. SpikingJelly runs as its examples do: one step
at a time, outputs summed. A finished row is read from --cache, which knows the data, the settings and the versions.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from spikingjelly.activation_based import ann2snn, functional, neuron
from torch import Tensor, nn

from transpike import zoo
from transpike.data import load_data, loader, random_subset, test_images
from transpike.experiments.recipe import find_recipe
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.digest import digest, digest_batches
from transpike.serialization.environment import environment
from transpike.serialization.json_records import write_json

Batches = Sequence[tuple[Tensor, Tensor]]

LTB_PASSES = 20
"""How often local threshold balancing sees the calibration images. It moves the thresholds up from zero once per batch,
and one pass leaves it near chance; on held-back training images 20 passes beat 1 and 8 from T = 8 on."""

RECIPES: dict[str, Callable[[Batches], Any]] = {
    "percentile 99.9 per channel, half threshold": lambda data: ann2snn.RateCodingRecipe(
        data, mode="99.9%", channel_wise=True, half_threshold=True
    ),
    f"local threshold balancing, {LTB_PASSES} passes": lambda data: ann2snn.LocalThresholdBalancingRecipe(
        [*data] * LTB_PASSES
    ),
}


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


def measure(network: nn.Module, recipe: Any, steps: Sequence[int], test: Any) -> dict[str, float]:
    """Top-1 accuracy in % by T; one run gives all T."""
    relus = sum(isinstance(module, nn.ReLU) for module in network.modules())
    snn = ann2snn.Converter(recipe=recipe, device="cpu").convert(network)
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
    return {str(t): 100 * count / len(test) for t, count in right.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", default="fixed", help="test images: how many, 'fixed' (2,000) or 'all'")
    parser.add_argument("--steps", default="1,2,4,8,16,32")
    parser.add_argument("--cache", type=Path, default=Path("runs/spikingjelly"), help="folder for finished rows")
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    plan = find_recipe("cifar10-resnet20-pretrained")
    folder = os.environ.get(zoo.WEIGHTS_VARIABLE)
    if not folder or plan.weights is None:
        parser.error(f"set {zoo.WEIGHTS_VARIABLE} to the folder that holds {plan.weights}")
    steps = sorted({int(part) for part in options.steps.split(",")})
    ann = zoo.CifarResNet20().eval()
    zoo.load_weights(ann, Path(folder) / plan.weights)
    data = load_data(plan.data, options.data, seed=plan.seed)
    calibration = list(loader(random_subset(data.calibration, plan.calibration_images, plan.seed)))
    test = test_images(data, options.images)
    release = version("spikingjelly")
    seen, tested = digest_batches(calibration), digest_batches(loader(test))
    rows = []
    for label, make in RECIPES.items():
        key = digest("spikingjelly", release, label, steps, ann, seen, tested)
        file = options.cache / f"{key[:16]}.json"
        row = read_cache(file, key)
        if row is None:
            print(label)
            here = asdict(environment())
            top1 = measure(of_modules(ann, calibration[0][0][:4]), make(calibration), steps, test)
            row = {"label": f"SpikingJelly {release}: {label}", "top1": top1, "environment": here, "digest": key}
            write_cache(file, key, row)
        print(row["label"], ", ".join(f"T={t}: {value:.2f}" for t, value in row["top1"].items()))
        rows.append(row)
    if options.output is not None:
        counts = {"test_images": len(test), "calibration_images": plan.calibration_images, "seed": plan.seed}
        write_json(options.output, {**counts, "images": options.images, "rows": rows})


if __name__ == "__main__":
    main()
