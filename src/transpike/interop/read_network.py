"""Reads a converted network as a list of layers, or says everything that stands in the way."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from transpike.errors import ExportError, UnsupportedOperator
from transpike.graph.capture import source_of
from transpike.graph.operators import argument, is_a, operator_name
from transpike.graph.plan import Kind
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor, reference_tensor
from transpike.interop.layers import Layer, Op
from transpike.interop.refusals import quantised
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF
from transpike.schedules import Plain

_SUMS: set[Callable[..., Any] | str] = {operator.add, torch.add, "add"}
_PRODUCTS: set[Callable[..., Any] | str] = {operator.mul, torch.mul, "mul", operator.truediv, torch.div, "div"}
_RESHAPES: set[Callable[..., Any] | str] = {torch.flatten, torch.reshape, "flatten", "view", "reshape", "contiguous"}
_RESHAPES |= {torch.clone, "clone", F.dropout, torch.squeeze, "squeeze", "float"}
_SAME = (nn.Flatten, nn.Identity, nn.modules.dropout._DropoutNd)


class _NotReadError(Exception):
    """One operator has no counterpart; the message says why."""

    def __init__(self, reason: str, fix: str = "") -> None:
        self.reason, self.fix = reason, fix
        super().__init__(reason)


def read_network(snn: SpikingNetwork, where: str) -> list[Layer]:
    """The layers of a converted network, in its own precision.

    Args:
        snn: the network.
        where: what it is exported to, for the message.

    Raises:
        ExportError: something cannot be expressed; all reasons are listed.
    """
    if snn.conversion.quantise is not None:
        raise ExportError([quantised("NIR")], where)
    reasons = _of_the_whole(snn)
    reader = _Reader(snn)
    layers = reader.run()
    reasons += reader.reasons
    if reasons:
        raise ExportError(reasons, where)
    return layers


def _of_the_whole(snn: SpikingNetwork) -> list[UnsupportedOperator]:
    found = []

    def refuse(what: str, source: str, reason: str, fix: str) -> None:
        found.append(UnsupportedOperator("", what, source, reason, fix))

    if not isinstance(snn.schedule, Plain):
        reason = "simulators step all layers together; there is no node that looks ahead, waits or sends digits"
        fix = "convert with schedule=tp.schedules.Plain(), for example by methods['snnc-light-bias']"
        refuse(f"schedule {snn.schedule}", "(the conversion)", reason, fix)
    if not isinstance(snn.neuron, IF):
        reason = "NIR has one integrate-and-fire neuron, whose spikes are 0 and 1"
        refuse(f"neuron {snn.neuron}", "(the conversion)", reason, "convert with the neuron IF (--neuron if)")
    for site in snn.plan.functions:
        fix = "replace the function by ReLU and train the network again"
        refuse(f"{site.operator} (site {site.name})", site.source, f"{site.kind.meaning}, which NIR has not", fix)
    for site in snn.sites:
        module, population = snn.site(site.name), site.shape
        if not module.steady:
            fix = "convert without corrections per step (temporal-bias; method ftbc)"
            refuse(f"site {site.name}", site.source, "its bias differs from step to step", fix)
        for name, value in (("potentials", module.v_init), ("biases", module.bias)):
            if not _per_channel(value, population) and (name == "potentials" or module.steady):
                fix = f"convert with {name} per channel or layer"
                refuse(f"site {site.name}", site.source, f"its {name} differ within a channel", fix)
    inputs = snn.network.graph.find_nodes(op="placeholder")
    if len(inputs) != 1:
        refuse("the model", "(whole model)", f"it takes {len(inputs)} inputs", "export a model with one")
    return found


def _per_channel(value: Tensor, population: tuple[int, ...]) -> bool:
    """Whether a number of a site is one per channel or for all; those with steps in front are looked at elsewhere."""
    trailing = value.shape[-(len(population) - 1) :] if len(population) > 1 else ()
    within = all(size == 1 for size in trailing) if value.dim() >= len(population) else True
    return within and (value.dim() <= len(population) or value.shape[0] == 1)


class _Reader:
    """Walks over the graph; nodes behind one that cannot be read are skipped, so that each reason is said once."""

    def __init__(self, snn: SpikingNetwork) -> None:
        self.snn = snn
        self.plan = snn.plan
        self.values: dict[fx.Node, Any] = {}
        self.layers: dict[fx.Node, Layer] = {}
        self.order: list[Layer] = []
        self.reasons: list[UnsupportedOperator] = []

    def run(self) -> list[Layer]:
        reference = reference_tensor(self.snn.network)
        example = tuple(
            torch.zeros(2, *shape, dtype=reference.dtype, device=reference.device)
            for shape in self.snn.capture.input_shapes
        )

        def keep(node: fx.Node, value: Any) -> None:
            self.values[node] = tuple(value.shape) if isinstance(value, Tensor) else value

        with torch.no_grad():
            visitor = NodeVisitor(self.snn.network, on_node=keep)
            visitor.run(*example)
        self.modules = visitor.found
        refused: set[fx.Node] = set()
        for node in self.snn.network.graph.nodes:
            if self.plan.kinds[node.name] in (Kind.SIZE, Kind.CONSTANT):
                continue
            if any(source in refused for source in node.all_input_nodes):
                refused.add(node)
                continue
            try:
                self.layers[node] = layer = self._read(node)
                if layer not in self.order:
                    self.order.append(layer)
            except _NotReadError as problem:
                refused.add(node)
                self._refuse(node, problem)
        return self.order

    def _refuse(self, node: fx.Node, problem: _NotReadError) -> None:
        fix = problem.fix or "replace it by convolutions, linear layers, average pooling or sums"
        name = operator_name(node, self.modules) if node.op != "output" else "the model's output"
        self.reasons.append(UnsupportedOperator(node.name, name, source_of(node), problem.reason, fix))

    def _layer(self, node: fx.Node, op: Op, *sources: fx.Node, **rest: Any) -> Layer:
        names = tuple(self.layers[source].name for source in sources)
        return Layer(node.name, op, names, self.values[node][1:], **rest)

    def _same(self, node: fx.Node) -> Layer:
        """A node that changes nothing stands for what it reads."""
        return self.layers[node.all_input_nodes[0]]

    def _value(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(self._value(each) for each in value)
        if isinstance(value, slice):
            return slice(*(self._value(each) for each in (value.start, value.stop, value.step)))
        if isinstance(value, fx.Node):
            if self.plan.kinds[value.name] is not Kind.SIZE:
                raise _NotReadError("it takes a tensor where a number was expected")
            return self.values[value]
        return value

    def _read(self, node: fx.Node) -> Layer:
        if node.op == "placeholder":
            return self._layer(node, Op.INPUT)
        if node.op == "output":
            return self._output(node)
        if node.name in self.plan.layouts:
            raise _NotReadError("the batch is not the first dimension of its value", "keep the batch first")
        if node.op == "call_module":
            return self._module(node, self.modules[str(node.target)])
        if node.target in _SUMS and len(node.all_input_nodes) == 2 and not set(node.kwargs) - {"other", "input"}:
            first, second = node.all_input_nodes
            if any(source not in self.layers for source in (first, second)):
                raise _NotReadError("it adds a constant", "put the constant into a bias")
            if self.values[first] != self.values[second]:
                raise _NotReadError("it adds values of different shapes")
            return self._layer(node, Op.ADD, first, second)
        if node.target in _PRODUCTS and len(node.all_input_nodes) == 1 and isinstance(node.args[-1], int | float):
            factor = float(node.args[-1])
            divides = getattr(node.target, "__name__", node.target) in ("truediv", "div")
            settings = {"factor": 1 / factor if divides else factor}
            return self._layer(node, Op.SCALE, node.all_input_nodes[0], settings=settings)
        source = node.all_input_nodes[0] if node.all_input_nodes else node
        if node.target is operator.getitem:
            return self._slice(node, source)
        if node.target is F.pad:
            return self._pad(node, source)
        if node.target is F.avg_pool2d:
            keywords = {key: self._value(value) for key, value in node.kwargs.items()}
            return self._average(node, source, nn.AvgPool2d(*map(self._value, node.args[1:]), **keywords))
        if node.target is F.adaptive_avg_pool2d or node.target in (torch.mean, "mean"):
            return self._adaptive(node, source)
        if node.target in _RESHAPES:
            return self._reshape(node, source)
        raise _NotReadError("NIR has no node for it")

    def _module(self, node: fx.Node, module: nn.Module) -> Layer:
        source = node.all_input_nodes[0]
        if node.name in self.plan.pools or is_a(module, nn.modules.pooling._MaxPoolNd):
            fix = "train with average pooling, or convert with max_pooling=average (--max-pooling average)"
            raise _NotReadError("max-pooling in time needs a memory of its own, which NIR has no node for", fix)
        if isinstance(module, Site):
            tensors = {name: getattr(module, name).detach() for name in ("theta", "v_init", "bias")}
            return self._layer(node, Op.SITE, source, tensors=tensors, label=str(node.target))
        if is_a(module, nn.Conv2d) and isinstance(module, nn.Conv2d):
            return self._convolution(node, source, module)
        if is_a(module, nn.Linear):
            if len(self.values[source]) != 2:
                raise _NotReadError("a linear layer over the last of several dimensions")
            return self._layer(node, Op.LINEAR, source, tensors=_weights(module))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            return self._batchnorm(node, source, module)
        if is_a(module, nn.AvgPool2d) and isinstance(module, nn.AvgPool2d):
            return self._average(node, source, module)
        if is_a(module, nn.AdaptiveAvgPool2d):
            return self._adaptive(node, source)
        if is_a(module, _SAME):
            return self._reshape(node, source)
        raise _NotReadError("NIR has no node for it")

    def _convolution(self, node: fx.Node, source: fx.Node, module: nn.Conv2d) -> Layer:
        padding: Any = module.padding
        if module.padding_mode != "zeros":
            raise _NotReadError(f"it pads with {module.padding_mode}, NIR with zeros")
        if padding == "same":
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            if any(each % 2 for each in total):
                raise _NotReadError("it pads unevenly", "use an odd kernel")
            padding = tuple(each // 2 for each in total)
        elif padding == "valid":
            padding = (0, 0)
        settings = {"stride": module.stride, "padding": padding, "dilation": module.dilation, "groups": module.groups}
        return self._layer(node, Op.CONV, source, tensors=_weights(module), settings=settings)

    def _batchnorm(self, node: fx.Node, source: fx.Node, module: nn.modules.batchnorm._BatchNorm) -> Layer:
        assert module.running_mean is not None
        assert module.running_var is not None
        scale = (module.running_var.double() + module.eps).rsqrt()
        if module.affine:
            scale = scale * module.weight.double()
        shift = -module.running_mean.double() * scale + (module.bias.double() if module.affine else 0)
        tensors = {"weight": scale.to(module.running_var).detach(), "bias": shift.to(module.running_var).detach()}
        tensors |= {name: getattr(module, name).detach() for name in ("running_mean", "running_var")}
        if module.affine:
            tensors |= {"gamma": module.weight.detach(), "beta": module.bias.detach()}
        return self._layer(node, Op.AFFINE, source, tensors=tensors, settings={"eps": module.eps})

    def _average(self, node: fx.Node, source: fx.Node, pool: nn.AvgPool2d) -> Layer:
        padding = _pair(pool.padding)
        if pool.ceil_mode or pool.divisor_override or (any(padding) and not pool.count_include_pad):
            raise _NotReadError("it divides by another number at the border", "use average pooling without ceil_mode")
        kernel = _pair(pool.kernel_size)
        stride = kernel if not pool.stride else _pair(pool.stride)
        return self._layer(node, Op.POOL, source, settings={"kernel": kernel, "stride": stride, "padding": padding})

    def _adaptive(self, node: fx.Node, source: fx.Node) -> Layer:
        """Pooling to a size that divides the image, and the mean over it."""
        inside, outside = self.values[source], self.values[node]
        if node.target in (torch.mean, "mean"):
            axes = self._value(argument(node, 1, "dim"))
            wanted = {axes} if isinstance(axes, int) else set(axes or ())
            if len(inside) != 4 or {axis % 4 for axis in wanted} != {2, 3}:
                raise _NotReadError("a mean over other dimensions than rows and columns")
            outside = (*inside[:2], 1, 1)
        if any(size % out for size, out in zip(inside[2:], outside[2:], strict=True)):
            raise _NotReadError("it pools to a size that does not divide the image", "pool to a divisor of its size")
        by = "mean" if outside != self.values[node] or node.target in (torch.mean, "mean") else "adaptive"
        kernel = tuple(size // out for size, out in zip(inside[2:], outside[2:], strict=True))
        name = node.name
        if outside != self.values[node]:  # without keepdim the image vanishes, too
            name = f"{node.name}_image"
        pool = Layer(
            name,
            Op.POOL,
            (self.layers[source].name,),
            outside[1:],
            settings={"kernel": kernel, "stride": kernel, "padding": (0, 0), "by": by},
        )
        if name == node.name:
            return pool
        self.order.append(pool)
        return Layer(node.name, Op.FLATTEN, (name,), self.values[node][1:])

    def _slice(self, node: fx.Node, source: fx.Node) -> Layer:
        index = self._value(node.args[1])
        if not isinstance(index, tuple) or len(self.values[source]) != 4:
            raise _NotReadError("an index that is not slices of an image")
        steps = [1, 1, 1, 1]
        for axis, part in enumerate(index):
            whole = isinstance(part, slice) and part.start in (None, 0) and part.stop is None
            if not whole or (axis < 2 and part.step not in (None, 1)):
                raise _NotReadError("a slice that cuts")
            steps[axis] = part.step or 1
        return self._layer(node, Op.SELECT, source, settings={"stride": tuple(steps[2:])})

    def _pad(self, node: fx.Node, source: fx.Node) -> Layer:
        amounts = self._value(argument(node, 1, "pad"))
        plain = argument(node, 2, "mode", "constant") == "constant" and argument(node, 3, "value") in (None, 0, 0.0)
        channels = len(self.values[source]) == 4 and len(amounts) == 6 and not any(amounts[:4]) and min(amounts) >= 0
        if not plain or not channels:
            raise _NotReadError("padding of other dimensions than channels", "use the padding of the convolution")
        return self._layer(node, Op.CHANNELS, source, settings={"front": amounts[4], "back": amounts[5]})

    def _reshape(self, node: fx.Node, source: fx.Node) -> Layer:
        inside, outside = self.values[source][1:], self.values[node][1:]
        if inside == outside:
            return self._same(node)
        if len(outside) == 1 and outside[0] == torch.Size(inside).numel():
            return self._layer(node, Op.FLATTEN, source)
        raise _NotReadError("a change of shape that is not a flattening")

    def _output(self, node: fx.Node) -> Layer:
        answers = node.all_input_nodes
        if len(answers) != 1 or node.args[0] is not answers[0]:
            raise _NotReadError("it is no single tensor", "export a model with one output")
        return Layer("output", Op.OUTPUT, (self.layers[answers[0]].name,), self.layers[answers[0]].shape)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.named_parameters(recurse=False)}
