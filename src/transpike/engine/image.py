"""The convolution of an image that a stage computes itself, in front of its neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from transpike.engine.drive import LinearDrive, pair
from transpike.graph.grid import InputGrid

_MOST_TAPS = 64
"""Values of a window, up to which the kernel is as fast as a convolution of torch, which needs a call of its own."""

_MOST_MOVE = 1024  # pixels, of strides, paddings and dilations that the kernel takes


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


@dataclass(frozen=True)
class Image:
    """A convolution of one of the model's arguments.

    Attributes:
        argument: its place among the arguments.
        source: the convolution.
        grid: what the argument is rounded by in a quantised network.
    """

    argument: int
    source: ImageSource
    grid: InputGrid | None


def split_image(
    value: LinearDrive, network: fx.GraphModule, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[LinearDrive, Image | None]:
    """A drive without the convolution that its stage computes itself, and that; None if there is no such.

    Args:
        value: the drive.
        network: the ANN graph.
        shapes: shape of every node's tensor in a batch, by name.
    """
    if len(value.others) != 1 or value.others[0].op != "call_module" or len(value.others[0].all_input_nodes) != 1:
        return value, None
    (node,) = value.others
    layer, (argument,) = network.get_submodule(str(node.target)), node.all_input_nodes
    grid = network.get_submodule(str(argument.target)) if argument.op == "call_module" else None
    if isinstance(grid, InputGrid):
        (argument,) = argument.all_input_nodes
    if argument.op != "placeholder":
        return value, None
    source = image_source(layer, shapes[argument.name][1:])
    if source is None:
        return value, None
    bias = None if layer.bias is None else cast("Tensor", layer.bias).detach()
    if bias is not None and value.bias is not None:
        bias = value.bias + bias
    index = list(network.graph.find_nodes(op="placeholder")).index(argument)
    image = Image(index, source, grid if isinstance(grid, InputGrid) else None)
    return replace(value, others=(), bias=value.bias if bias is None else bias), image


def image_source(layer: nn.Module, shape: tuple[int, ...]) -> ImageSource | None:
    """A module as a convolution of images of a shape ``(C, H, W)``; None for what a stage does not compute itself."""
    if type(layer) is not nn.Conv2d or layer.groups != 1 or layer.padding_mode != "zeros" or len(shape) != 3:
        return None
    if isinstance(layer.padding, str) or layer.weight[0].numel() > _MOST_TAPS:
        return None
    rows, columns = zip(*(pair(numbers) for numbers in (layer.stride, layer.padding, layer.dilation)), strict=True)
    if max(*rows, *columns) > _MOST_MOVE:
        return None
    return ImageSource(shape, layer.weight, (*rows, *columns))
