"""Small trained networks of other functions than ReLU, converted without retraining: accuracy under signed digits.

    python benchmarks/function_networks.py --output results/function-networks.json

A vision transformer, a ConvNeXt, a ResNet with squeeze-and-excite gates and a SiLU network, trained on scikit-learn's
digits for a minute each. Full scales are taken from training images; all test images are measured.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transpike as tp
from transpike.conversion.methods import digit_conversion
from transpike.serialization.environment import environment
from transpike.serialization.json_records import write_json

STEPS = (4, 6, 8)
LAGS = (1, 2)
RATE_STEPS = (8, 32, 128)


class Block(nn.Module):
    """A transformer's block: attention with four heads, and two layers with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, L, D] -> [N, L, D]``."""
        qkv = self.qkv(self.first(x)).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x = x + self.out(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    """A vision transformer on 16 patches of 2x2 pixels."""

    def __init__(self, width: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, 2)
        self.places = nn.Parameter(0.1 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of images ``[N, 1, 8, 8]``."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, LayerNorm over channels, and two layers with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, C, H, W]``."""
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class GatedBlock(nn.Module):
    """A residual block of ReLUs with a squeeze-and-excite gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width // 4, 1), nn.ReLU(), nn.Conv2d(width // 4, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W] -> [N, C, H, W]``."""
        y = self.two(self.one(x))
        return F.relu(x + y * torch.sigmoid(self.gate(y)))


def convnext(width: int = 32, blocks: int = 3) -> nn.Module:
    """Three blocks on 4x4 places."""
    body = (ConvNeXtBlock(width) for _ in range(blocks))
    return nn.Sequential(
        nn.Conv2d(1, width, 2, 2), *body, nn.Flatten(2), Mean(), nn.LayerNorm(width), nn.Linear(width, 10)
    )


class Mean(nn.Module):
    """The mean over places."""

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, L] -> [N, C]``."""
        return x.mean(2)


def gated(width: int = 32, blocks: int = 3) -> nn.Module:
    """Three residual blocks with gates."""
    stem = (nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    return nn.Sequential(
        *stem, *(GatedBlock(width) for _ in range(blocks)), nn.Flatten(2), Mean(), nn.Linear(width, 10)
    )


def silu(width: int = 32) -> nn.Module:
    """Four convolutions with BatchNorm and SiLU."""
    layers: list[nn.Module] = []
    for index in range(4):
        stride = 2 if index == 2 else 1
        layers += [nn.Conv2d(1 if index == 0 else width, width, 3, stride, 1), nn.BatchNorm2d(width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Flatten(2), Mean(), nn.Linear(width, 10))


NETWORKS = {"vision transformer": Transformer, "ConvNeXt": convnext, "SE-ResNet": gated, "SiLU network": silu}


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Trains with AdamW, all images of the training set in every epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = epochs * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def tensors(data: Any) -> tuple[Tensor, Tensor]:
    """All images and labels of a data set."""
    pairs = [data[index] for index in range(len(data))]
    return torch.stack([image for image, _ in pairs]), torch.tensor([int(label) for _, label in pairs])


def measure(name: str, epochs: int) -> dict[str, Any]:
    """Trains one network and measures it in time."""
    torch.manual_seed(0)
    data = tp.data.digits()
    images, labels = tensors(data.train)
    tests, truth = tensors(data.test)
    model = train(NETWORKS[name](), images, labels, epochs)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        wanted = model(tests)
        ann = float((wanted.argmax(1) == truth).float().mean()) * 100

        def row(label: str, snn: tp.SpikingNetwork, steps: int, answer: Tensor) -> None:
            same = float((answer.argmax(1) == wanted.argmax(1)).float().mean()) * 100
            right = float((answer.argmax(1) == truth).float().mean()) * 100
            error = float((answer - wanted).norm() / wanted.norm())
            latency = snn.latency(steps).pipeline_steps
            rows.append(
                {"code": label, "steps": steps, "pipeline_steps": latency, "top1": right, "same": same, "error": error}
            )
            print(name, rows[-1], flush=True)

        for lag in LAGS:
            for steps in STEPS:
                conversion = digit_conversion(tp.schedules.SignedDigits(steps, default_lag=lag))
                made = tp.convert(model, conversion, calibration=images[:512], example_inputs=images[:4])
                row(f"digits, lag {lag}", made, steps, made(tests, steps=steps)[-1])
        sites = Counter(site.kind.value for site in made.sites)
        rate = tp.convert(model, tp.methods["snm"](8), calibration=images[:512], example_inputs=images[:4])
        answers = rate(tests, steps=RATE_STEPS[-1])
        for steps in RATE_STEPS:
            row("signed spikes", rate, steps, answers[steps - 1])
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"network": name, "parameters": parameters, "images": len(tests), "ann": ann, "sites": sites, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--output", type=Path, help="JSON file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(name, given.epochs) for name in NETWORKS]
    if given.output is not None:
        write_json(given.output, {"environment": asdict(environment()), "epochs": given.epochs, "networks": found})


if __name__ == "__main__":
    main()
