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
        drive: increments ``[S, N, *]``.
        theta: full scale, broadcastable to ``[N, *]``.
        worth: of each digit, falling, broadcastable like theta.
        decision: share of a digit's worth.
        lag: steps, at most S.

    Returns:
        ``[S - lag, N, *]``; zero behind the last digit.
    """
    events = drive.new_zeros(drive.shape[0] - lag, *drive.shape[1:])
    dtype = summing_type(drive.dtype)
    arrived = drive[:lag].sum(0, dtype=dtype)
    sent = torch.zeros_like(arrived)
    for step, (size, current, event) in enumerate(zip(worth, drive[lag:], events, strict=False), start=1):
        arrived = arrived + current
        missing = torch.minimum(arrived.clamp_min(0.0), theta) - sent
        bound = (0.5 if step == len(worth) else decision) * size
        digit = (missing >= bound).to(dtype) - (missing <= -bound).to(dtype)
        sent = sent + digit * size
        event.copy_(digit)
    return events


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
