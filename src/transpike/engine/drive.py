"""What a population's drive is made of: linear maps of the spikes of earlier sites, read from the graph.

Each value on a spiking path is written as a sum of `Source` terms (site, window, weights) plus a bias plus values that
spikes do not reach. Convolutions compose with channel-wise maps (shortcuts, average pooling, slices) exactly; anything
that does not fit this form is *dense*: torch operators compute it from unpacked spikes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from transpike.engine.spike_map import Source, Tap
from transpike.graph.grid import ChannelScale
from transpike.graph.normalize import modules_of
from transpike.graph.operators import argument, is_a, operator_name
from transpike.graph.plan import Kind, Plan
from transpike.graph.site import Site


class NotEventDrivenError(Exception):
    """A drive is not a sum of windowed linear maps of spikes; the message says why."""


@dataclass(frozen=True, eq=False)
class LinearDrive:
    """A sum of terms.

    Attributes:
        terms: windows into the maps of sites.
        bias: ``[C]`` or None.
        others: nodes that spikes do not reach and that are added as they are.
        shape: ``(C, H, W)`` of one sample.
        flat: whether the graph's tensor is ``[N, C * H * W]``.
    """

    terms: tuple[Source, ...]
    bias: Tensor | None
    others: tuple[fx.Node, ...]
    shape: tuple[int, int, int]
    flat: bool = False

    def pure(self, operator_: str) -> LinearDrive:
        """Itself, if it is channel-wise maps of spikes and nothing else, which further windows compose with."""
        if self.others:
            raise NotEventDrivenError(f"{operator_} acts on a value that does not spike")
        if self.bias is not None:
            raise NotEventDrivenError(f"{operator_} acts on a sum with a bias")
        channels = self.shape[0]
        if not all(term.diagonal and len(term.weights[0]) == channels for term in self.terms):
            raise NotEventDrivenError(f"{operator_} follows another convolution without neurons between them")
        return self


class DriveBuilder:
    """Reads the drive of sites from the network's graph.

    Args:
        network: the ANN graph with its sites.
        plan: its plan.
        shapes: shape of every node's tensor for a batch, by name.
    """

    def __init__(self, network: fx.GraphModule, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.plan = plan
        self.shapes = shapes
        self.modules = modules_of(network)
        self.maps: dict[str, tuple[int, int, int]] = {}
        self.found: dict[fx.Node, LinearDrive] = {}

    def drive(self, node: fx.Node) -> LinearDrive:
        """What arrives at the site of ``node``.

        Raises:
            NotEventDrivenError: it has another form.
        """
        value = self.value(node.all_input_nodes[0])
        if value.shape != map_shape(self.shapes[node.name]):
            raise NotEventDrivenError("the population has another shape than its drive")
        return value

    def value(self, node: fx.Node) -> LinearDrive:
        """A node's value as terms.

        Raises:
            NotEventDrivenError: it has another form, or arguments that are not understood: torch takes many.
        """
        if node not in self.found:
            try:
                self.found[node] = self._read(node)
            except NotEventDrivenError:
                raise
            except Exception as error:
                name, text = operator_name(node, self.modules), f"{type(error).__name__}: {error}"
                raise NotEventDrivenError(f"{name} has arguments that are not understood ({text})") from error
        return self.found[node]

    def _read(self, node: fx.Node) -> LinearDrive:
        if node.name not in self.shapes:
            raise NotEventDrivenError("a sum with a number")
        if node.name in self.plan.read:
            raise NotEventDrivenError("a constant made with a size of a spiking value")
        if self.plan.kinds[node.name] is not Kind.SEQUENCE:
            return LinearDrive((), None, (node,), map_shape(self.shapes[node.name]))
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if isinstance(module, Site):
                shape = map_shape(self.shapes[node.name])
                self.maps[str(node.target)] = shape
                theta = module.theta.detach().reshape(-1).expand(shape[0])
                return LinearDrive((Source(str(node.target), (1, 1), (Tap(0, 0, 0),), (theta,)),), None, (), shape)
            return self._module(node, module)
        if node.target in _SUMS and not set(node.kwargs) - {"other", "input"}:
            return self._sum(node)
        if node.target is operator.getitem:
            return self._slice(node)
        if node.target is F.pad:
            return self._pad_channels(node)
        if node.target is F.avg_pool2d:
            keywords = {key: self._number(value) for key, value in node.kwargs.items()}
            pool = nn.AvgPool2d(*(self._number(value) for value in node.args[1:]), **keywords)
            return self._average(node, self.value(node.all_input_nodes[0]), pool)
        if node.target in (torch.mean, "mean"):
            return self._mean(node)
        if node.target in _RESHAPES:
            return self._reshape(node)
        raise NotEventDrivenError(f"{operator_name(node, self.modules)} has no event-driven form")

    def _module(self, node: fx.Node, module: nn.Module) -> LinearDrive:
        before = self.value(node.all_input_nodes[0])
        if is_a(module, nn.Conv2d) and isinstance(module, nn.Conv2d):
            return self._convolution(before, module)
        if is_a(module, nn.Linear) and isinstance(module, nn.Linear):
            if len(self.shapes[node.all_input_nodes[0].name]) != 2:
                raise NotEventDrivenError("a linear layer over the last of several dimensions")
            return self._linear(before, module)
        if is_a(module, nn.AvgPool2d) and isinstance(module, nn.AvgPool2d):
            return self._average(node, before, module)
        whole = is_a(module, nn.AdaptiveAvgPool2d) and self._out(node)[1:] == (1, 1)
        if whole and self._is_image(node.all_input_nodes[0]):
            return _pool(before.pure("pooling"), before.shape[1:], (1, 1), self._out(node))
        if isinstance(module, ChannelScale):
            return self._scaled(before, module)
        if is_a(module, (nn.Flatten, nn.Identity, nn.modules.dropout._DropoutNd)):
            return self._reshape(node)
        raise NotEventDrivenError(f"{type(module).__name__} has no event-driven form")

    def _number(self, value: Any) -> Any:
        """An argument, with the numbers that are computed from shapes of samples, as ``x.shape[3] // 2``."""
        if isinstance(value, list | tuple):
            return tuple(self._number(each) for each in value)
        if isinstance(value, slice):
            return slice(*(self._number(each) for each in (value.start, value.stop, value.step)))
        if not isinstance(value, fx.Node):
            return value
        found = None
        source = next(iter(value.all_input_nodes), None)
        if value.target in ("size", getattr) and source is not None:
            shape = (None, *self.shapes[source.name][1:])  # the first counts the samples
            axis = argument(value, 1, "dim")
            found = shape if axis in (None, "shape") else shape[self._number(axis)]
        elif value.target in _ARITHMETIC and (source is None or source.name not in self.shapes):
            found = _ARITHMETIC[value.target](*(self._number(each) for each in value.args))
        if found is None:
            raise NotEventDrivenError("an argument that is computed on the way")
        return found

    def _is_image(self, node: fx.Node) -> bool:
        return len(self.shapes[node.name]) == 4

    def _out(self, node: fx.Node) -> tuple[int, int, int]:
        return map_shape(self.shapes[node.name])

    def _convolution(self, before: LinearDrive, module: nn.Conv2d) -> LinearDrive:
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise NotEventDrivenError("a convolution with padding that is not a number of zeros")
        value = before.pure("a convolution")
        weight, groups = module.weight.detach(), module.groups
        kernel, stride, padding = pair(module.kernel_size), pair(module.stride), pair(module.padding)
        dilation = pair(module.dilation)
        rows, columns = (
            (value.shape[1 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
        )
        depthwise = groups == weight.shape[0] and weight.shape[1] == 1 and groups == value.shape[0]
        full = weight if depthwise or groups == 1 else ungrouped(weight, groups)
        windows = [
            (ky * dilation[0] - padding[0], kx * dilation[1] - padding[1], full[:, :, ky, kx])
            for ky in range(kernel[0])
            for kx in range(kernel[1])
        ]
        terms = tuple(self._compose(term, value, windows, stride, padding, depthwise=depthwise) for term in value.terms)
        bias = None if module.bias is None else module.bias.detach()
        return LinearDrive(terms, bias, (), (weight.shape[0], rows, columns))

    def _compose(
        self,
        term: Source,
        value: LinearDrive,
        windows: list[tuple[int, int, Tensor]],
        stride: tuple[int, int],
        padding: tuple[int, int],
        *,
        depthwise: bool,
    ) -> Source:
        """Windows of windows. Each pair of channel weights and kernel weights becomes one table, shared by its taps."""
        for axis, size in enumerate(self.maps[term.site][1:]):
            _check_padding(term, axis, size, value.shape[1 + axis], padding[axis])
        tables: dict[tuple[int, int], int] = {}
        weights: list[Tensor] = []
        taps = []
        for index, (wy, wx, matrix) in enumerate(windows):
            for tap in term.taps:
                key = (index, tap.weights)
                if key not in tables:
                    tables[key] = len(weights)
                    scale = term.weights[tap.weights]
                    weights.append(scale * matrix[:, 0] if depthwise else scale.unsqueeze(1) * matrix.T)
                taps.append(Tap(wy * term.stride[0] + tap.dy, wx * term.stride[1] + tap.dx, tables[key]))
        reach = (stride[0] * term.stride[0], stride[1] * term.stride[1])
        return Source(term.site, reach, tuple(taps), tuple(weights))

    def _average(self, node: fx.Node, before: LinearDrive, pool: nn.AvgPool2d) -> LinearDrive:
        if not self._is_image(node.all_input_nodes[0]):
            raise NotEventDrivenError("average pooling of a tensor without a batch of images")
        if pool.ceil_mode or pool.divisor_override or any(pair(pool.padding)):
            raise NotEventDrivenError("average pooling with ceil_mode, divisor_override or padding")
        kernel = pair(pool.kernel_size)
        stride = kernel if not pool.stride else pair(pool.stride)  # as torch does for an empty stride
        return _pool(before.pure("pooling"), kernel, stride, self._out(node))

    def _scaled(self, before: LinearDrive, module: ChannelScale) -> LinearDrive:
        """A factor of every channel, and a bias."""
        if before.others or any(term.shift for term in before.terms):
            raise NotEventDrivenError("a factor acts on a value that does not spike, or whose channels are moved")
        factor = module.weight.detach().reshape(-1)
        if before.flat and before.shape[1:] != (1, 1):
            raise NotEventDrivenError("a factor of every value of a flattened image")
        terms = tuple(replace(term, weights=tuple(each * factor for each in term.weights)) for term in before.terms)
        bias = None if before.bias is None else before.bias * factor
        if module.bias is not None:
            own = module.bias.detach().reshape(-1)
            bias = own if bias is None else bias + own
        return replace(before, terms=terms, bias=bias)

    def _linear(self, before: LinearDrive, module: nn.Linear) -> LinearDrive:
        value = before.pure("a linear layer")
        weight = module.weight.detach().view(-1, *value.shape)
        rows, columns = value.shape[1:]
        windows = [(y, x, weight[:, :, y, x]) for y in range(rows) for x in range(columns)]
        terms = tuple(self._compose(term, value, windows, (1, 1), (0, 0), depthwise=False) for term in value.terms)
        bias = None if module.bias is None else module.bias.detach()
        return LinearDrive(terms, bias, (), (module.out_features, 1, 1))

    def _sum(self, node: fx.Node) -> LinearDrive:
        if len(node.all_input_nodes) != 2:
            raise NotEventDrivenError("a sum with a number")
        a, b = (self.value(source) for source in node.all_input_nodes)
        if a.shape != b.shape or a.flat != b.flat:
            raise NotEventDrivenError("a sum that broadcasts")
        bias = b.bias if a.bias is None else (a.bias if b.bias is None else a.bias + b.bias)
        return LinearDrive(a.terms + b.terms, bias, a.others + b.others, a.shape, a.flat)

    def _slice(self, node: fx.Node) -> LinearDrive:
        """``x[:, :, ::2, ::2]``: every other pixel."""
        value = self.value(node.all_input_nodes[0]).pure("a slice")
        index = node.args[1]
        if (
            not isinstance(index, tuple)
            or not self._is_image(node)
            or not all(isinstance(part, slice) for part in index)
        ):
            raise NotEventDrivenError("an index that is not slices")
        steps = [1, 1, 1, 1]
        for axis, part in enumerate(index):
            if part.start not in (None, 0) or part.stop is not None or (axis < 2 and part.step not in (None, 1)):
                raise NotEventDrivenError("a slice that cuts")
            steps[axis] = part.step or 1
        terms = tuple(
            replace(term, stride=(term.stride[0] * steps[2], term.stride[1] * steps[3])) for term in value.terms
        )
        return replace(value, terms=terms, shape=self._out(node))

    def _pad_channels(self, node: fx.Node) -> LinearDrive:
        """Zero channels in front and behind, as in parameter-free shortcuts."""
        value = self.value(node.all_input_nodes[0]).pure("padding")
        amounts = self._number(argument(node, 1, "pad"))
        plain = argument(node, 2, "mode", "constant") == "constant" and argument(node, 3, "value") in (None, 0, 0.0)
        if not self._is_image(node) or not plain or len(amounts) != 6 or any(amounts[:4]) or min(amounts[4:]) < 0:
            raise NotEventDrivenError("padding of space, or with other values than zero")
        channels = value.shape[0]
        out = channels + amounts[4] + amounts[5]
        if amounts[4] % 8 == 0:
            terms = [replace(term, shift=amounts[4]) for term in value.terms]
        else:
            padded = [[F.pad(torch.diag(scale), amounts[4:]) for scale in term.weights] for term in value.terms]
            terms = [replace(term, weights=tuple(each)) for term, each in zip(value.terms, padded, strict=True)]
        return LinearDrive(tuple(terms), None, (), (out, *value.shape[1:]))

    def _mean(self, node: fx.Node) -> LinearDrive:
        value = self.value(node.all_input_nodes[0]).pure("a mean")
        axes = argument(node, 1, "dim")
        wanted = {axes} if isinstance(axes, int) else set(axes or ())
        if not self._is_image(node.all_input_nodes[0]) or {axis % 4 for axis in wanted} != {2, 3}:
            raise NotEventDrivenError("a mean over other dimensions than rows and columns")
        return _pool(value, value.shape[1:], (1, 1), (value.shape[0], 1, 1))

    def _reshape(self, node: fx.Node) -> LinearDrive:
        value = self.value(node.all_input_nodes[0])
        inside, outside = self.shapes[node.all_input_nodes[0].name], self.shapes[node.name]
        if inside[1:] == outside[1:]:
            return value
        size = value.shape[0] * value.shape[1] * value.shape[2]
        if len(outside) == 2 and outside[1] == size:
            return replace(value, flat=True)
        raise NotEventDrivenError("a change of shape that is not a flattening")


def map_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``(C, H, W)`` of a batch's shape; what has no rows has one, further dimensions are rows."""
    channels, columns = (*shape[1:2], 1)[0], (shape[-1] if len(shape) > 2 else 1)
    return (channels, math.prod(shape[2:-1]), columns)


def pair(value: Any) -> tuple[int, int]:
    """A number for rows and columns, or one for each; torch takes a list of one number for both."""
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def ungrouped(weight: Tensor, groups: int) -> Tensor:
    """A grouped kernel as one for all channels, with zeros between the groups."""
    out, inside = weight.shape[:2]
    full = weight.new_zeros(out, inside * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * out // groups, (group + 1) * out // groups)
        full[rows, group * inside : (group + 1) * inside] = weight[rows]
    return full


def _pool(
    value: LinearDrive, kernel: tuple[int, int], stride: tuple[int, int], out: tuple[int, int, int]
) -> LinearDrive:
    """Average pooling: all pixels of a window share one scaled weight, so spikes stay spikes."""
    area = kernel[0] * kernel[1]
    terms = []
    for term in value.terms:
        taps = tuple(
            Tap(y * term.stride[0] + tap.dy, x * term.stride[1] + tap.dx, tap.weights)
            for y in range(kernel[0])
            for x in range(kernel[1])
            for tap in term.taps
        )
        reach = (stride[0] * term.stride[0], stride[1] * term.stride[1])
        terms.append(Source(term.site, reach, taps, tuple(scale / area for scale in term.weights)))
    return LinearDrive(tuple(terms), None, (), out)


def _check_padding(term: Source, axis: int, size: int, length: int, padding: int) -> None:
    """Pixels beside the value, which a convolution takes for zeros, must lie beside the map, too."""
    offsets = {tap[axis] for tap in term.taps}
    beside = [*range(-padding, 0), *range(length, length + padding)]
    if any(0 <= place * term.stride[axis] + offset < size for place in beside for offset in offsets):
        raise NotEventDrivenError("the padding of a convolution would see pixels that the pooling before it drops")


_ARITHMETIC: Mapping[Any, Callable[..., Any]] = {
    each: each
    for each in (
        operator.getitem,
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
        operator.neg,
    )
}
_SUMS: set[Callable[..., Any] | str] = {operator.add, torch.add, "add"}
_RESHAPES: set[Callable[..., Any] | str] = {torch.flatten, torch.reshape, "flatten", "view", "reshape", "contiguous"}
_RESHAPES |= {torch.clone, "clone", F.dropout, torch.squeeze, "squeeze"}
