"""Networks of the topology zoo with adaptive pooling, max-pooling in every place, skips and several heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, padding=1)


def adaptive_average_pool() -> nn.Module:
    """Adaptive average pooling inside the network and in front of the classifier."""
    return nn.Sequential(
        *(_conv(3, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(_conv(4, 8), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(8, 5)),
    )


def max_pool_after_relu() -> nn.Module:
    """Max-pooling directly behind ReLU, which moves in front of it."""
    return nn.Sequential(
        *(_conv(3, 4), nn.ReLU(), nn.MaxPool2d(2)),
        *(_conv(4, 6), nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)),
        *(_conv(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
    )


class MaxPoolOnSpikes(nn.Module):
    """Max-pooling of a site's output that another branch reads too, and of an average-pooled signal."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.relu1 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.down = nn.Conv2d(4, 4, 2, stride=2)
        self.conv2 = _conv(8, 4)
        self.relu2 = nn.ReLU()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(torch.cat([self.pool(x), self.down(x)], 1)))
        x = F.max_pool2d(F.avg_pool2d(x, 2), 2)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class MeanOverSpace(nn.Module):
    """Global pooling spelt as ``mean``, with one and with two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.conv2 = _conv(4, 8)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        x = F.relu(self.conv1(x))
        low = x.mean(-1).mean(-1)
        high = torch.mean(F.relu(self.conv2(x)), dim=(2, 3))
        return self.fc(torch.cat([low, high], 1))  # type: ignore[no-any-return]


class PoolAfterCat(nn.Module):
    """Two activations, concatenated, then pooled by an overlapping, padded, ceil-mode pooling (SqueezeNet)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 4), _conv(4, 3), _conv(4, 2)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.conv4 = _conv(5, 3)
        self.fc = nn.Linear(75, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        x = self.relu(self.conv1(x))
        x = self.pool(torch.cat([self.relu(self.conv2(x)), self.relu(self.conv3(x))], 1))
        return self.fc(self.relu(self.conv4(x)).flatten(1))  # type: ignore[no-any-return]


class PoolOfMixedCat(nn.Module):
    """A concatenation of neurons and of a linear branch, pooled: one branch moves, the other is pooled in time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 4), _conv(4, 3), _conv(4, 2)
        self.fc = nn.Linear(80, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(torch.cat([F.relu(self.conv2(x)), self.conv3(x)], dim=1), 2)
        return self.fc(F.relu(x).flatten(1))  # type: ignore[no-any-return]


class OddPools(nn.Module):
    """Dilated, adaptive and global max-pooling, on currents, on spikes that others read too, and at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(3, 4), _conv(4, 4), _conv(4, 6)
        self.dilated = nn.MaxPool2d(2, 1, dilation=2)
        self.adaptive = nn.AdaptiveMaxPool2d(3)
        self.fc = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        x = self.dilated(torch.relu(self.conv1(x)))
        shared = torch.relu(self.adaptive(self.conv2(x)))
        deep = torch.relu(self.conv3(shared)).amax((2, 3))
        return self.fc(torch.cat([deep, torch.amax(shared, dim=(2, 3))], 1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """Down, up by interpolation, skip by concatenation; the answer is a map of values, not classes."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(_conv(3, 4), nn.ReLU())
        self.bottom = nn.Sequential(_conv(4, 6), nn.ReLU())
        self.up = nn.Sequential(_conv(10, 4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        skip = self.down(x)
        low = self.bottom(F.max_pool2d(skip, 2))
        high = F.interpolate(low, scale_factor=2, mode="nearest")
        return self.head(self.up(torch.cat([skip, high], 1)))  # type: ignore[no-any-return]


class TwoHeads(nn.Module):
    """One body, a classification head and a regression head at different depths."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(3, 4), nn.ReLU(), nn.AvgPool2d(2))
        self.more = nn.Sequential(_conv(4, 4), nn.ReLU())
        self.classes = nn.Linear(64, 5)
        self.value = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """``[N, 3, 8, 8]`` to the answers."""
        x = self.body(x)
        return {"value": self.value(x.flatten(1)), "classes": self.classes(self.more(x).flatten(1))}


class FunctionalBatchNorm(nn.Module):
    """BatchNorm called as a function, as in timm's fused BatchNorm and activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 4)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, 3, 8, 8]`` to the answers."""
        bn = self.bn
        x = F.batch_norm(
            self.conv(x), bn.running_mean, bn.running_var, bn.weight, bn.bias, bn.training, bn.momentum or 0.1, bn.eps
        )
        return self.fc(F.relu(x).flatten(1))  # type: ignore[no-any-return]
