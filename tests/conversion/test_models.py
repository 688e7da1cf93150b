"""The models people have, unedited: what converts and what does not."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
import torchvision
from torch import nn

import transpike as tp
from transpike.data import digits, loader
from transpike.evaluation.offsets import site_errors

CONVERTS = {
    # activation calls, counted in the published architectures
    "resnet50": 1 + 3 * 16,
    "vgg16": 13 + 2,
    "vgg16_bn": 13 + 2,
    "squeezenet1_0": 1 + 3 * 8 + 1,
    "mobilenet_v2": 1 + 1 + 2 * 16 + 1,
    "densenet121": 1 + 2 * 58 + 3 + 1,
    "googlenet": 3 + 6 * 9,
    "shufflenet_v2_x1_0": 1 + 3 * 3 + 2 * 13 + 1,
    "mnasnet1_0": 2 + 2 * 16 + 1,
    "regnet_x_400mf": 1 + 3 * 22,
    "timm:resnet18": 17,
    "timm:dla34": 33,
    "timm:repvgg_a0": 22,
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name.startswith("timm:"):
        return timm.create_model(name.removeprefix("timm:"), pretrained=False).eval()
    settings = {"init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **settings).eval()


@pytest.mark.parametrize("name", CONVERTS)
def test_models_that_convert(name: str) -> None:
    found = tp.inspect(build(name), torch.randn(2, 3, 64, 64))
    assert found.convertible, str(found)
    assert len(found.plan.sites) == CONVERTS[name]
    assert not found.plan.analogue


@pytest.mark.parametrize(
    ("name", "size", "kinds"),
    [
        ("efficientnet_b0", 64, {"pointwise": 65, "product": 16}),
        ("convnext_tiny", 64, {"group": 23, "pointwise": 35}),
        ("mobilenet_v3_small", 64, {"if": 14, "pointwise": 30, "product": 9}),
    ],
)
def test_models_of_other_functions(name: str, size: int, kinds: dict[str, int]) -> None:
    """As many sites as forward has functions, gates and linear bottlenecks between layers."""
    found = tp.inspect(build(name), torch.randn(1, 3, size, size))
    assert found.convertible, str(found)
    assert Counter(site.kind.value for site in found.plan.sites) == kinds
    assert all("torchvision/" in site.source for site in found.plan.sites)


@pytest.mark.parametrize("name", ["squeezenet1_0", "shufflenet_v2_x1_0", "googlenet"])
def test_convergence_with_pools_shuffles_and_branches(name: str) -> None:
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rule = tp.rules.Percentile(99.0, tp.PerChannel())
    snn = tp.convert(
        build(name).double(), tp.Conversion.of(rule), calibration=images.split(4), example_inputs=images[:2]
    )
    short, long = (max(site_errors(snn, images[:1], steps=steps, chunk=16).values()) for steps in (32, 128))
    assert long < 0.06
    assert 2.5 < short / long < 6  # about 1/T


def test_ways_of_max_pooling_on_trained_weights() -> None:
    """Only the running sums tend to the trained network; a max of single steps and an average do not."""
    torch.manual_seed(0)
    conv = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*conv, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10))
    data = digits()
    tp.fit(model, data, epochs=12, learning_rate=0.1)
    images, labels = next(iter(loader(data.validation, 239)))
    errors, hits = {}, {}
    with torch.no_grad():
        exact = model(images)
        for pooling in tp.MaxPooling:
            snn = tp.convert(
                model,
                tp.Conversion(tp.rules.Maximum()),
                calibration=images,
                example_inputs=images[:4],
                max_pooling=pooling,
            )
            answer = snn(images, steps=64)[-1]
            errors[pooling] = float((answer - exact).abs().mean() / exact.abs().mean())
            hits[pooling] = 100 * float((answer.argmax(1) == labels).double().mean())
    assert float((exact.argmax(1) == labels).double().mean()) > 0.9
    assert errors[tp.MaxPooling.RUNNING] < 0.05
    assert errors[tp.MaxPooling.PER_STEP] > 4 * errors[tp.MaxPooling.RUNNING]
    assert errors[tp.MaxPooling.AVERAGE] > 4 * errors[tp.MaxPooling.RUNNING]
    assert hits[tp.MaxPooling.RUNNING] >= max(hits.values())
