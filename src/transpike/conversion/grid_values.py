"""What is known about a value of a quantised network, and how that goes through channels and pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


@dataclass(frozen=True, eq=False)
class Value:
    """What is known about a value, each a tensor of its shape (or several, of an operator with several results).

    Attributes:
        unit: what the number 1 means; 0 where it is always zero.
        step: a power of two of which it is a multiple; 0 where it is always zero.
        bound: its largest magnitude in one time-step; under digits, of the sum of all steps.
    """

    unit: Any
    step: Any
    bound: Any


def along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    """One number per channel, broadcastable to a value."""
    if values.numel() == 1 or axis == -1:
        return values.reshape(()) if values.numel() == 1 else values
    return values.reshape(-1, *[1] * (like.dim() - 2))


def smallest(step: Any) -> float:
    """The smallest step of a value; 1 where it is always zero."""
    found = [part[part > 0].min().item() for part in pytree.tree_leaves(step) if bool((part > 0).any())]
    return float(min(found, default=1.0))


def same_in_space(values: Tensor) -> bool:
    """Whether a value's channels each have one number, zeros aside."""
    if values.dim() < 3:
        return bool((values.amax(-1) == values.amin(-1)).all())
    rows = values.flatten(2)
    return bool(((rows == rows.amax(2, keepdim=True)) | (rows == 0)).all())


def constant(before: Tensor, after: Tensor) -> Tensor:
    """One number per channel of what was pooled, for the result."""
    if before.dim() < 3:
        return before.amax() * torch.ones_like(after)
    channels = before.flatten(2).amax(2)
    return torch.ones_like(after) * channels.reshape(*channels.shape, *[1] * (after.dim() - 2))
