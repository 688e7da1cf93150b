"""Plain symbolic tracing with torch.fx: no values, so no control flow that depends on them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils import _pytree as pytree

from transpike.activations import TrainedActivation


class PlainTracer(fx.Tracer):
    """Plain symbolic tracing; trained activations and given submodules stay one operator each.

    Args:
        leaf_modules: names of submodules that are not traced into.
        inputs: how many arguments the graph takes at least.
    """

    record_stack_traces = True

    def __init__(self, leaf_modules: Collection[str] = (), inputs: int = 0) -> None:
        super().__init__()
        self.leaf_modules = leaf_modules
        self.inputs = inputs

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a submodule stays one operator."""
        return (
            isinstance(m, TrainedActivation)
            or module_qualified_name in self.leaf_modules
            or super().is_leaf_module(m, module_qualified_name)
        )

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Arguments without an input keep their defaults, so that ``if mask is None`` goes the right way."""
        function, arguments = super().create_args_for_root(root_fn, is_module, concrete_args)
        positional = 0
        for index, argument in enumerate(arguments):
            if not isinstance(argument, fx.Proxy):  # the module itself
                continue
            name, node = str(argument.node.target), argument.node
            parameter = inspect.signature(inspect.unwrap(root_fn)).parameters[name.lstrip("*")]
            if parameter.kind is parameter.VAR_KEYWORD:
                value: Any = {}
            elif parameter.kind is parameter.VAR_POSITIONAL and 0 < self.inputs <= positional:
                value = ()
            elif parameter.default is parameter.empty or (
                positional < self.inputs and parameter.kind is not parameter.KEYWORD_ONLY
            ):
                positional += 1
                node.args = ()  # what has an example input is always given
                continue
            else:
                value = parameter.default
            arguments[index] = value
            self.graph.erase_node(node)
        return function, arguments


_TAKE_SIZES = {
    F: ("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    torch: ("arange", "empty", "eye", "full", "linspace", "logspace", "ones", "zeros"),
}
"""Functions to which torch 2.8 refuses sizes of the graph, as in ``F.avg_pool2d(x, x.size(3))``."""


@cache
def _sizes_are_refused() -> bool:
    """Whether this torch cannot trace a function that makes a tensor of a size of the graph."""
    graph = fx.Graph()
    try:
        size: Any = fx.Proxy(graph.placeholder("size"), fx.proxy.GraphAppendingTracer(graph))
        torch.ones(size)
    except TypeError:
        from torch._dynamo.trace_rules import get_torch_obj_rule_map

        get_torch_obj_rule_map()  # torch.compile looks the functions up by identity: before they are replaced
        return True
    return False


@contextmanager
def traced_sizes() -> Iterator[None]:
    """Makes functions that take sizes traceable where a size is one of the graph."""
    if not _sizes_are_refused():
        yield
        return
    originals = [(home, name, getattr(home, name)) for home, names in _TAKE_SIZES.items() for name in names]

    def traced(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            for value in pytree.tree_leaves((args, kwargs)):
                if isinstance(value, fx.Proxy):
                    return value.tracer.create_proxy("call_function", original, args, kwargs)
            return original(*args, **kwargs)

        return call

    for home, name, original in originals:
        setattr(home, name, traced(original))
    try:
        yield
    finally:
        for home, name, original in originals:
            setattr(home, name, original)
