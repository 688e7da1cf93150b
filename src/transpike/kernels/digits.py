"""Digits of sums that are still arriving, by torch operators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from transpike.functional import summing_type


def signed_digits(drive: Tensor, theta: Tensor, worth: Sequence[Tensor], decision: float, lag: int) -> Tensor:
    """Digits of -1, 0 and 1 that follow ``clip(P, 0, theta)``, with P the sum of what has arrived.

    Digit k is decided when step k + lag has arrived: 1 where at least ``decision`` of its worth is missing, -1 where as
    much is too much; the last one rounds to the nearest.

    Args:
        drive: increments ``[S, N, *]``; nothing arrives later.
        theta: full scale, broadcastable to ``[N, *]``.
        worth: of each of the T digits, falling, broadcastable like theta.
        decision: share of a digit's worth.
        lag: steps.

    Returns:
        ``[T, N, *]``.
    """
    events = drive.new_empty(len(worth), *drive.shape[1:])
    dtype = summing_type(drive.dtype)
    arrived = drive[:lag].sum(0, dtype=dtype)
    sent = torch.zeros_like(arrived)
    for step, (size, event) in enumerate(zip(worth, events, strict=True), start=1):
        if step - 1 + lag < len(drive):
            arrived = arrived + drive[step - 1 + lag]
        missing = torch.minimum(arrived.clamp_min(0.0), theta) - sent
        digit = _digit(missing, (0.5 if step == len(worth) else decision) * size)
        sent = sent + digit * size
        event.copy_(digit)
    return events


def digits_towards(values: Tensor, limits: tuple[Tensor, Tensor], worth: Sequence[Tensor], decision: float) -> Tensor:
    """Digits of -1, 0 and 1 that follow a value which is known better with every step.

    Args:
        values: the value as it is known for each digit, ``[S, N, *]``; the last one stays.
        limits: the smallest and the largest value that digits tell, broadcastable to ``[N, *]``.
        worth: of each of the T digits, falling, broadcastable like the limits.
        decision: share of a digit's worth.

    Returns:
        ``[T, N, *]``.
    """
    events = values.new_empty(len(worth), *values.shape[1:])
    sent = torch.zeros_like(values[0])
    for step, (size, event) in enumerate(zip(worth, events, strict=True), start=1):
        value = values[min(step, len(values)) - 1]
        missing = torch.maximum(torch.minimum(value, limits[1]), limits[0]) - sent
        digit = _digit(missing, (0.5 if step == len(worth) else decision) * size)
        sent = sent + digit * size
        event.copy_(digit)
    return events


def spikes_towards(targets: Tensor, theta: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes of -1, 0 and 1, each worth ``theta``, whose sum follows a target: one wherever half of one is missing.

    Args:
        targets: what is to have been sent after each step, ``[S, N, *]``.
        theta: broadcastable to ``[N, *]``.
        sent: the sum of earlier spikes, ``[N, *]``, in thresholds.

    Returns:
        The spikes ``[S, N, *]``, and the sum of all of them.
    """
    events = torch.empty_like(targets)
    for target, event in zip(targets, events, strict=True):
        spike = _digit(target - theta * sent, 0.5 * theta)
        sent = sent + spike
        event.copy_(spike)
    return events, sent


def _digit(missing: Tensor, bound: Tensor) -> Tensor:
    """1 where at least ``bound`` is missing, -1 where as much is too much, else 0."""
    return (missing >= bound).to(missing.dtype) - (missing <= -bound).to(missing.dtype)


def bits(count: Tensor, digits: int, steps: int) -> Tensor:
    """The digits of base 2 of whole numbers ``[N, *]``, the highest first: ``[steps, N, *]``, zero behind the last."""
    places = torch.arange(digits - 1, digits - 1 - steps, -1, device=count.device)
    shifted = count >> places.clamp_min(0).view(-1, *[1] * count.dim())
    return (shifted & 1) * (places >= 0).view(-1, *[1] * count.dim())


def at_their_places(events: Tensor, places: Sequence[float]) -> Tensor:
    """Digits ``[S, *]`` times the weights of their places; nothing behind the last."""
    steps = events.shape[0]
    weights = events.new_tensor([*places, *[0.0] * max(0, steps - len(places))])[:steps]
    return events * weights.view(-1, *[1] * (events.dim() - 1))
