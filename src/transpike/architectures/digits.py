"""A small residual network for the 8x8 digits of scikit-learn."""

from __future__ import annotations

from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))  # type: ignore[no-any-return]


class DigitsResNet(nn.Module):
    """A ResNet-20 in miniature, with 19 sites: deep enough that direct conversion fails at few time-steps.

    Args:
        width: channels of the first stage; the next stages have 2 and 4 times as many.
        blocks: residual blocks per stage.
        classes: number of outputs.
    """

    def __init__(self, width: int = 8, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        if width < 1 or blocks < 1 or classes < 1:
            raise ValueError(f"width, blocks and classes must be positive, got {width}, {blocks} and {classes}")
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                layers.append(_Block(channels, width * 2**stage, 2 if stage and block == 0 else 1))
                channels = width * 2**stage
        self.stages = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, 8, 8]`` to ``[N, classes]``."""
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))  # type: ignore[no-any-return]
