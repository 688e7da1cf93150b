"""Gives a planned graph the operators that a quantised network needs, and finds which layers share a grid.

A *group* is a sum: the layers whose results are added, perhaps pooled, before neurons, an answer or a layer read them.
All that a group adds up has one unit. Where something else is to be added, such as the events of an identity shortcut,
a `ChannelScale` makes it a term of the group.
"""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike.errors import ConversionError, UnsupportedOperator
from transpike.graph.capture import source_of
from transpike.graph.example_run import examples_of, probing_batch
from transpike.graph.grid import ChannelScale, InputGrid, PoolSum
from transpike.graph.normalize import call_module, modules_of
from transpike.graph.operators import MAX_POOL_MODULES, GlobalAveragePool, argument, is_a, leave_name, operator_name
from transpike.graph.plan import Kind, Plan
from transpike.graph.site import Site

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, ChannelScale)
"""Modules that multiply by weights."""

_ON_THE_WAY = (Kind.STATIC, Kind.SEQUENCE)
_SUMS = {operator.add, operator.sub, torch.add, torch.sub, torch.subtract, "add", "sub", "subtract"}
_AVERAGES = {"avg_pool1d", "avg_pool2d", "avg_pool3d", "mean"}
_AVERAGES |= {f"adaptive_{name}" for name in _AVERAGES if name != "mean"}
_MOVES = frozenset(
    [
        *("cat", "concat", "concatenate", "stack", "chunk", "split", "tensor_split", "unbind", "flatten", "unflatten"),
        *("view", "reshape", "permute", "transpose", "movedim", "swapaxes", "squeeze", "unsqueeze", "contiguous"),
        *("clone", "getitem", "narrow", "select", "pad", "constant_pad_nd", "pixel_shuffle", "pixel_unshuffle"),
        *("channel_shuffle", "native_channel_shuffle", "interpolate", "upsample", "upsample_nearest", "flip", "roll"),
        *("repeat_interleave", "index_select"),
    ]
)
"""Functions that put values elsewhere and compute nothing."""
_MOVING_MODULES: tuple[type[nn.Module], ...] = (
    nn.Flatten,
    nn.Unflatten,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
    nn.Upsample,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
    InputGrid,
    PoolSum,
)
_POOLS = (nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, GlobalAveragePool)
_FIX = "convert without quantising, or write the model without it"


class GridGraph:
    """A planned graph, as quantising reads it.

    Args:
        gm: the graph.
        plan: its plan.
        inputs: a batch of the probing batch's size.
    """

    def __init__(self, gm: fx.GraphModule, plan: Plan, inputs: tuple[Tensor, ...]) -> None:
        self.gm, self.plan = gm, plan
        self.modules = modules_of(gm)
        self.examples = examples_of(gm, inputs)

    def on_the_way(self, node: fx.Node) -> bool:
        """Whether it leads from the inputs to neurons or to the readout."""
        return node.op != "output" and self.plan.kinds.get(node.name) in _ON_THE_WAY

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def is_layer(self, node: fx.Node) -> bool:
        """Whether it multiplies by weights."""
        return is_a(self.module(node), LAYERS)

    def is_sum(self, node: fx.Node) -> bool:
        """Whether it adds values up."""
        return node.op != "call_module" and node.target in _SUMS

    def is_max_pool(self, node: fx.Node) -> bool:
        """Whether it takes maxima of windows."""
        return is_a(self.module(node), MAX_POOL_MODULES)

    def area(self, node: fx.Node) -> int:
        """How many values it averages, 0 if it is no average; of windows of several sizes, -1."""
        module = self.module(node)
        own = is_a(module, _POOLS) if module is not None else _name(node) in _AVERAGES
        if not own:
            return 0
        before, after = self.shape(node.all_input_nodes[0]), self.shape(node)
        kernel: Any = getattr(module, "kernel_size", None)
        padding: Any = getattr(module, "padding", 0)
        if module is None and _name(node).startswith("avg_pool"):
            names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
            given = {name: self._number(argument(node, index, name)) for index, name in enumerate(names, 1)}
            if any(given[name] not in (None, False) for name in names[3:4] + names[5:]):
                return -1
            kernel, padding = given["kernel_size"], given["padding"] or 0
            if given["count_include_pad"] is False and padding not in (0, (0, 0), [0, 0]):
                return -1
        elif kernel is not None:
            padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
            partly = padded and not getattr(module, "count_include_pad", True)
            if getattr(module, "ceil_mode", False) or getattr(module, "divisor_override", None) or partly:
                return -1
        if kernel is not None:
            dimensions = len(before) - 2
            return int(math.prod(kernel) if isinstance(kernel, list | tuple) else kernel**dimensions)
        if len(before) == len(after) and any(a % b for a, b in zip(before, after, strict=True)):
            return -1
        return math.prod(before) // math.prod(after)

    def _number(self, value: Any) -> Any:
        """An argument, with the numbers that are computed from shapes."""
        return fx.map_arg(value, lambda each: self.examples[each])

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of a value, batch included."""
        value = self.examples[node]
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    def passes(self, node: fx.Node) -> bool:
        """Whether a sum may go on behind it: what it computes has the unit of what arrives."""
        area = self.area(node)
        return self.is_sum(node) or self.is_max_pool(node) or (area > 0 and area & (area - 1) == 0)

    def root(self, node: fx.Node) -> fx.Node | None:
        """Where the sum that a value is a term of is complete; None for values of no group."""
        if not self._grouped(node):
            return None
        while len(node.users) == 1:
            (user,) = node.users
            if not self.on_the_way(user) or not self.passes(user):
                break
            node = user
        return node

    def _grouped(self, node: fx.Node) -> bool:
        """Whether it is a layer, a sum, or a pool of such with no other reader."""
        if not self.on_the_way(node):
            return False
        if self.is_layer(node) or self.is_sum(node):
            return True
        if not self.passes(node):
            return False
        before = node.all_input_nodes[0]
        return len(before.users) == 1 and self._grouped(before)

    def target(self, root: fx.Node) -> Site | None:
        """The neurons that a sum drives, if nothing else reads it."""
        users = list(root.users)
        module = self.module(users[0]) if len(users) == 1 else None
        return module if isinstance(module, Site) else None


def put_on_grid(gm: fx.GraphModule, plan: Plan, inputs: tuple[Tensor, ...]) -> None:
    """Inserts what a quantised network needs; its numbers are set later, and its plan is another one.

    Args:
        gm: changed in place.
        plan: its plan.
        inputs: example inputs; their values do not matter.

    Raises:
        ConversionError: operators whose results lie on no grid; nothing is changed then.
    """
    graph = GridGraph(gm, plan, probing_batch(inputs))
    problems = list(_problems(graph))
    if problems:
        raise ConversionError(problems)
    _separate(graph)
    _replace_norms(graph)
    for index, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        if graph.on_the_way(node):
            _insert(graph, node, list(node.users), f"input_grid@{index}", InputGrid())
    for index, node in enumerate(list(gm.graph.nodes)):
        area = graph.area(node) if graph.on_the_way(node) else 0
        if area & (area - 1):
            _insert(graph, node, list(node.users), f"pool_sum@{index}", PoolSum(area))
    _add_scales(graph)
    gm.delete_all_unused_submodules()
    gm.graph.lint()
    gm.recompile()


def _problems(graph: GridGraph) -> list[UnsupportedOperator]:
    """Operators that cannot run on whole numbers."""
    found = []

    def refuse(node: fx.Node, reason: str, fix: str = _FIX) -> None:
        name = operator_name(node, graph.modules)
        found.append(UnsupportedOperator(leave_name(node), name, source_of(node), reason, fix))

    for site in graph.plan.functions:
        found.append(
            UnsupportedOperator(
                *(site.name, site.operator, site.source),
                f"{site.kind.meaning}, whose values lie on no grid of whole numbers",
                "convert without quantising",
            )
        )
    for node in graph.gm.graph.nodes:
        if not graph.on_the_way(node) or node.op == "placeholder" or isinstance(graph.module(node), Site):
            continue
        if node.name in graph.plan.layouts:
            refuse(node, "the batch is not its first dimension, so that a channel's numbers have no place")
        elif graph.is_sum(node):
            others = [value for value in node.args if not isinstance(value, fx.Node) or not graph.on_the_way(value)]
            if others or node.kwargs:
                refuse(node, "it adds a number that is no layer's bias", "add it as the bias of a layer")
            elif len({graph.shape(source) for source in node.all_input_nodes}) > 1:
                refuse(node, "it adds values of different shapes")
        elif graph.area(node) < 0:
            refuse(node, "it averages windows of different sizes", "pool without ceil_mode and without padding")
        elif not (graph.is_layer(node) or graph.passes(node) or graph.area(node) or _is_norm(graph, node)):
            reason = _no_move(graph, node)
            if reason is not None:
                refuse(node, reason)
    return found


def _no_move(graph: GridGraph, node: fx.Node) -> str | None:
    """Why an operator does more than to put values elsewhere."""
    module = graph.module(node)
    mode = getattr(module, "mode", None) if module is not None else None
    if module is None and _name(node) in ("interpolate", "upsample"):
        mode = argument(node, 3, "mode", "nearest")
    if isinstance(mode, str) and mode not in ("nearest", "nearest-exact", "constant", "reflect", "replicate"):
        return f"it interpolates ({mode}), and its factors lie on no grid"
    value = getattr(module, "value", 0) if module is not None else argument(node, 3, "value")
    if (is_a(module, nn.modules.padding._ConstantPadNd) or _name(node) == "pad") and value not in (None, 0, 0.0):
        return "it pads with a number"
    known = is_a(module, _MOVING_MODULES) if module is not None else _name(node) in _MOVES
    return None if known else "its results lie on no grid of whole numbers"


def _is_norm(graph: GridGraph, node: fx.Node) -> bool:
    return is_a(graph.module(node), nn.modules.batchnorm._BatchNorm) and len(graph.shape(node)) > 1


def _name(node: fx.Node) -> str:
    """The bare name of a function or method."""
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


def _separate(graph: GridGraph) -> None:
    """A copy of its own for every further call of a layer: what arrives there has other units."""
    calls: Counter[str] = Counter()
    for node in list(graph.gm.graph.nodes):
        if not graph.on_the_way(node) or not (graph.is_layer(node) or _is_norm(graph, node)):
            continue
        name = str(node.target)
        calls[name] += 1
        if calls[name] > 1:
            new = call_module(
                *(graph.gm, node, f"{name}@call{calls[name]}", copy.deepcopy(graph.modules[name])),
                *node.args,
                **node.kwargs,
            )
            _know(graph, new, node)


def _replace_norms(graph: GridGraph) -> None:
    for node in list(graph.gm.graph.nodes):
        if graph.on_the_way(node) and _is_norm(graph, node):
            norm = graph.module(node)
            assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
            shape = graph.shape(node)
            scale = ChannelScale.of(norm, shape[1], len(shape))
            _know(graph, call_module(graph.gm, node, str(node.target), scale, node.args[0]), node)


def _add_scales(graph: GridGraph) -> None:
    """Makes a term of a group of everything that arrives at a sum, neurons or an answer without a layer."""
    index = 0
    for node in list(graph.gm.graph.nodes):
        neurons = isinstance(graph.module(node), Site)
        if graph.on_the_way(node) and (neurons or graph.is_sum(node)):
            for source in dict.fromkeys(node.all_input_nodes):
                if len(source.users) > 1 or node.args.count(source) > 1 or graph.root(source) is None:
                    _scale(graph, source, [node], index)
                    index += 1
    for node in list(graph.gm.graph.nodes):
        if graph.on_the_way(node) and graph.root(node) is not node:
            readers = [user for user in node.users if not graph.on_the_way(user)]
            readers = [user for user in readers if user.op == "output" or graph.plan.in_time(user.name)]
            readers = [user for user in readers if user.name not in graph.plan.read]
            if readers:
                _scale(graph, node, readers, index)
                index += 1


def _scale(graph: GridGraph, source: fx.Node, readers: list[fx.Node], index: int) -> None:
    shape = graph.shape(source)
    channels = shape[1] if len(shape) > 1 else 1
    _insert(graph, source, readers, f"edge@{index}", ChannelScale(channels, max(2, len(shape))))


def _insert(graph: GridGraph, source: fx.Node, readers: list[fx.Node], name: str, module: nn.Module) -> None:
    """Puts a module between a value and some of its readers."""
    reference = next(graph.gm.parameters())
    graph.gm.add_submodule(name, module.to(reference).train(graph.gm.training))
    with graph.gm.graph.inserting_after(source):
        new = graph.gm.graph.call_module(name, (source,))
    new.stack_trace = source.stack_trace
    for reader in readers:
        reader.replace_input_with(source, new)
    _know(graph, new, source)


def _know(graph: GridGraph, new: fx.Node, like: fx.Node) -> None:
    """A new node's module, shape and kind are known without another run."""
    graph.modules = modules_of(graph.gm)
    graph.examples[new] = graph.examples[like]
    kinds = {**graph.plan.kinds, new.name: graph.plan.kinds[like.name]}
    graph.plan = replace(graph.plan, kinds=kinds)
