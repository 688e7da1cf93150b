"""The ``forward`` of a written PyTorch file: one line for each operator of the graph."""

from __future__ import annotations

import builtins
import keyword
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._ops import OpOverload, OpOverloadPacket

from transpike.graph.normalize import modules_of
from transpike.graph.plan import Kind, Layout
from transpike.graph.site import Site
from transpike.graph.walk import site_of
from transpike.interop.python_text import Bracket, Comprehension, Expression, call, literal, statement
from transpike.interop.torch_modules import constructor
from transpike.network.spiking import SpikingNetwork

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_TAKEN = {"rows", "self", "torch", "nn", "F", "math", "steps", "t", "part", "load", "Path", "load_file"}


class Names:
    """Python names that differ from each other, from keywords and from builtins."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = set(taken) | set(keyword.kwlist) | set(dir(builtins))

    def take(self, wanted: str) -> str:
        """A name like the wanted one: ``layer1.0.relu@0`` is ``layer1_0_relu_0``, and ``0`` is ``layer_0``."""
        name = re.sub(r"\W", "_", wanted).strip("_") or "value"
        name = f"layer_{name}" if name[0].isdigit() else name
        free, number = name, 1
        while free in self.taken:
            free, number = f"{name}_{number}", number + 1
        self.taken.add(free)
        return free


class Code:
    """Writes the network's class.

    Args:
        snn: the network.
        rho: steps that every site accumulates for; None where all layers step together.
        shapes: shape of every node's value, None where it is no tensor.

    Attributes:
        unsupported: nodes that have no text, with the reason.
        tensors: the weights by the names of the file.
    """

    def __init__(self, snn: SpikingNetwork, rho: int | None, shapes: dict[str, tuple[int, ...] | None]) -> None:
        self.snn, self.rho, self.shapes = snn, rho, shapes
        self.plan = snn.plan
        self.modules = modules_of(snn.network)
        self.attributes = Names(set(dir(nn.Module())))
        self.variables = Names(_TAKEN)
        self.names: dict[str, str] = {}
        self.means: dict[str, str] = {}
        self.unsupported: list[tuple[fx.Node, str]] = []
        self.tensors: dict[str, Tensor] = {}
        self.made: list[str] = []
        self.once: list[str] = []
        self.each: list[str] = []
        self.known: dict[tuple[str, str], str] = {}
        self.pooled = False
        self.reduced = False
        self._outputs: Any = None
        for node in snn.network.graph.nodes:
            self._node(node)

    # ---- what stands where ----

    def in_time(self, node: fx.Node) -> bool:
        """Whether a value differs from step to step."""
        return self.plan.kinds[node.name] in (Kind.SEQUENCE, Kind.MEAN)

    def _name(self, node: fx.Node, mean: bool = False) -> str:
        """The text that reads a value in the line of one step."""
        name = self.means[node.name] if mean and node.name in self.means else self.names[node.name]
        return f"{name}[t]" if self.rho is not None and self.in_time(node) else name

    def _write(self, node: fx.Node, value: Expression) -> None:
        """Writes the line of an operator."""
        name = self.names[node.name] = self.variables.take(self._wanted(node))
        if self.rho is not None and self.in_time(node):
            self._line(f"{name} = ", Comprehension(value, "for t in range(steps)"), True)
            return
        self._line(f"{name} = ", value, self.rho is None and self.plan.in_time(node.name))

    def _line(self, start: str, value: Expression, step: bool) -> None:
        if self.rho is not None:
            self.each += statement(start, value, 8)
        elif step:
            self.each += statement(start, value, 12)
        else:
            self.once += statement(start, value, 8)

    def _wanted(self, node: fx.Node) -> str:
        return str(node.target) if node.op == "call_module" else node.name

    # ---- nodes ----

    def _node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            self.names[node.name] = self.variables.take(node.name)
        elif node.op == "output":
            self._outputs = node.args[0]
        else:
            try:
                self._operator(node)
            except _NoTextError as error:
                self.unsupported.append((node, str(error)))
                self.names[node.name] = node.name
        if node.name in self.plan.readouts:
            self._readout(node)

    def _operator(self, node: fx.Node) -> None:
        if site_of(node, self.modules) is not None:
            self._site(node)
            return
        if node.op == "get_attr":
            self.names[node.name] = f"self.{self._tensor(str(node.target))}"
            return
        mean = self.plan.kinds[node.name] is Kind.MEAN
        size = node.name in self.plan.read and not self.in_time(node)

        def name_of(source: fx.Node) -> str:
            if size and self.rho is not None and self.in_time(source):
                return f"{self.names[source.name]}[0]"  # sizes are those of any step
            return self._name(source, mean)

        def text(value: Any) -> Expression:
            try:
                return literal(value, name_of)
            except TypeError as error:
                raise _NoTextError(f"its argument {value!r} cannot be written: {error}") from error

        self._write(node, self._expression(node, text))

    def _expression(self, node: fx.Node, text: Callable[[Any], Expression]) -> Expression:
        arguments = [text(each) for each in node.args]
        named = {name: text(each) for name, each in node.kwargs.items()}
        if node.op == "call_module":
            return call(f"self.{self._module(node)}", *arguments, **named)
        if node.op == "call_method":
            return call(f"{arguments[0]}.{node.target}", *arguments[1:], **named)
        target: Any = node.target
        if target in _INFIX and len(arguments) == 2:
            return f"{arguments[0]} {_INFIX[target]} {arguments[1]}"
        if target is operator.pow:
            return f"{arguments[0]}**{arguments[1]}"
        if target is operator.neg:
            return f"-{arguments[0]}"
        if target is operator.getitem:
            index = node.args[1]
            items = tuple(map(text, index)) if isinstance(index, tuple) and len(index) > 1 else (arguments[1],)
            return Bracket(str(arguments[0]), items, "[", "]")
        if target is getattr and len(node.args) == 2:
            return f"{arguments[0]}.{node.args[1]}"
        return call(_function_name(target), *arguments, **named)

    def _module(self, node: fx.Node) -> str:
        """The attribute that holds a module, which is made where it is called for the first time."""
        target = str(node.target)
        pooled = node.name in self.plan.pools
        key = (target, node.name if pooled else "")  # each call of a running maximum has sums of its own
        if key in self.known:
            return self.known[key]
        module = self.modules[target]
        shape = self.shapes[node.all_input_nodes[0].name] if node.all_input_nodes else None
        made = constructor(module, len(shape or ()))
        if made is None:
            raise _NoTextError("it is no module of torch.nn with plain settings")
        name = self.known[key] = self.attributes.take(target)
        self.reduced |= made.head == "GlobalMaxPool"
        if pooled:
            self.pooled = True
            made = call("RunningMaxPool", made)
        self.made += statement(f"self.{name} = ", made, 8)
        prefix = f"{name}.pool." if pooled else f"{name}."
        self.tensors |= {prefix + path: value for path, value in module.state_dict().items()}
        return name

    def _tensor(self, path: str) -> str:
        """The buffer that holds a tensor of the source model."""
        if (path, "tensor") not in self.known:
            parent, _, last = path.rpartition(".")
            value = getattr(self.snn.network.get_submodule(parent), last)
            if not isinstance(value, Tensor):
                raise _NoTextError("it is no tensor")
            name = self.known[path, "tensor"] = self.attributes.take(path)
            kind = {} if value.dtype is torch.float32 else {"dtype": str(value.dtype)}
            empty = call("torch.empty", literal(tuple(value.shape), str), **kind)
            self.made += statement("", call("self.register_buffer", f'"{name}"', empty), 8)
            self.tensors[name] = value
        return self.known[path, "tensor"]

    def _site(self, node: fx.Node) -> None:
        name = self.attributes.take(str(node.target))
        site = self.modules[str(node.target)]
        assert isinstance(site, Site)
        settings = {"theta": site.theta, "v_init": site.v_init} | ({"bias": site.bias[0]} if site.bias.dim() else {})
        shapes = {key: literal(tuple(value.shape), str) for key, value in settings.items()}
        kind = "IF" if self.rho is None else "AccumulateThenFire"
        given = [] if self.rho is None else [str(self.rho)]
        self.made += statement(f"self.{name} = ", call(kind, *given, **shapes), 8)
        self.tensors |= {f"{name}.{key}": value for key, value in settings.items()}
        source = node.all_input_nodes[0]
        layout: Layout = self.plan.layouts.get(source.name, (0, 1))
        if self.rho is not None:
            variable = self.names[node.name] = self.variables.take(str(node.target))
            drive = self.names[source.name] if self.in_time(source) else f"[{self.names[source.name]}] * steps"
            if layout[0]:
                raise _NoTextError("its batch is not the first dimension")
            self._line(f"{variable} = ", call(f"self.{name}", drive), True)
        elif layout[0]:
            moved = call(f"{self._name(source)}.movedim", str(layout[0]), "0")
            self._write(node, f"{call(f'self.{name}', moved)}.movedim(0, {layout[0]})")
        else:
            self._write(node, call(f"self.{name}", self._name(source)))

    def _readout(self, node: fx.Node) -> None:
        """The running mean of a value."""
        name = self.names[node.name]
        mean = self.means[node.name] = self.variables.take(f"mean_{name}")
        if self.rho is not None:
            self._line(f"{mean} = ", call("running_mean", name), True)
            return
        total = self.variables.take(f"total_{name}")
        self.once.append(f"        {total} = 0")
        self._line(f"{total} = ", f"{total} + {name}", True)
        self._line(f"{mean} = ", f"{total} / t", True)

    # ---- the class ----

    def outputs(self) -> tuple[list[str], list[str], list[str]]:
        """The lines for the answers: in front of the loop, at its end, and behind it."""
        before: list[str] = []
        append: list[str] = []

        def rows(node: fx.Node) -> str:
            value = self._name(node, mean=True)
            if self.rho is not None:
                each = value.removesuffix("[t]")
                return f"torch.stack({each}[:rows])" if self.in_time(node) else f"torch.stack([{each}] * rows)"
            name = self.variables.take("answers")
            before.append(f"        {name} = []")
            append.append(f"            {name}.append({value})")
            return f"torch.stack({name})"

        try:
            answer = literal(self._outputs, rows)
        except TypeError as error:
            (output,) = self.snn.network.graph.find_nodes(op="output")
            self.unsupported.append((output, f"an answer cannot be written: {error}"))
            return [], [], []
        last = statement("return ", answer, 8)
        return before, append, last

    def forward(self, inputs: list[str]) -> list[str]:
        """The lines of ``forward``."""
        before, append, last = self.outputs()
        head = [f"    def forward(self, {', '.join(inputs)}, steps):"]
        kinds = [*(["IF"] if self.rho is None else []), *(["RunningMaxPool"] if self.pooled else [])]
        kind = kinds[0] if len(kinds) == 1 else f"({', '.join(kinds)})"
        reset = ["        for part in self.modules():", f"            if isinstance(part, {kind}):"]
        reset = [*reset, "                part.reset()"] if kinds else []
        if self.rho is None:
            loop = ["        for t in range(1, steps + 1):"]
            return [*head, *reset, *self.once, *before, *loop, *self.each, *append, *last]
        rows = [f"        rows, steps = steps, max(steps, {self.rho})  # a site looks at {self.rho} steps first"]
        return [*head, *reset, *rows, *self.each, *last]


class _NoTextError(Exception):
    """A node has no text."""


def _function_name(target: Any) -> str:
    spaces: dict[str, Any] = {"torch": torch, "F": F, "math": math}
    for prefix, space in spaces.items():
        name = getattr(target, "__name__", "")
        if getattr(space, name, None) is target:
            return f"{prefix}.{name}"
    if isinstance(target, OpOverload | OpOverloadPacket):
        return f"torch.ops.{target}"
    name = getattr(target, "__name__", "")
    if getattr(builtins, name, None) is target:
        return str(name)
    raise _NoTextError("its function is not one of torch")
