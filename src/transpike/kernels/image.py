"""The convolution of an image in front of the first neurons, computed where they are (``native/image.hpp``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSource:
    """A convolution of an image that is the same at every step; its bias is the stage's.

    Attributes:
        shape: of one sample, ``(C, H, W)``.
        weights: ``[C_out, C, kernel rows, kernel columns]``.
        moves: stride, padding and dilation of rows, then of columns.
    """

    shape: tuple[int, int, int]
    weights: Tensor
    moves: tuple[int, int, int, int, int, int]

    def add_to(self, stage: Any, padded: int) -> None:
        """Hands it to a compiled stage with so many padded channels."""
        weights = self.weights.detach().permute(1, 2, 3, 0)
        missing = padded - weights.shape[-1]
        stage.set_image(self.shape, self.moves, torch.nn.functional.pad(weights, (0, missing)).contiguous())
