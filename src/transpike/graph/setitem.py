"""Item assignment as a function: what ``x[index] = value`` makes of ``x``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def scattered(x: Tensor, index: Any, value: Any) -> Tensor | None:
    """``x`` after ``x[index] = value``, made without changing it; None for an index that is not followed."""
    parts = index if isinstance(index, tuple) else (index,)
    if any(isinstance(part, Tensor | list) for part in parts):
        return _put(x, parts, value)
    if any(part is None or isinstance(part, bool) for part in parts):
        return None
    given = sum(part is not Ellipsis for part in parts)
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        parts = (*parts[:place], *[slice(None)] * (x.dim() - given), *parts[place + 1 :])
    return _place(x, parts, value, 0)


def _place(x: Tensor, parts: tuple[Any, ...], value: Any, dim: int) -> Tensor:
    """Places a value at the rest of an index, from dimension ``dim`` on."""
    while parts and isinstance(parts[0], slice) and parts[0] == slice(None):
        parts, dim = parts[1:], dim + 1
    if not parts:
        if isinstance(value, Tensor):
            return value.to(x.dtype).expand_as(x)
        return torch.full_like(x, value)
    part, rest = parts[0], parts[1:]
    whole = (slice(None),) * dim
    if isinstance(part, slice):
        inner = _place(x[(*whole, part)], rest, value, dim + 1)
        return torch.slice_scatter(x, inner, dim, part.start, part.stop, 1 if part.step is None else part.step)
    inner = _place(x[(*whole, part)], rest, value, dim)
    return torch.select_scatter(x, inner, dim, part)


def _put(x: Tensor, parts: tuple[Any, ...], value: Any) -> Tensor | None:
    """Places a value at indices that are tensors."""
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) != len(parts):
        return None
    if len(tensors) == 1 and tensors[0].dtype == torch.bool and not isinstance(value, Tensor):
        mask = tensors[0]
        return x.masked_fill(mask.reshape(*mask.shape, *[1] * (x.dim() - mask.dim())), value)
    filled = value.to(x.dtype) if isinstance(value, Tensor) else torch.tensor(value, dtype=x.dtype, device=x.device)
    return torch.index_put(x, tuple(tensors), filled)
