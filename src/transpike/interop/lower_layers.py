"""Layers as the nodes of a target: thresholds, pooling factors and initial potentials folded into weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from transpike.engine.drive import ungrouped
from transpike.errors import ExportError, UnsupportedOperator
from transpike.interop.layers import Layer, Op
from transpike.interop.targets import NirTarget, Start

INPUT, START, OUTPUT = "input", "input_start", "output"
"""Names of the inputs and the output; those of all other nodes lie between in the alphabet, in order of execution.

HDF5 lists what it holds in alphabetical order, and readers take that for the order of execution.
"""

_WINDOW = ("kernel", "stride", "padding")
_ONES = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}


@dataclass(frozen=True, eq=False)
class Node:
    """One node of a target's graph, in float64.

    Attributes:
        name: its name in the graph.
        kind: the class in NIR.
        inputs: the nodes whose values are added and given to it.
        shape: of its value for one sample.
        arrays: ``weight``, ``bias``; of neurons ``v_threshold``.
        settings: numbers of convolutions and poolings.
        parts: of neurons: which channels are those of which site.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Weights:
    """A convolution or linear map that is not a node yet, so that factors can still go into it."""

    kind: str
    name: str
    weight: Tensor
    bias: Tensor
    settings: Mapping[str, Any]

    def scaled(self, factor: Tensor, shift: Tensor | None = None) -> _Weights:
        rows = factor.expand(len(self.bias))
        bias = self.bias * rows + (0 if shift is None else shift)
        return replace(self, weight=self.weight * rows.view(-1, *[1] * (self.weight.dim() - 1)), bias=bias)


@dataclass(frozen=True, eq=False)
class _Term:
    """A node's value times a factor (a scalar or one per channel), or what weights make of it."""

    source: str
    scale: Tensor
    weights: _Weights | None = None


@dataclass(frozen=True, eq=False)
class _Value:
    """A sum of terms.

    Attributes:
        terms: what is added.
        shape: of one sample.
        image: ``(C, H, W)`` of a value that a flattening made one-dimensional, which is not done yet.
    """

    terms: tuple[_Term, ...]
    shape: tuple[int, ...]
    image: tuple[int, ...] | None = None


def lower_layers(layers: Sequence[Layer], target: NirTarget, steps: int | None) -> list[Node]:
    """The nodes of a graph for a target.

    Args:
        layers: of the network.
        target: who will read it.
        steps: T, for targets that get v(0) in equal parts; else None.

    Raises:
        ExportError: a form that this target cannot read.
        ValueError: the target needs ``steps``.
    """
    return _Lowering(layers, target, steps).run()


class _Lowering:
    def __init__(self, layers: Sequence[Layer], target: NirTarget, steps: int | None) -> None:
        self.layers, self.target, self.steps = layers, target, steps
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.values: dict[str, _Value] = {}
        self.made: dict[Any, str] = {}

    def run(self) -> list[Node]:
        for layer in self.layers:
            self.values[layer.name] = self._lower(layer)
        return self.nodes

    def _add(self, name: str, kind: str, inputs: tuple[str, ...], shape: tuple[int, ...], **rest: Any) -> str:
        if name not in (INPUT, START, OUTPUT):
            name = f"n{len(self.nodes):04d}_{name}"
        self.nodes.append(Node(name, kind, inputs, shape, **rest))
        self.shapes[name] = shape
        return name

    def _lower(self, layer: Layer) -> _Value:
        one = torch.ones((), dtype=torch.float64)
        if layer.op is Op.INPUT:
            return _Value((_Term(self._add(INPUT, "Input", (), layer.shape), one),), layer.shape)
        value = self.values[layer.inputs[0]]
        if layer.op is Op.SITE:
            return self._site(layer, value)
        if layer.op is Op.OUTPUT:
            sources = self._sources(value if not self.target.flatten else self._flat(value), one, None)
            shape = self.shapes[sources[0]]
            self._add(OUTPUT, "Output", sources, shape)
            return value
        if layer.op is Op.ADD:
            summands = [self.values[name] for name in layer.inputs]
            if len({each.image for each in summands}) > 1:
                summands = list(map(self._flat, summands))
            return replace(summands[0], terms=tuple(term for each in summands for term in each.terms))
        if layer.op is Op.FLATTEN:
            return _Value(value.terms, layer.shape, value.image or value.shape)
        if layer.op is Op.SCALE:
            return self._times(value, one * layer.settings["factor"], None, layer.name)
        if layer.op is Op.AFFINE:
            scale, shift = (layer.tensors[name].detach().double().cpu() for name in ("weight", "bias"))
            return self._times(value, scale, shift, layer.name)
        if layer.op is Op.LINEAR:
            return self._linear(layer, value)
        terms = tuple(self._window(layer, term, first=number == 0) for number, term in enumerate(value.terms))
        return _Value(terms, layer.shape)

    def _times(self, value: _Value, scale: Tensor, shift: Tensor | None, name: str) -> _Value:
        """A value with its channels scaled and shifted."""
        channels = (value.image or value.shape)[0]
        if value.image is not None and scale.dim() and len(scale) != channels:
            value = self._flat(value)
        terms = []
        for number, term in enumerate(value.terms):
            more = shift if number == 0 else None
            if term.weights is not None:
                terms.append(replace(term, weights=term.weights.scaled(scale, more)))
            elif more is None:
                terms.append(replace(term, scale=term.scale * scale))
            else:
                weights = self._diagonal(term.scale * scale, value.image or value.shape, name)
                terms.append(_Term(term.source, torch.ones_like(term.scale), replace(weights, bias=more)))
        return replace(value, terms=tuple(terms))

    def _window(self, layer: Layer, term: _Term, *, first: bool) -> _Term:
        """Layers that look at windows of an image."""
        numbers = layer.settings
        if layer.op is Op.CHANNELS and term.weights is not None and term.weights.settings["groups"] == 1:
            amounts = (numbers["front"], numbers["back"])
            weight = F.pad(term.weights.weight, (*[0] * 6, *amounts))
            return replace(term, weights=replace(term.weights, weight=weight, bias=F.pad(term.weights.bias, amounts)))
        term = self._settled(term)
        channels = self.shapes[term.source][0]
        scale = term.scale.expand(channels)
        if layer.op is Op.CONV:
            weight = layer.tensors["weight"].detach().double().cpu()
            bias = layer.tensors.get("bias")
            bias = torch.zeros(len(weight)) if bias is None or not first else bias.detach().cpu()
            groups = numbers["groups"]
            inside = scale.view(groups, -1).repeat_interleave(len(weight) // groups, 0)
            weights = _Weights("Conv2d", layer.name, weight * inside[:, :, None, None], bias.double(), dict(numbers))
        elif layer.op is Op.POOL:
            return self._pool(layer, term, scale)
        else:
            identity = torch.diag(scale)[:, :, None, None]
            if layer.op is Op.CHANNELS:
                identity = F.pad(identity, (*[0] * 6, numbers["front"], numbers["back"]))
            settings = {**_ONES, "stride": numbers.get("stride", (1, 1))}
            bias = torch.zeros(len(identity), dtype=torch.float64)
            weights = _Weights("Conv2d", layer.name, identity, bias, settings)
        return _Term(term.source, torch.ones((), dtype=torch.float64), self._readable(weights))

    def _readable(self, weights: _Weights) -> _Weights:
        """Dilation written out with zeros where the target does not read it, and groups for all.

        nir 1.0.8 itself does not read back a grouped convolution whose input shape it knows.
        """
        numbers, weight = dict(weights.settings), weights.weight
        if numbers["groups"] > 1:
            weight, numbers["groups"] = ungrouped(weight, numbers["groups"]), 1
        if max(numbers["dilation"]) > 1 and not self.target.dilated:
            size = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], numbers["dilation"], strict=True)]
            wide = weight.new_zeros(*weight.shape[:2], *size)
            wide[:, :, :: numbers["dilation"][0], :: numbers["dilation"][1]] = weight
            weight, numbers["dilation"] = wide, (1, 1)
        return replace(weights, weight=weight, settings=numbers)

    def _pool(self, layer: Layer, term: _Term, scale: Tensor) -> _Term:
        numbers = layer.settings
        area = numbers["kernel"][0] * numbers["kernel"][1]
        if any(numbers["padding"]) and not self.target.pads_pooling:
            weight = (scale / area).view(-1, 1, 1, 1).expand(-1, 1, *numbers["kernel"])
            settings = {**_ONES, "stride": numbers["stride"], "padding": numbers["padding"], "groups": len(scale)}
            weights = _Weights("Conv2d", layer.name, weight, torch.zeros_like(scale), settings)
            return _Term(term.source, torch.ones((), dtype=torch.float64), self._readable(weights))
        key = (term.source, *(tuple(numbers[name]) for name in _WINDOW))
        if key not in self.made:
            kind = "AvgPool2d" if self.target.average else "SumPool2d"
            self.made[key] = self._add(
                layer.name, kind, (term.source,), layer.shape, settings={name: numbers[name] for name in _WINDOW}
            )
        return _Term(self.made[key], term.scale if self.target.average else term.scale / area)

    def _linear(self, layer: Layer, value: _Value) -> _Value:
        weight = layer.tensors["weight"].detach().double().cpu()
        bias = layer.tensors.get("bias")
        bias = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        as_image = value.image is not None and not self.target.flatten
        value = replace(value, terms=tuple(map(self._settled, value.terms))) if as_image else self._flat(value)
        terms = []
        for number, term in enumerate(map(self._settled, value.terms)):
            shift = bias if number == 0 else torch.zeros_like(bias)
            if as_image:
                assert value.image is not None
                matrix = weight.view(-1, *value.image) * term.scale.expand(value.image[0])[:, None, None]
                weights = _Weights("Conv2d", layer.name, matrix, shift, _ONES)
            else:
                weights = _Weights("Affine", layer.name, weight * term.scale.expand(weight.shape[1]), shift, {})
            terms.append(_Term(term.source, torch.ones((), dtype=torch.float64), weights))
        return _Value(tuple(terms), layer.shape, (*layer.shape, 1, 1) if as_image else None)

    def _flat(self, value: _Value) -> _Value:
        """A value whose flattening is done."""
        if value.image is None:
            return value
        terms = []
        for term in map(self._settled, value.terms):
            key = ("flatten", term.source)
            if key not in self.made:
                self.made[key] = self._add(
                    "flatten", "Flatten", (term.source,), value.shape, settings={"of": value.image}
                )
            pixels = value.shape[0] // value.image[0]
            scale = term.scale.repeat_interleave(pixels) if term.scale.dim() else term.scale
            terms.append(_Term(self.made[key], scale))
        return _Value(tuple(terms), value.shape)

    def _settled(self, term: _Term) -> _Term:
        """A term without weights: those that it has become a node."""
        if term.weights is None:
            return term
        return _Term(self._node(term.source, term.weights), torch.ones((), dtype=torch.float64))

    def _node(self, source: str, weights: _Weights) -> str:
        key = id(weights)
        if key not in self.made:
            shape: tuple[int, ...] = (len(weights.bias),)
            if weights.kind == "Conv2d":
                shape = (*shape, *_windows(self.shapes[source][1:], weights.weight.shape[2:], weights.settings))
            arrays = {"weight": weights.weight, "bias": weights.bias}
            self.made[key] = self._add(
                weights.name, weights.kind, (source,), shape, arrays=arrays, settings=weights.settings
            )
            self.made["keep", key] = weights  # type: ignore[assignment]  # so that its id stays its own
        return self.made[key]

    def _diagonal(self, scale: Tensor, shape: tuple[int, ...], name: str) -> _Weights:
        scale = scale.expand(shape[0])
        zeros = torch.zeros_like(scale)
        if len(shape) == 1:
            return _Weights("Affine", name, torch.diag(scale), zeros, {})
        settings = {**_ONES, "groups": shape[0]}
        return self._readable(_Weights("Conv2d", name, scale.view(-1, 1, 1, 1), zeros, settings))

    def _sources(self, value: _Value, factor: Tensor, shift: Tensor | None) -> tuple[str, ...]:
        """Nodes whose sum is the value times a factor per channel, plus a shift per channel."""
        value = self._times(value, factor, shift, "bias" if shift is not None else "scale")
        found = []
        for term in value.terms:
            if term.weights is not None:
                found.append(self._node(term.source, term.weights))
            elif bool((term.scale == 1).all()) and term.source not in found:
                found.append(term.source)
            else:
                weights = self._diagonal(term.scale, self.shapes[term.source], "shortcut")
                found.append(self._node(term.source, weights))
        return tuple(found)

    def _site(self, layer: Layer, value: _Value) -> _Value:
        image = value.image if value.image is not None and not self.target.flatten else None
        if image is None:
            value = self._flat(value)
        shape = image or value.shape
        if image is not None and shape[1:] != (1, 1):
            reason, fix = "it takes no flattened image, only images", "put the flattening behind the neurons"
            raise ExportError([UnsupportedOperator(layer.name, "flatten", layer.label, reason, fix)], self.target.name)
        theta, v_init, bias = (
            layer.tensors[name].double().cpu().flatten()
            if layer.tensors[name].dim()
            else layer.tensors[name].double().cpu()
            for name in ("theta", "v_init", "bias")
        )
        level = theta
        if self.target.start is Start.THRESHOLD:
            level = theta - v_init
            if bool((level <= 0).any()):
                reason, fix = (
                    "its neurons would fire without input: v(0) is not below theta",
                    "convert with half of theta",
                )
                raise ExportError([UnsupportedOperator(layer.name, "site", layer.label, reason, fix)], self.target.name)
        unit = level if self.target.one_threshold else torch.ones((), dtype=torch.float64)
        shift = bias / unit
        if self.target.start is Start.BIAS:
            shift = shift + self._parts_of(v_init / unit)
        sources = self._sources(value, 1 / unit, shift.expand(shape[0]) if bool((shift != 0).any()) else None)
        if self.target.start is Start.INPUT and bool((v_init != 0).any()):
            sources = (*sources, self._begin((v_init / unit).expand(shape[0]), shape, layer.name))
        levels = (level / unit).expand(shape[0]).view(-1, *[1] * (len(shape) - 1))
        arrays = {"v_threshold": levels * torch.ones(shape, dtype=torch.float64)}
        parts = {layer.label: (0, shape[0])}
        name = self._add(layer.name, "IF", sources, shape, arrays=arrays, parts=parts)
        return _Value((_Term(name, theta),), value.shape, image)

    def _parts_of(self, v_init: Tensor) -> Tensor:
        if self.steps is None:
            raise ValueError(
                f"{self.target.name} has potentials that begin at zero, so v(0) / T goes into every step's bias: give "
                "steps=T (--steps T), the number of steps that the network will run"
            )
        return v_init / self.steps

    def _begin(self, v_init: Tensor, shape: tuple[int, ...], name: str) -> str:
        """A layer that brings v(0) from the second input, one plane as large as the image, or one number."""
        plane = self.shapes[INPUT][1:] if len(self.shapes[INPUT]) == 3 else ()
        if START not in self.shapes:
            index = next(number for number, node in enumerate(self.nodes) if node.name == INPUT)
            node = Node(START, "Input", (), (1, *plane))
            self.nodes.insert(index + 1, node)
            self.shapes[START] = node.shape
        source = START
        if len(shape) == 3:
            kernel = tuple(outer - inner + 1 for outer, inner in zip(plane, shape[1:], strict=False))
            if len(kernel) != 2 or min(kernel) < 1:
                reason, fix = "its image is larger than the input", "convert with v(0) = 0 (--potential zero)"
                where = [UnsupportedOperator(name, "site", name, reason, fix)]
                raise ExportError(where, self.target.name)
            stride = tuple(_stride(outer, inner) for outer, inner in zip(plane, shape[1:], strict=True))
            size = tuple(1 if s else k for s, k in zip(stride, kernel, strict=True))
            weight = torch.zeros(shape[0], 1, *size, dtype=torch.float64)
            weight[:, 0, 0, 0] = v_init
            settings = {**_ONES, "stride": tuple(s or 1 for s in stride)}
            return self._node(source, _Weights("Conv2d", f"{name}_start", weight, torch.zeros_like(v_init), settings))
        if plane:
            key = ("flatten", START)
            if key not in self.made:
                flat = (plane[0] * plane[1],)
                self.made[key] = self._add("start", "Flatten", (START,), flat, settings={"of": self.shapes[START]})
            source = self.made[key]
        weight = torch.zeros(shape[0], self.shapes[source][0], dtype=torch.float64)
        weight[:, 0] = v_init
        return self._node(source, _Weights("Affine", f"{name}_start", weight, torch.zeros_like(v_init), {}))


def _stride(outer: int, inner: int) -> int:
    """A stride at which windows of one pixel give so many; 0 if there is none."""
    stride = -(-outer // inner)
    return stride if (outer - 1) // stride + 1 == inner else 0


def _windows(size: Sequence[int], kernel: Sequence[int], numbers: Mapping[str, Any]) -> tuple[int, ...]:
    return tuple(
        (size[i] + 2 * numbers["padding"][i] - numbers["dilation"][i] * (kernel[i] - 1) - 1) // numbers["stride"][i] + 1
        for i in (0, 1)
    )
