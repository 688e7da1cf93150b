"""ResNet-20 for CIFAR (He et al. 2016, section 4.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class _PadShortcut(nn.Module):
    """Option A: every second pixel, missing channels filled with zeros on both sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        side = self.channels // 4
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, side, side), "constant", 0)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1 or channels_in != channels:
            if shortcut == "pad":
                self.shortcut = _PadShortcut(channels)
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
                )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class CifarResNet20(nn.Module):
    """Three stages of three blocks with 16, 32 and 64 channels; 19 convolutions, one linear layer, 19 ReLU calls.

    Module names are those of the widely used public definition, so its checkpoints load.

    Args:
        shortcut: ``"pad"`` (option A, no parameters) or ``"conv"`` (1x1 convolution with BatchNorm, as in QCFS,
            SlipReLU and COS).
        classes: number of outputs.
    """

    def __init__(self, shortcut: str = "pad", classes: int = 10) -> None:
        super().__init__()
        if shortcut not in ("pad", "conv"):
            raise ValueError(f"shortcut must be 'pad' or 'conv', got {shortcut!r}")
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages = []
        channels = 16
        for index, width in enumerate((16, 32, 64)):
            blocks = []
            for block in range(3):
                blocks.append(_Block(channels, width, 2 if index > 0 and block == 0 else 1, shortcut))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32]`` to ``[N, classes]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))  # type: ignore[no-any-return]
