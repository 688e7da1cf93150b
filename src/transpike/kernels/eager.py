"""The integrate-and-fire kernel made of in-place torch operators, with a surrogate derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def integrate_fire(drive: Tensor, v: Tensor, theta: Tensor, soft_reset: bool) -> tuple[Tensor, Tensor]:
    """Same contract and same spikes as `transpike.kernels.reference.integrate_fire`."""
    events = torch.empty(drive.shape, dtype=drive.dtype, device=drive.device)
    v = v.clone()
    for current, event in zip(drive, events, strict=True):
        v += current
        torch.ge(v, theta, out=event)
        if soft_reset:
            v.addcmul_(event, theta, value=-1)
        else:
            v.masked_fill_(event > 0, 0.0)
    return events, v


def triangle(distance: Tensor) -> Tensor:
    """``max(0, 1 - |d|)`` of the normalised distance to the threshold."""
    return (1.0 - distance.abs()).clamp_min(0.0)


def rectangle(distance: Tensor) -> Tensor:
    """``1`` where ``|d| < 1/2``."""
    return (distance.abs() < 0.5).to(distance.dtype)


SURROGATES = {"triangle": triangle, "rectangle": rectangle}


def save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keeps the inputs and the events; potentials are recomputed."""
    drive, v, theta, soft_reset, surrogate, kernel = inputs
    if kernel == "reference":
        raise RuntimeError("the reference kernel has no backward; use KernelPreference.AUTO to train through time")
    events, _ = output
    ctx.save_for_backward(drive, v, theta, events)
    ctx.soft_reset = soft_reset
    ctx.surrogate = surrogate


def backward(ctx: Any, grad_events: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
    """Back-propagation through time, with ``d event / d u = h((u - theta)/theta) / theta``.

    ``h`` is the surrogate. The derivative by theta counts both the comparison (with the opposite sign) and the
    reset by subtraction.
    """
    drive, v, theta, events = ctx.saved_tensors
    surrogate = SURROGATES[ctx.surrogate]
    potentials = torch.empty_like(events)
    state = v.clone()
    for current, event, u in zip(drive, events, potentials, strict=True):
        state = state + current
        u.copy_(state)
        state = state - theta * event if ctx.soft_reset else state.masked_fill(event > 0, 0.0)
    grad_drive = torch.empty_like(events)
    grad_theta = torch.zeros_like(events[0])
    grad_state = grad_v
    for t in reversed(range(drive.shape[0])):
        event, u = events[t], potentials[t]
        sharpness = surrogate((u - theta) / theta) / theta
        if ctx.soft_reset:
            through_event = (grad_events[t] - theta * grad_state) * sharpness
            grad_theta -= event * grad_state
            grad_state = through_event + grad_state
        else:
            through_event = (grad_events[t] - u * grad_state) * sharpness
            grad_state = through_event + (1.0 - event) * grad_state
        grad_theta -= through_event
        grad_drive[t] = grad_state
    return grad_drive, grad_state.sum_to_size(v.shape), grad_theta.sum_to_size(theta.shape), None, None, None
