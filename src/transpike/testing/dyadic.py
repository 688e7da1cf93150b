"""Dyadic fixtures: numbers on a grid of 1/64, so that floating-point sums are exact in any order.

Two programs that add the same dyadic currents in another order must give the same spikes, so backends, chunk sizes and
batch orders can be compared with ``torch.equal``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transpike.activations import SlipActivation
from transpike.network.spiking import SpikingNetwork

GRID = 64
"""Weights and inputs are multiples of ``1 / GRID``."""

_NORM_EPS = 2.0**-10
_NORM_SCALES = (0.5, 1.0)


def is_dyadic(values: Tensor, grid: int = GRID) -> bool:
    """Whether every value is a multiple of ``1 / grid``."""
    scaled = values.detach().double() * grid
    return bool((scaled == scaled.round()).all())


def dyadic_batch(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inputs in [-1, 1] on the grid, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-GRID, GRID + 1, shape, generator=generator).to(dtype) / GRID


def make_dyadic(module: nn.Module, gain: float = 2.0) -> nn.Module:
    """Moves every weight of ``module`` onto the grid, in place, and returns the module in evaluation mode.

    BatchNorm would leave the grid, since folding multiplies by ``weight / sqrt(var + eps)``. Its eps becomes 2^-10
    and its variance ``1 - eps`` or ``4 - eps``, so that their sum has an exact square root, and its weight a power of
    two: the scale is a power of two. Thresholds of trained activations become powers of two.

    Args:
        module: any network; its random initial values are kept as far as the grid allows.
        gain: factor on weights before rounding; 2 keeps small networks with PyTorch's initial values lively.
    """
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                _make_norm_dyadic(part)
            elif isinstance(part, SlipActivation):
                part.theta.copy_(_power_of_two(part.theta))
            else:
                for values in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                    if values.dtype.is_floating_point:
                        values.copy_((values * gain * GRID).round() / GRID)
    return module.eval()


def set_dyadic_thresholds(snn: SpikingNetwork, shift: float = 0.5) -> SpikingNetwork:
    """Rounds every threshold to a power of two (per layer or per channel) and starts at ``shift * theta``, in place."""
    for plan in snn.sites:
        site = snn.site(plan.name)
        theta = _power_of_two(site.theta)
        site.set_threshold(theta)
        site.set_initial_potential(shift * theta)
    return snn


def _power_of_two(values: Tensor) -> Tensor:
    return torch.exp2(values.detach().clamp_min(2.0**-6).log2().round())


def _make_norm_dyadic(norm: nn.modules.batchnorm._BatchNorm) -> None:
    norm.eps = _NORM_EPS
    channel = torch.arange(norm.num_features)
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.copy_((channel % 5 - 2) / 8)
        norm.running_var.copy_(torch.where(channel % 3 == 0, 4.0, 1.0) - _NORM_EPS)
    if norm.weight is not None:
        norm.weight.copy_(torch.tensor(_NORM_SCALES)[channel % 2] * torch.where(channel % 3 == 0, 2.0, 1.0))
        norm.bias.copy_((channel % 7 - 2) / 16)
