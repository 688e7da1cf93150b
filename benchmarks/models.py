"""Writes results/models.json: which torchvision and timm networks convert, and how fast they converge.

Run: python benchmarks/models.py (about ten minutes on two cores). The page `Networks that convert` is made from it.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision.models as tv
from torch import nn

import transpike as tp
from transpike.errors import TraceError
from transpike.evaluation.offsets import site_errors
from transpike.serialization.environment import environment

warnings.filterwarnings("ignore")
FILE = Path(__file__).parents[1] / "results" / "models.json"
ABOUT = (
    "Networks of torchvision and timm with random weights (seed 0), float64, thresholds at the 99th percentile per "
    "channel over 16 random images, v(0) = theta/2"
)
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


def row(name: str) -> dict[str, Any]:
    size = SIZE.get(name, 64)
    model = build(name)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, size, size, generator=generator)
    record: dict[str, Any] = {"network": name, "image": size, "converts": False}
    begin = time.perf_counter()
    try:
        found = tp.inspect(model, images[:2])
    except TraceError as error:
        return {**record, "unsupported": error.where, "seconds": None}
    record["seconds"] = round(time.perf_counter() - begin, 1)
    if not found.convertible:
        kinds = Counter(operator.operator for operator in found.unsupported)
        return {**record, "unsupported": ", ".join(f"{count} {kind}" for kind, count in kinds.items())}
    model = model.double()
    rule = tp.rules.Percentile(99.0, tp.PerChannel())
    snn = tp.convert(
        model, tp.Conversion(rule), calibration=images.double().split(4), example_inputs=images[:2].double()
    )
    x = images[:1].double()
    errors = {str(steps): max(site_errors(snn, x, steps=steps, chunk=16).values()) for steps in (64, 256)}
    return {
        **record,
        "converts": True,
        "sites": len(snn.sites),
        "max_poolings": len(snn.plan.pools),
        "neurons": sum(site.neurons for site in snn.sites),
        "analogue": list(snn.plan.analogue),
        "error": {steps: round(100 * error, 2) for steps, error in errors.items()},
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()  # --help must not start the work
    rows = []
    for name in MODELS:
        begin = time.perf_counter()
        rows.append(row(name))
        print(rows[-1], f"({time.perf_counter() - begin:.0f} s)", flush=True)
    record = {"about": ABOUT, "environment": asdict(environment()), "seed": 0, "images": 1, "rows": rows}
    FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
