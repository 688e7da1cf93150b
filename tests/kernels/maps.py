"""Spike maps from tensors of events, and what a readout makes of currents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transpike.engine.spike_map import MapShape


def pack(shape: MapShape, events: Tensor) -> Any:
    """Events ``[N, S, C, H, W]``, 0 or 1, as a compiled map; counts ``[N, 1, C, H, W]`` where the shape has them."""
    batch, steps = events.shape[:2]
    found = shape.empty(batch, steps)
    padded = torch.zeros(
        batch, steps, shape.padded_rows, shape.padded_columns, shape.padded_channels, dtype=torch.uint8
    )
    top, left = shape.halo.top, shape.halo.left
    inner = padded[:, :, top : top + shape.rows, left : left + shape.columns, : shape.channels]
    inner.copy_(events.permute(0, 1, 3, 4, 2))
    if not shape.probe:
        padded = (padded.unflatten(-1, (shape.bytes, 8)) << torch.arange(8)).sum(-1).to(torch.uint8)
    found.bytes.copy_(padded.flatten())
    return found


def running_means(currents: Tensor) -> Tensor:
    """``[S, *]``, sums that are exact in float32: the mean of the first 1, 2, .. steps."""
    steps = torch.arange(1, len(currents) + 1, dtype=torch.float32)
    return currents.cumsum(0).float() / steps.view(-1, *[1] * (currents.dim() - 1))
