"""Writes docs/models.md: which torchvision and timm networks convert, and how fast they converge. Run: make models."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import timm
import torch
import torchvision.models as tv
from torch import nn

import transpike as tp
from transpike.errors import TraceError
from transpike.evaluation.offsets import site_errors

warnings.filterwarnings("ignore")
SIZE = {"vgg16": 32, "vgg16_bn": 32, "vit_b_16": 224}
MODELS = (
    *("resnet18", "resnet34", "resnet50", "vgg16", "vgg16_bn", "squeezenet1_0", "mobilenet_v2", "densenet121"),
    *("googlenet", "shufflenet_v2_x1_0", "mnasnet1_0", "regnet_x_400mf"),
    *("timm:resnet18", "timm:dla34", "timm:repvgg_a0", "timm:mobilenetv2_100"),
    *("efficientnet_b0", "convnext_tiny", "vit_b_16", "timm:vgg11_bn"),
)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), pretrained=False).eval()
    settings = {"init_weights": False} if name == "googlenet" else {}
    return getattr(tv, name)(weights=None, **settings).eval()


def row(name: str) -> str:
    size = SIZE.get(name, 64)
    model = build(name)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, size, size, generator=generator)
    begin = time.perf_counter()
    try:
        found = tp.inspect(model, images[:2])
    except TraceError as error:
        return f"| {name} | {size} | - | - | refused: {error.where} | | | |"
    took = time.perf_counter() - begin
    if not found.convertible:
        kinds: dict[str, int] = {}
        for obstacle in found.unsupported:
            kinds[obstacle.operator] = kinds.get(obstacle.operator, 0) + 1
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        return f"| {name} | {size} | - | - | refused: {listed} | | | {took:.1f} |"
    model = model.double()
    rule = tp.rules.Percentile(99.0, tp.PerChannel())
    snn = tp.convert(
        model, tp.Conversion.of(rule), calibration=images.double().split(4), example_inputs=images[:2].double()
    )
    x = images[:1].double()
    few, many = (max(site_errors(snn, x, steps=steps, chunk=16).values()) for steps in (64, 256))
    neurons = sum(site.neurons for site in snn.sites)
    analogue = ", ".join(snn.plan.analogue) or "nothing"
    pools = f", {len(snn.plan.pools)} temporal max-poolings" if snn.plan.pools else ""
    return (
        f"| {name} | {size} | {len(snn.sites)}{pools} | {neurons:,} | {analogue} | {100 * few:.2f} | {100 * many:.2f} | "
        f"{took:.1f} |"
    )


def main() -> None:
    lines = [
        "# Networks that convert",
        "",
        "Made by `make models` with torchvision and timm networks as they are, random weights (seed 0). *Error*: largest",
        "relative L1 error of any site's mean output against the clipped ANN, float64, one random image, thresholds at the",
        "99th percentile per channel over 16 random images, v(0) = theta/2. *Seconds*: tracing, planning and checking on",
        "two cores, calibration not counted.",
        "",
        "| network | image | sites | neurons | left analogue | error % at T=64 | at T=256 | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        begin = time.perf_counter()
        lines.append(row(name))
        print(lines[-1], f"({time.perf_counter() - begin:.0f} s)", flush=True)
    Path(__file__).with_name("models.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
