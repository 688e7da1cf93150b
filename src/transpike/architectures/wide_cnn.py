"""CIFARNet and AlexNet for 32x32 images (Wu et al., AAAI 2019), which SlipReLU's Table 3 compares with."""

from __future__ import annotations

from torch import Tensor, nn


def _convolutions(widths: tuple[int | str, ...]) -> tuple[list[nn.Module], int]:
    """3x3 convolutions with BatchNorm and ReLU; ``"pool"`` is a 2x2 average pooling."""
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        if isinstance(width, str):
            layers.append(nn.AvgPool2d(2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
    return layers, channels


class _Plain(nn.Module):
    def __init__(self, widths: tuple[int | str, ...], hidden: tuple[int, int], classes: int) -> None:
        super().__init__()
        layers, channels = _convolutions(widths)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            *(nn.Linear(channels * 64, hidden[0]), nn.ReLU(inplace=True)),
            *(nn.Linear(hidden[0], hidden[1]), nn.ReLU(inplace=True)),
            nn.Linear(hidden[1], classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 32, 32]`` to ``[N, classes]``."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]


class CIFARNet(_Plain):
    """128C3-256C3-AP2-512C3-AP2-1024C3-512C3-1024FC-512FC; the voting layer of the source is a linear layer here."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__((128, 256, "pool", 512, "pool", 1024, 512), (1024, 512), classes)


class AlexNet(_Plain):
    """96C3-256C3-AP2-384C3-AP2-384C3-256C3-1024FC-1024FC; the voting layer of the source is a linear layer here."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__((96, 256, "pool", 384, "pool", 384, 256), (1024, 1024), classes)
