"""ResNet-18 and ResNet-34 (He et al. 2016) with the stems of the conversion papers and of ImageNet."""

from __future__ import annotations

from torch import Tensor, nn

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class _BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """ResNet with basic blocks of 64, 128, 256 and 512 channels.

    Args:
        depth: 18 or 34.
        classes: number of outputs.
        stem: ``"cifar"``: 3x3 convolution, stride 1, no pooling, which the papers use for CIFAR *and* (ResNet-34) for
            ImageNet, at about 16 times the multiply-adds; ``"imagenet"``: 7x7, stride 2, max-pooling.
    """

    def __init__(self, depth: int = 18, classes: int = 10, stem: str = "cifar") -> None:
        super().__init__()
        if depth not in _BLOCKS:
            raise ValueError(f"depth must be 18 or 34, got {depth}")
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"stem must be 'cifar' or 'imagenet', got {stem!r}")
        first = (
            [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
            if stem == "cifar"
            else [
                nn.Conv2d(3, 64, 7, 2, 3, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, 2, 1),
            ]
        )
        self.stem = nn.Sequential(*first)
        stages = []
        channels = 64
        for index, count in enumerate(_BLOCKS[depth]):
            blocks = []
            for block in range(count):
                width = 64 * 2**index
                blocks.append(_BasicBlock(channels, width, 2 if index and block == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, H, W]`` to ``[N, classes]``."""
        return self.classifier(self.pool(self.stages(self.stem(x))).flatten(1))  # type: ignore[no-any-return]
