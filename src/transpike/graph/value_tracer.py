"""Tracing with values: the model's code runs on two small batches, and every operator on them becomes a node.

Sizes, types and flags have their values, so that control flow that depends on them goes its way. What depends on the
batch size stays a node. Decisions on data, or on the batch size, are refused.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from transpike.graph.attention import OPENED, attention_call, expand_attention
from transpike.graph.changes_in_place import ChangesInPlace
from transpike.graph.node_target import BINARY, FACTS, PROTOTYPES, node_target
from transpike.graph.plain_tracer import PlainTracer
from transpike.graph.second_batch import answer_of, two_batches
from transpike.graph.traced_values import (
    RefusedError,
    Traced,
    TracedFloat,
    TracedInt,
    TracedShape,
    TracedTensor,
    UnfollowedError,
    at_batch,
    traced_int,
)


class Guard(NamedTuple):
    """A size of an input that the graph was made for: index of the input, dimension, size."""

    input: int
    dimension: int
    size: int


class ValueTracer(PlainTracer, ChangesInPlace):
    """Tracing with values.

    Args:
        examples: one example batch per argument.
        leaf_modules: names of submodules that are not traced into.

    Attributes:
        guards: sizes of the inputs on which the graph depends.
    """

    def __init__(self, examples: Sequence[Tensor], leaf_modules: Collection[str] = ()) -> None:
        super().__init__(leaf_modules, len(examples))
        self.batches = [two_batches(example) for example in examples]
        self.guards: set[Guard] = set()
        self._known: dict[int, tuple[Tensor, Traced]] = {}
        self._alive: WeakSet[TracedTensor] = WeakSet()
        self._computing = False
        self._buffers: set[int] = set()

    # ---------------------------------------------------------------- the model's code runs

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of a module."""
        self._buffers = {id(buffer) for buffer in root.buffers()}
        kept = [(buffer, buffer.clone()) for buffer in root.buffers()]  # in training mode BatchNorm learns
        devices = {tensor.device for pair in self.batches for tensor in pair if tensor.device.type == "cuda"}
        try:
            with torch.random.fork_rng(devices), traced_int(root):
                graph = super().trace(root, concrete_args)
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)
        return graph

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Placeholders for the arguments that have an example; the others keep their defaults."""
        names = self.argument_names(root_fn)
        given = []
        for index, (name, values) in enumerate(zip(names, self.batches, strict=True)):
            node = self.create_node("placeholder", name, (), {})
            given.append(self._tensor(Traced(node, values, frozenset([index]))))

        def run(*_: Any) -> Any:
            with self.mode():
                return answer_of(self.answer(given))

        return run, []

    def argument_names(self, forward: Callable[..., Any]) -> list[str]:
        """Names for the arguments that have an example."""
        return _argument_names(forward, len(self.batches))

    def answer(self, given: Sequence[Any]) -> Any:
        """What the model computes."""
        return self.root.forward(*given)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A submodule: one operator, or what its code does."""
        if self._computing:
            return forward(*args, **kwargs)
        try:
            name = self.path_of_module(m)
        except NameError:  # made in the forward of another
            return forward(*args, **kwargs)
        if isinstance(m, nn.MultiheadAttention) and type(m).forward is nn.MultiheadAttention.forward:
            forward = forward if name in self.leaf_modules else lambda *a, **k: expand_attention(m, *a, **k)
        if not self._traced_in((args, kwargs)) and self.is_leaf_module(m, name):
            return forward(*args, **kwargs)
        self._leaf = forward
        return super().call_module(m, forward, args, kwargs)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """As in plain tracing, but torch's attention and transformers are opened."""
        if module_qualified_name not in self.leaf_modules and isinstance(m, OPENED):
            return False
        return super().is_leaf_module(m, module_qualified_name)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Parameters are the model's own: what is called with them is seen."""
        return attr_val

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        """A leaf module is run; everything else only becomes a node."""
        if kind != "call_module":
            return super().create_proxy(kind, target, args, kwargs, *rest, **more)
        forward = self._leaf
        node = super().create_proxy(kind, target, args, kwargs, *rest, **more).node
        return self._finish(node, forward, args, kwargs)

    def create_arg(self, a: Any) -> Any:
        """What stands in the graph for a value."""
        if isinstance(a, TracedTensor):
            return self._usable(a.traced).node
        if isinstance(a, TracedInt | TracedFloat):
            return a.node
        if isinstance(a, TracedShape):
            return tuple(self.create_arg(entry) for entry in a.entries())
        if isinstance(a, Tensor) and id(a) in self._known:
            return self._usable(self._known[id(a)][1]).node
        if isinstance(a, fx.Node):
            return a
        if isinstance(a, torch.Size):
            return tuple(a)
        return super().create_arg(a)

    def mode(self) -> TorchFunctionMode:
        """Hands every call of torch to this tracer, where it is entered."""
        return _Mode(self)

    # ---------------------------------------------------------------- one call

    def call(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of a function or method of torch."""
        name = getattr(function, "__name__", "")
        if isinstance(function, torch.jit.ScriptFunction):
            original = getattr(function, "_torchdynamo_inline", None)
            if original is not None and self._traced_in((args, kwargs)):
                with self.mode():
                    return original(*args, **kwargs)
        if self._computing or not self._traced_in((args, kwargs)):
            return function(*args, **kwargs)
        if name == "__get__":
            return self._attribute(function, *args[:1])
        if name == "__set__":
            raise UnfollowedError(f"the attribute {function.__self__.__name__} of a tensor is set")
        if function is F.multi_head_attention_forward:
            with self.mode():
                return attention_call(*args, **kwargs)
        if name == "size":
            shape = TracedShape.of(self, self._known_of(args[0]))
            where = args[1] if len(args) > 1 else kwargs.get("dim")
            return shape if where is None else shape[where]
        if name in ("numel", "nelement"):
            return TracedShape.of(self, self._known_of(args[0])).numel()
        if name == "__len__":
            return self._length(args[0])
        if name == "__iter__":
            rows = self._length(args[0])
            with self.mode():
                return iter([args[0][index] for index in range(rows)])
        if name == "__setitem__":
            return self._set_item(*args)
        if name in PROTOTYPES:
            made = self._constant(function, args, kwargs)
            if made is not None:
                return made
        if (name.endswith("_") and not name.endswith("__")) or (name.startswith("__i") and name[3:-2] in BINARY):
            return self._in_place(function, name, args, kwargs)
        if kwargs.get("out") is not None:
            raise UnfollowedError("a result is written into another tensor with out=")
        if kwargs.get("inplace") is True:
            result = self._call(function, args, {**kwargs, "inplace": False})
            return self._rebind(args[0], result)
        result = self._call(function, args, kwargs)
        if name == "__getitem__" and isinstance(result, TracedTensor):
            result.traced.item_of = (args[0], args[1])
        return result

    def record(self, function: Any, arguments: tuple[Any, ...]) -> fx.Node:
        """A node that calls a function, without running it."""
        node: fx.Node = super().create_proxy("call_function", function, arguments, {}).node
        return node

    def guard(self, traced: Traced, dimension: int) -> None:
        """Notes a size of the inputs that a plain number in the graph depends on."""
        direct = traced.node.op == "placeholder"
        for index in traced.sources:
            shape = self.batches[index][0].shape
            for place in [dimension] if direct else range(1, len(shape)):
                if place:
                    self.guards.add(Guard(index, place, shape[place]))

    def _call(self, function: Any, args: Any, kwargs: Any) -> Any:
        kind, target, arguments = node_target(function, args)
        if function is torch.Tensor.type and len(args) < 2 and not kwargs:
            return args[0].traced.values[0].type()
        if getattr(function, "__name__", "") in FACTS and function is not torch.Tensor.type:
            return self._fact(function, args, kwargs)
        node = super().create_proxy(kind, target, arguments, kwargs).node
        return self._finish(node, function, args, kwargs)

    def _finish(self, node: fx.Node, function: Any, args: Any, kwargs: Any) -> Any:
        """Runs a call for the two batches and gives its result the node."""
        used = self._traced_in((args, kwargs))
        batched = any(not isinstance(each, Traced) or each.batched for each in used)
        sources = frozenset().union(*(each.sources for each in used if isinstance(each, Traced)))
        first = self._run(function, args, kwargs, 0)
        second = self._run(function, args, kwargs, 1) if batched else first
        return self._wrap(first, second, node, sources)

    def _run(self, function: Any, args: Any, kwargs: Any, which: int) -> Any:
        own = [self._at(value, which) for value in args]
        named = {key: self._at(value, which) for key, value in kwargs.items()}
        self._computing = True
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                return function(*own, **named)
        finally:
            self._computing = False

    def _at(self, value: Any, which: int) -> Any:
        """A (nested) argument for the first or second batch."""
        if isinstance(value, TracedShape):
            return tuple(at_batch(entry, which) for entry in tuple.__iter__(value))
        if isinstance(value, tuple | list):
            entries = [self._at(entry, which) for entry in value]
            return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
        if isinstance(value, dict):
            return {key: self._at(entry, which) for key, entry in value.items()}
        if isinstance(value, slice):
            return slice(*(self._at(entry, which) for entry in (value.start, value.stop, value.step)))
        if isinstance(value, Tensor) and id(value) in self._known:
            return self._known[id(value)][1].values[which]
        return at_batch(value, which)

    def _wrap(self, first: Any, second: Any, node: fx.Node, sources: frozenset[int]) -> Any:
        """A result with its nodes, what lies in tuples one by one."""
        if isinstance(first, Tensor):
            if first.dim() != second.dim():
                raise RefusedError("the number of dimensions depends on the batch size")
            return self._tensor(Traced(node, (first, second), sources))
        if isinstance(first, dict):
            pairs = {key: (value, second[key], key) for key, value in first.items()}
            return {key: self._entry(node, sources, *pair) for key, pair in pairs.items()}
        if isinstance(first, tuple | list):
            if len(first) != len(second):
                raise RefusedError("the number of results depends on the batch size")
            entries = [self._entry(node, sources, *pair) for pair in zip(first, second, range(len(first)), strict=True)]
            return type(first)(*entries) if hasattr(first, "_fields") else type(first)(entries)
        if first is None:
            return None
        raise RefusedError("a Python number is read from a tensor, so that the code depends on the data")

    def _entry(self, node: fx.Node, sources: frozenset[int], first: Any, second: Any, key: Any) -> Any:
        if first is None or (not isinstance(first, Tensor | tuple | list | dict) and first == second):
            return first
        return self._wrap(first, second, self.record(operator.getitem, (fx.Proxy(node, self), key)), sources)

    # ---------------------------------------------------------------- what is no ordinary call

    def _attribute(self, function: Any, tensor: Any) -> Any:
        name = function.__self__.__name__
        traced = self._known_of(tensor)
        if name == "shape":
            return TracedShape.of(self, traced)
        values = [self._run(function, (tensor,), {}, which) for which in (0, 1)]
        if isinstance(values[0], Tensor):
            first, second = values if traced.batched else (values[0], values[0])
            return self._wrap(first, second, self.record(getattr, (tensor, name)), traced.sources)
        if name == "nbytes" and values[0] != values[1]:
            raise UnfollowedError("the number of bytes in a batch is read")
        return values[0]

    def _fact(self, function: Any, args: Any, kwargs: Any) -> Any:
        first, second = (self._run(function, args, kwargs, which) for which in (0, 1))
        if function.__name__ in ("stride", "storage_offset", "is_contiguous", "is_same_size"):
            for each in self._traced_in((args, kwargs)):
                if isinstance(each, Traced):
                    self.guard(each, 1)
            if first != second:
                raise UnfollowedError(f"{function.__name__} depends on the batch size")
        return first

    def _length(self, tensor: Any) -> int:
        shape = TracedShape.of(self, self._known_of(tensor))
        if not tuple.__len__(shape):
            raise TypeError("iteration over a 0-d tensor")
        rows = shape[0]
        if isinstance(rows, TracedInt):
            raise RefusedError("the code goes through the samples of a batch one by one")
        return int(rows)

    def _constant(self, function: Any, args: Any, kwargs: Any) -> Any:
        """A tensor that only has the type of a traced one, if its size does not depend on the batch."""
        first, second = (self._run(function, args, kwargs, which) for which in (0, 1))
        if first.shape != second.shape or any(isinstance(each, Traced) for each in self._traced_in((args[1:], kwargs))):
            return None
        if function.__name__.endswith("_like"):
            TracedShape.of(self, self._known_of(args[0])).entries()
        return first

    # ---------------------------------------------------------------- what is traced

    def _tensor(self, traced: Traced) -> TracedTensor:
        made = TracedTensor.of(traced)
        self._alive.add(made)
        return made

    def _known_of(self, tensor: Any) -> Traced:
        return self._usable(tensor.traced if isinstance(tensor, TracedTensor) else self._known[id(tensor)][1])

    def _traced_in(self, value: Any) -> list[Any]:
        """All traced tensors and numbers in an argument; parameters of the model are traced."""
        found: list[Any] = []

        def look(each: Any) -> None:
            if isinstance(each, TracedTensor):
                found.append(each.traced)
            elif isinstance(each, TracedInt | TracedFloat):
                found.append(each)
            elif isinstance(each, Tensor):
                known = self._known.get(id(each))
                if known is None and isinstance(each, nn.Parameter):
                    known = self._adopt_parameter(each)
                if known is not None:
                    found.append(known[1])
            elif isinstance(each, tuple | list):
                for entry in tuple.__iter__(each) if isinstance(each, tuple) else each:
                    look(entry)
            elif isinstance(each, dict):
                for entry in each.values():
                    look(entry)
            elif isinstance(each, slice):
                look((each.start, each.stop, each.step))

        look(value)
        return found

    def _adopt_parameter(self, parameter: nn.Parameter) -> tuple[Tensor, Traced] | None:
        for name, own in self.root.named_parameters():
            if own is parameter:
                node = super().create_proxy("get_attr", name, (), {}).node
                value = parameter.detach()
                self._known[id(parameter)] = (parameter, Traced(node, (value, value)))
                return self._known[id(parameter)]
        return None


class _Mode(TorchFunctionMode):
    """Hands every call of torch to the tracer."""

    def __init__(self, tracer: ValueTracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.tracer.call(func, tuple(args), dict(kwargs or {}))


def _argument_names(forward: Callable[..., Any], inputs: int) -> list[str]:
    """Names for the positional arguments that have an example."""
    names: list[str] = []
    parameters = list(inspect.signature(inspect.unwrap(forward)).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(inputs - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    if len(names) < inputs:
        raise TypeError(f"the model takes {len(names)} input(s), got {inputs}")
    return names[:inputs]
