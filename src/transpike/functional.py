"""Stateless mathematics of the SlipReLU paper: activations, spike counts, bounds and the unified objective."""

from __future__ import annotations

import torch
from torch import Tensor


def ramp(x: Tensor, shift: float = 0.0) -> Tensor:
    """Clipped ramp ``clip(x + shift, 0, 1)`` of the normalised pre-activation ``x = z / theta`` (eq. 8, left)."""
    return (x + shift).clamp(0.0, 1.0)


def clip_floor(x: Tensor, levels: int, shift: float = 0.0) -> Tensor:
    """Staircase ``clip(floor(levels * x + shift) / levels, 0, 1)`` of ``x = z / theta`` (eq. 8, right)."""
    return (torch.floor(levels * x + shift) / levels).clamp(0.0, 1.0)


def slip_relu(
    z: Tensor, theta: Tensor, levels: int, slope: float, shift: float = 0.5, ramp_shift: float = 0.0
) -> Tensor:
    """SlipReLU, eq. 8: ``theta * [c ramp(z/theta + delta1) + (1-c) clip_floor(N z/theta + delta)]``.

    Args:
        z: pre-activation, any shape.
        theta: threshold, positive, broadcastable to ``z``.
        levels: N, the number of steps of the staircase.
        slope: c in [0, 1], the weight of the ramp.
        shift: delta, in steps of the staircase.
        ramp_shift: delta1, in units of theta.
    """
    return theta * blend(z / theta, levels, slope, shift, ramp_shift)


def blend(x: Tensor, levels: int, slope: float, shift: float, ramp_shift: float) -> Tensor:
    """The bracket of eq. 8 for ``x = z / theta``; a side without weight is not computed."""
    if slope == 0.0:
        return clip_floor(x, levels, shift)
    if slope == 1.0:
        return ramp(x, ramp_shift)
    return slope * ramp(x, ramp_shift) + (1.0 - slope) * clip_floor(x, levels, shift)


def summing_type(dtype: torch.dtype) -> torch.dtype:
    """The type of sums over time of a network's values: float32 where the network is in half precision, else its own.

    bfloat16 holds whole numbers to 256 only, float16 to 2048.
    """
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def expected_count(total: Tensor, theta: Tensor | float, v_init: Tensor | float, steps: int) -> Tensor:
    """Number of spikes that ``steps`` time-steps ought to give: ``clip(floor((v_init + total) / theta), 0, T)``.

    This is eq. 7 multiplied by T. It is what an integrate-and-fire neuron with soft reset really emits when its
    drive is constant and ``0 <= v_init < theta``; with other drives the difference is the offset of the COS paper.

    Args:
        total: sum of the drive over the time-steps, any shape.
        theta: firing threshold, broadcastable.
        v_init: initial membrane potential, broadcastable.
        steps: T.
    """
    return torch.floor((total + v_init) / theta).clamp(0, steps)


def rate_activation(z: Tensor, theta: Tensor | float, steps: int, shift: float) -> Tensor:
    """Mean output of a spiking layer after T steps of constant drive ``z``, eq. 7, with ``v_init = shift * theta``."""
    theta = torch.as_tensor(theta, dtype=z.dtype, device=z.device)
    return theta / steps * expected_count(steps * z, theta, shift * theta, steps)


def spread_evenly(count: Tensor, steps: Tensor, probe: int, later: Tensor | int) -> Tensor:
    """Spikes sent after some steps by neurons that send ``count`` of them, evenly, in rho steps.

    ``floor(count t / rho + 1/2)``, and down instead of up from one half where ``later`` is 1.

    Args:
        count: k in 0 .. rho, whole numbers of a floating type.
        steps: t, broadcastable.
        probe: rho.
        later: 0 or 1, broadcastable.
    """
    return torch.floor((2 * count * steps + probe - later) / (2 * probe))


def conversion_error_bound(theta: float, slope: float, steps: int) -> float:
    """The optimum ``c theta^2 / (4 T)`` of Theorem 2, as the paper states it.

    It is the integral of the error over ``0 <= z <= theta``; the mean over a uniform z is this divided by theta. It
    holds for N = T and a shift of 1/2: the proof integrates the signed error, and N does not occur in it.
    `uniform_error` has the exact value for all settings.
    """
    return slope * theta**2 / (4 * steps)


def uniform_error(
    levels: int, slope: float, steps: int, *, shift: float = 0.5, ramp_shift: float = 0.0, start: float | None = None
) -> tuple[float, float]:
    """Exact mean of ``f(x) - Q(x)`` and of its absolute value, in thresholds, for x = z / theta uniform in [0, 1].

    f is the activation (`blend`), Q what T steps of constant drive send (`rate_activation`). Both are piecewise linear.

    Args:
        levels: N.
        slope: c.
        steps: T.
        shift: delta, in steps of the staircase.
        ramp_shift: delta1, in thresholds.
        start: initial potential in thresholds; None for ``shift``.
    """
    start = shift if start is None else start
    stairs = torch.arange(-1, max(levels, steps) + 2, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0, -ramp_shift, 1.0 - ramp_shift], dtype=torch.float64)
    cuts = torch.cat([ends, (stairs - shift) / levels, (stairs - start) / steps])
    cuts = cuts[(cuts >= 0) & (cuts <= 1)].sort().values
    low, high = cuts[:-1], cuts[1:]
    inside = [low + share * (high - low) for share in (1 / 3, 2 / 3)]  # two points give the line of each piece
    left, right = (
        blend(x, levels, slope, shift, ramp_shift) - torch.floor(steps * x + start).clamp(0, steps) / steps
        for x in inside
    )
    first, last = 2 * left - right, 2 * right - left
    width = high - low
    signed = width * (first + last) / 2
    size = first.abs() + last.abs()
    crossing = (first * last < 0) & (size > 0)
    bent = (first.square() + last.square()) / (2 * size.clamp_min(1e-300))
    absolute = width * torch.where(crossing, bent, size / 2)
    return float(signed.sum()), float(absolute.sum())


def unified_objective(relu: Tensor, ann: Tensor, snn: Tensor, weight: float) -> Tensor:
    """The unified objective, eq. 5: ``w E|relu - ann| + (1 - w) E|ann - snn|`` with ``w`` in [0, 1]."""
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight must lie in [0, 1], got {weight}")
    return weight * (relu - ann).abs().mean() + (1.0 - weight) * (ann - snn).abs().mean()


def selection_criterion(relu_accuracy: float, ann_accuracy: float, snn_accuracy: float) -> float:
    """Criterion of section 4.4 for choosing (N, c): ``|relu - ann| / 2 + |ann - snn| / 2``.

    The accuracies must come from a split of the training set.
    """
    return 0.5 * abs(relu_accuracy - ann_accuracy) + 0.5 * abs(ann_accuracy - snn_accuracy)
