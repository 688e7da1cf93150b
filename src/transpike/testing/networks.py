"""The modules behind `transpike.testing.TOPOLOGIES`, written as users write them."""
# ruff: noqa: D102 - the classes say what each forward shows

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def mlp() -> nn.Module:
    """Linear layers only."""
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))


def conv() -> nn.Module:
    """Convolutions without normalisation."""
    return nn.Sequential(
        *(_conv(3, 4), nn.ReLU(), _conv(4, 4), nn.ReLU()), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )


def conv_batchnorm() -> nn.Module:
    """BatchNorm that folds away, behind convolutions and a linear layer."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(_conv(4, 6, 2), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96, 5), nn.BatchNorm1d(5)),
    )


class SharedReLU(nn.Module):
    """One ReLU module called three times, as in torchvision's residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 4)
        self.conv1 = _conv(4, 4)
        self.conv2 = _conv(4, 4)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.relu(self.stem(x))
        out = self.relu(self.conv1(identity))
        out = self.relu(self.conv2(out) + identity)
        return self.fc(out.flatten(1))  # type: ignore[no-any-return]


class _FunctionalBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class FunctionalReLU(nn.Module):
    """``F.relu``, ``torch.relu`` in a submodule, and the tensor's method."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.block = _FunctionalBlock()
        self.fc1 = nn.Linear(256, 8)
        self.fc2 = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        x = self.block(x)
        x = self.fc1(torch.flatten(x, 1)).relu()
        return self.fc2(x)  # type: ignore[no-any-return]


class InPlace(nn.Module):
    """In-place ReLU as module, keyword and method, whose input is read again, and an in-place residual add."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = _conv(4, 4)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = _conv(4, 4)
        self.conv4 = _conv(4, 4)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.conv1(x)
        self.relu1(identity)  # changes identity
        out = self.conv2(identity)
        out += identity
        out = self.relu2(out)
        out = F.relu(self.conv3(out), inplace=True)
        out = self.conv4(out)
        out.relu_()
        out = F.avg_pool2d(out, 2)
        return self.fc(out.view(out.size(0), -1))  # type: ignore[no-any-return]


class _DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(self.relu(self.norm(x)))], 1)


class PreActivationCat(nn.Module):
    """DenseNet's layer: BatchNorm in front of the ReLU stays an affine operator on a growing ``cat``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 4)
        self.layers = nn.Sequential(_DenseLayer(4, 2), _DenseLayer(6, 2), _DenseLayer(8, 2))
        self.fc = nn.Linear(160, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.layers(self.stem(x)), 2)
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def depthwise_relu6() -> nn.Module:
    """MobileNet: depthwise and pointwise convolutions with ReLU6."""
    return nn.Sequential(
        *(_conv(3, 8, 2), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)),
    )


class HardTanh(nn.Module):
    """ReLU clipped from above, as ``Hardtanh(0, c)`` and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.act = nn.Hardtanh(0.0, 0.5)
        self.conv2 = _conv(4, 4)
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv1(x))
        x = F.hardtanh(self.conv2(x), 0.0, 0.75)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class Clamp(nn.Module):
    """ReLU and clipped ReLU spelt as ``clamp``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.conv2 = _conv(4, 4)
        self.conv3 = _conv(4, 4)
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clamp(self.conv1(x), 0, 1)
        x = self.conv2(x).clamp(min=0.0)
        x = torch.clamp_min(self.conv3(x), 0)
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class _OptionABlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        return F.relu(out)


class OptionA(nn.Module):
    """The CIFAR ResNet's shortcut without parameters: slicing and padding with zero channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.block = _OptionABlock()
        self.linear = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.block(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))  # type: ignore[no-any-return]


class TwoInputs(nn.Module):
    """Two arguments, joined by addition and ``cat``; the answer is a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.right = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.join = nn.Linear(16, 8)
        self.relu = nn.ReLU()
        self.classes = nn.Linear(8, 5)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        left, right = self.left(a), self.right(b)
        hidden = self.relu(self.join(torch.cat((left, right), dim=1)) + left)
        return {"classes": self.classes(hidden), "sum": left + right}


def conv1d() -> nn.Module:
    """One spatial dimension."""
    return nn.Sequential(
        *(nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool1d(2)),
        *(nn.Conv1d(4, 6, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)),
    )


def conv3d() -> nn.Module:
    """Three spatial dimensions."""
    return nn.Sequential(
        *(nn.Conv3d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv3d(3, 4, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.AvgPool3d(2), nn.Flatten(), nn.Linear(4, 5)),
    )


def transposed() -> nn.Module:
    """A decoder with transposed convolutions, one of them with BatchNorm; the answer is an image."""
    return nn.Sequential(
        *(_conv(3, 4, 2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.ConvTranspose2d(4, 6, 2, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.ConvTranspose2d(6, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(4, 3, 1)),
    )


def grouped_dilated() -> nn.Module:
    """Groups and dilation."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3), nn.ReLU()),
        *(nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2), nn.ReLU()),
        *(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 5)),
    )


class ViewWithInputSize(nn.Module):
    """``view`` and ``reshape`` with the batch size read from the input, and from a signal inside."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 64)
        self.conv = _conv(4, 4)
        self.fc2 = nn.Linear(64, 8)
        self.fc3 = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        h = F.relu(self.fc1(x)).view(batch, 4, 4, 4)
        h = F.relu(self.conv(h)).reshape(x.shape[0], -1)
        h = F.relu(self.fc2(h))
        return self.fc3(h.view(h.shape[0], h.size(1)))  # type: ignore[no-any-return]


class Dropouts(nn.Module):
    """Dropout as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.drop1 = nn.Dropout2d(0.25)
        self.conv2 = _conv(4, 4)
        self.drop2 = nn.Dropout(0.5)
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(F.relu(self.conv1(x)))
        x = F.dropout(F.relu(self.conv2(x)), 0.5, training=self.training)
        return self.fc(self.drop2(x.flatten(1)))  # type: ignore[no-any-return]


def nested_sequential() -> nn.Module:
    """Sequentials in Sequentials."""
    inner = nn.Sequential(nn.Sequential(_conv(4, 4, 2), nn.ReLU()), nn.Identity())
    return nn.Sequential(
        nn.Sequential(nn.Sequential(_conv(3, 4), nn.ReLU()), inner),
        nn.Sequential(_conv(4, 6, 2), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(24, 5)),
    )


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.norm(self.conv(x)))  # type: ignore[no-any-return]


class BlockTwice(nn.Module):
    """A whole block, with its BatchNorm, called twice with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 4)
        self.block = _Block()
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.block(self.block(x))
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


class ChunkAndSplit(nn.Module):
    """Channels cut by ``chunk`` and ``split``; the parts go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 8)
        self.conv2 = _conv(4, 4)
        self.conv3 = _conv(2, 2)
        self.fc = nn.Linear(384, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.conv1(x)).chunk(2, dim=1)
        left = torch.relu(self.conv2(left))
        first, second = torch.split(right, [2, 2], dim=1)
        first = torch.relu(self.conv3(first))
        rest = torch.relu(second - first)
        joined = torch.cat((left, rest), 1)
        return self.fc(joined.flatten(1))  # type: ignore[no-any-return]


class ConstantParameters(nn.Module):
    """A parameter and a buffer that scale and shift a signal, and a weight standardised by a function."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.scale = nn.Parameter(torch.tensor([0.5, 1.0, 0.25, 1.0]).view(4, 1, 1))
        self.register_buffer("shift", torch.tensor([0.25, -0.25, 0.5, 0.125]).view(1, 4, 1, 1))
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3) / 4)
        self.fc = nn.Linear(256, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x)) * self.scale + self.shift
        x = torch.relu(F.conv2d(x, torch.relu(self.weight) - 0.0625, padding=1))
        return self.fc(x.flatten(1))  # type: ignore[no-any-return]


class AnswerIsASite(nn.Module):
    """A feature extractor: signals straight from the neurons are the answers, one of them is read on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 4)
        self.relu = nn.ReLU()
        self.conv2 = _conv(4, 4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.relu(self.conv1(x))
        return fine, F.relu(self.conv2(fine))


class SoftmaxReadout(nn.Module):
    """A softmax behind the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(12, 16)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(16, 5)
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.fc2(self.relu(self.fc1(x))))  # type: ignore[no-any-return]
