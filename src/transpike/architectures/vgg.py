"""VGG-16 as the conversion papers use it (Simonyan & Zisserman 2015, configuration D, with BatchNorm)."""

from __future__ import annotations

from torch import Tensor, nn

_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """Thirteen convolutions with BatchNorm and ReLU, five max-poolings.

    Args:
        classes: number of outputs.
        image_size: height and width of the input, a multiple of 32; sets the size of the fully connected head.
        head: ``"wide"``: two hidden layers of 4096, as in QCFS, SlipReLU and COS; ``"linear"``: one linear layer.
        dropout: probability in the wide head (0 in the released code).
    """

    def __init__(self, classes: int = 10, image_size: int = 32, head: str = "wide", dropout: float = 0.0) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {image_size}")
        if head not in ("wide", "linear"):
            raise ValueError(f"head must be 'wide' or 'linear', got {head!r}")
        layers: list[nn.Module] = []
        channels = 3
        for block in _WIDTHS:
            for width in block:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        flat = 512 * (image_size // 32) ** 2
        if head == "linear":
            self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(flat, classes))
        else:
            self.classifier = nn.Sequential(
                nn.Flatten(),
                *(nn.Linear(flat, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(dropout)),
                nn.Linear(4096, classes),
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, image_size, image_size]`` to ``[N, classes]``."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]
