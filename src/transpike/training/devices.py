"""Names of devices."""

from __future__ import annotations

import torch


def torch_device(device: str) -> str:
    """The torch name of ``"auto"``, ``"cpu"`` or ``"gpu"``, the words that `fit` takes; torch names stay."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda" if device == "gpu" else device
