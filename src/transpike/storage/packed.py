"""Numbers on grids as whole numbers in files: small integers and an exponent of each row in the place of floats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from transpike.errors import CheckpointError

_EXPONENTS = "#exponents"
_TYPES = {torch.int8: 7, torch.int16: 15, torch.int32: 31}
"""Types and the bits that they have beside the sign."""


def pack_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of floats that rows of whole numbers times a power of two give exactly, as those; others as is."""
    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = _packed(tensor) if tensor.is_floating_point() and tensor.numel() else None
        if found is None:
            packed[name] = tensor
        else:
            packed[name], packed[name + _EXPONENTS] = found
    return packed


def _packed(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """Whole numbers ``n`` and exponents ``k`` of ``n 2^-k``, one of each row, or one for all of a vector."""
    rows = _rows(tensor.detach().double())
    largest = rows.abs().amax(1)
    top = torch.frexp(torch.where(largest > 0, largest, 1.0)).exponent  # 2^top is the first power above
    for kind, bits in _TYPES.items():
        exponents = (bits - top).to(torch.int16)
        whole = torch.ldexp(rows, exponents.unsqueeze(1))
        if bool((whole == torch.round(whole)).all()):
            return whole.to(kind).reshape(tensor.shape), exponents
    return None


def _rows(tensor: Tensor) -> Tensor:
    """``[rows, values]``: a row per element of the first dimension, but one for all where it would hold one value."""
    return tensor.reshape(len(tensor) if tensor.dim() > 1 and tensor.numel() > len(tensor) else 1, -1)


def unpack_tensors(tensors: Mapping[str, Tensor], dtype: torch.dtype, path: Path) -> dict[str, Tensor]:
    """The inverse of `pack_tensors`.

    Raises:
        CheckpointError: exponents that belong to no whole numbers.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(_EXPONENTS):
            continue
        exponents = tensors.get(name + _EXPONENTS)
        if exponents is None:
            found[name] = tensor
            continue
        rows = _rows(tensor.double())
        if tensor.dtype not in _TYPES or exponents.dtype != torch.int16 or exponents.shape != rows.shape[:1]:
            raise CheckpointError(
                f"{name} holds no whole numbers with exponents", where=str(path), fix="save the network again"
            )
        found[name] = torch.ldexp(rows, -exponents.unsqueeze(1)).to(dtype).reshape(tensor.shape)
    return found
