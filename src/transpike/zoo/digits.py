"""A small convolutional network for the 8x8 digits of scikit-learn."""

from __future__ import annotations

from torch import Tensor, nn

from transpike.card import CardedModule


class DigitsNet(CardedModule):
    """Convolutions with BatchNorm and ReLU, two poolings, a linear classifier; deep enough to need conversion.

    Args:
        width: channels of the first block; later blocks have 2 and 2 times as many.
        depth: convolutions per block.
        classes: number of outputs.
    """

    def __init__(self, width: int = 16, depth: int = 2, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for block, out in enumerate((width, 2 * width, 2 * width)):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
            if block < 2:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 1, 8, 8]`` to ``[N, classes]``."""
        return self.classifier(self.pool(self.features(x)).flatten(1))  # type: ignore[no-any-return]
