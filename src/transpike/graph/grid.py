"""Operators that a quantised network has beside its source's: grids of inputs, factors of channels, sums of pools."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InputGrid(nn.Module):
    """Rounds what arrives from outside to a multiple of a power of two, between two bounds."""

    step: Tensor
    limit: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", torch.ones(()))
        self.register_buffer("limit", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Exact but for the rounding, since dividing by a power of two is; a half goes to the even neighbour."""
        return torch.clamp(torch.round(x / self.step), -self.limit, self.limit) * self.step


class ChannelScale(nn.Module):
    """A factor, and a summand where there is one, of every channel of ``[N, C, *]``.

    It stands where events arrive without a layer, and takes over what one of them is worth there; and in the place of
    a BatchNorm that no layer could take.

    Args:
        channels: C.
        dimensions: of a batch.
        bias: whether there are summands.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, channels: int, dimensions: int, *, bias: bool = False) -> None:
        super().__init__()
        shape = (channels, *[1] * (dimensions - 2))
        self.weight = nn.Parameter(torch.ones(shape), requires_grad=False)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape), requires_grad=False) if bias else None)

    @classmethod
    def of(cls, norm: nn.modules.batchnorm._BatchNorm, channels: int, dimensions: int) -> ChannelScale:
        """What a BatchNorm computes in evaluation mode."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        made = cls(channels, dimensions, bias=True)
        mean, variance = norm.running_mean.detach().double(), norm.running_var.detach().double()
        factor = torch.rsqrt(variance + norm.eps)
        factor = factor if norm.weight is None else factor * norm.weight.detach().double()
        summand = -mean * factor if norm.bias is None else norm.bias.detach().double() - mean * factor
        made.weight.data.copy_(factor.reshape(made.weight.shape))
        made.bias = nn.Parameter(summand.to(made.weight).reshape(made.weight.shape), requires_grad=False)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, *]``."""
        return x * self.weight if self.bias is None else x * self.weight + self.bias


class PoolSum(nn.Module):
    """Behind an average over a number of values that is no power of two: their sum over the next smaller power.

    The average was rounded, and its multiple is a whole number of grid steps.

    Args:
        area: how many values were averaged.
    """

    step: Tensor

    def __init__(self, area: int) -> None:
        super().__init__()
        self.area = area
        self.divisor = 1 << (area.bit_length() - 1)
        self.register_buffer("step", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Averages in, sums over ``divisor`` out."""
        return torch.round(x * self.area / self.step) * (self.step / self.divisor)


GRID_MODULES: tuple[type[nn.Module], ...] = (InputGrid, ChannelScale, PoolSum)
"""Linear in time: on the grid that they make or expect, rounding changes nothing."""
