"""A converted network as a plain list of layers, and a module made of such a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Op(StrEnum):
    """What a layer computes."""

    INPUT = "input"
    CONV = "conv"
    LINEAR = "linear"
    AFFINE = "affine"
    POOL = "pool"
    SELECT = "select"
    CHANNELS = "channels"
    FLATTEN = "flatten"
    SCALE = "scale"
    ADD = "add"
    SITE = "site"
    OUTPUT = "output"


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer.

    Attributes:
        name: unique, an identifier.
        op: what it computes. ``AFFINE`` scales and shifts channels; ``POOL`` averages; ``SELECT`` takes every n-th
            row and column; ``CHANNELS`` puts channels of zeros in front and behind.
        inputs: names of the layers it reads.
        shape: of its value for one sample.
        tensors: ``weight`` and ``bias``; of a site ``theta``, ``v_init`` and ``bias``. An affine layer that was a
            BatchNorm also has its numbers, which give the same bits.
        settings: its numbers: ``stride``, ``padding``, ``dilation``, ``groups``, ``kernel``, ``front`` and ``back``,
            ``factor``; of a pooling also ``by``, the operator of torch, where it is no ``AvgPool2d``.
        label: name of the site, or what stood in the source.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


class LayerModule(nn.Module):
    """The ANN of a list of layers, as `transpike.convert` takes it.

    Args:
        layers: in an order in which each comes behind what it reads; the first is the input, the last the output.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        for layer in layers:
            made = _module(layer)
            if made is not None:
                self.add_module(layer.name, made.requires_grad_(False))

    def forward(self, x: Tensor) -> Tensor:
        """``[N, *]`` to the answers."""
        values: dict[str, Tensor] = {}
        for layer in self.layers:
            if layer.op is Op.INPUT:
                values[layer.name] = x
                continue
            first, *others = (values[name] for name in layer.inputs)
            values[layer.name] = self._value(layer, first, others)
        return values[self.layers[-1].name]

    def _value(self, layer: Layer, first: Tensor, others: list[Tensor]) -> Tensor:
        numbers = layer.settings
        if layer.op is Op.ADD:
            for other in others:
                first = first + other
            return first
        if layer.op is Op.SELECT:
            rows, columns = numbers["stride"]
            return first[:, :, ::rows, ::columns]
        if layer.op is Op.CHANNELS:
            return F.pad(first, (0, 0, 0, 0, numbers["front"], numbers["back"]))
        if layer.op is Op.POOL and numbers.get("by") == "mean":
            return first.mean((2, 3), keepdim=True)
        if layer.op is Op.SCALE:
            return first * float(numbers["factor"])
        return first if layer.op is Op.OUTPUT else self.get_submodule(layer.name)(first)


class ChannelAffine(nn.BatchNorm2d):
    """Scales and shifts each channel: a BatchNorm, with the statistics 0 and 1 where it was none.

    Args:
        tensors: ``weight`` and ``bias``; or the statistics, ``gamma`` and ``beta`` of a BatchNorm.
        eps: of the BatchNorm.
    """

    def __init__(self, tensors: Mapping[str, Tensor], eps: float) -> None:
        super().__init__(len(tensors["weight"]), eps=eps, dtype=tensors["weight"].dtype)
        names = {"weight": "gamma", "bias": "beta"} if "running_mean" in tensors else {}
        with torch.no_grad():
            for name, value in self.state_dict().items():
                found = tensors.get(names.get(name, name))
                if found is not None:
                    value.copy_(found)

    def _check_input_dim(self, input: Tensor) -> None:
        """Any ``[N, C, *]``."""


def _module(layer: Layer) -> nn.Module | None:
    numbers, weight, bias = layer.settings, layer.tensors.get("weight"), layer.tensors.get("bias")
    if layer.op is Op.CONV:
        assert weight is not None
        made: nn.Module = nn.Conv2d(
            weight.shape[1] * numbers["groups"],
            weight.shape[0],
            (weight.shape[2], weight.shape[3]),
            numbers["stride"],
            numbers["padding"],
            numbers["dilation"],
            numbers["groups"],
            bias is not None,
            dtype=weight.dtype,
        )
    elif layer.op is Op.LINEAR:
        assert weight is not None
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, dtype=weight.dtype)
    elif layer.op is Op.AFFINE:
        return ChannelAffine(layer.tensors, numbers.get("eps", 0.0))
    elif layer.op is Op.POOL:
        if numbers.get("by") == "adaptive":  # torch adds in another order
            return nn.AdaptiveAvgPool2d(layer.shape[1:])
        return nn.AvgPool2d(numbers["kernel"], numbers["stride"], numbers["padding"])
    else:
        return {Op.FLATTEN: nn.Flatten(1), Op.SITE: nn.ReLU()}.get(layer.op)
    with torch.no_grad():
        for name, value in layer.tensors.items():
            getattr(made, name).copy_(value)
    return made
