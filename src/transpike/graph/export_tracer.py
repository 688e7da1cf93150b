"""The last resort: torch.export, whose program is replayed so that it becomes a graph like those of the other tracers.

Replaying means that the operators of the program run, each as the function or method that it stands for, under the
tracer that follows values: the batch size stays a node, changes in place become functions, and weights keep their
names.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike.graph.aten import function_for
from transpike.graph.second_batch import two_batches
from transpike.graph.traced_values import TracingInt
from transpike.graph.value_tracer import Guard, ValueTracer

_SYMBOLIC: dict[Any, Callable[..., Any]] = {
    torch.sym_int: TracingInt,
    torch.sym_float: lambda value: value * 1.0,
    torch.sym_max: max,
    torch.sym_min: min,
}


class ExportTracer(ValueTracer):
    """Replays an exported program.

    Args:
        program: what `torch.export` made of a model, as a module.
        examples: one example batch per argument.
    """

    def __init__(self, program: fx.GraphModule, examples: Sequence[Tensor]) -> None:
        super().__init__(examples)
        self.program = program
        self.replayed: fx.Node | None = None
        self.guards = {
            Guard(index, place, size)
            for index, example in enumerate(examples)
            for place, size in enumerate(example.shape)
            if place
        }

    def argument_names(self, forward: Callable[..., Any]) -> list[str]:
        """The names that the program has for its arguments."""
        return [node.name for node in self.program.graph.find_nodes(op="placeholder")][: len(self.batches)]

    def answer(self, given: Sequence[Any]) -> Any:
        """What the program computes."""
        return _Replay(self.program, self).run(*given)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that stands where the program's does in the user's source."""
        node = super().create_node(*args, **kwargs)
        if self.replayed is not None:
            node.stack_trace = self.replayed.stack_trace
            stack = self.replayed.meta.get("nn_module_stack", {})
            node.meta["nn_module_stack"] = {key: (_path(path), kind) for key, (path, kind) in stack.items()}
        return node


class _Replay(fx.Interpreter):
    """Runs a program with every operator as the function that it stands for."""

    def __init__(self, program: fx.GraphModule, tracer: ExportTracer) -> None:
        super().__init__(program)
        self.tracer = tracer
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        self.tracer.replayed = n
        return super().run_node(n)

    def fetch_attr(self, target: str) -> Any:
        """A weight of the model itself, or a constant of the program."""
        found: Any = self.tracer.root
        for name in target.split("."):
            found = getattr(found, name, None)
        return super().fetch_attr(target) if found is None else found

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Checks of the inputs, which the guards replace; nothing else is a module in a program."""
        return None

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """One operator, also one that holds a program of its own."""
        if isinstance(target, torch._ops.OpOverload):
            layer = self._layer()
            if layer is not None:
                return layer(args[0])
            function = function_for(target)
            return self.tracer.call(target, args, kwargs) if function is target else function(*args, **kwargs)
        inner = next((each for each in args if isinstance(each, fx.GraphModule)), None)
        if inner is not None:  # a region without gradients, say
            return _Replay(inner, self.tracer).run(*args[args.index(inner) + 1 :])
        return _SYMBOLIC.get(target, target)(*args, **kwargs)

    def _layer(self) -> nn.Module | None:
        """The layer of the model whose weights the operator takes, if it is all that the layer does."""
        node = self.tracer.replayed
        assert node is not None
        stack = list(node.meta.get("nn_module_stack", {}).values())
        path = _path(stack[-1][0]) if stack else ""
        modules = dict(self.tracer.root.named_modules(remove_duplicate=False))
        kinds = _LAYERS.get(str(node.target).split(".")[1], ())
        named = any(isinstance(each, fx.Node) and each.target == f"{path}.weight" for each in node.args)
        return modules[path] if named and _is_layer(modules.get(path), kinds) else None


_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "linear": (nn.Linear,),
    **dict.fromkeys(["conv1d", "conv2d", "conv3d", "convolution"], (nn.modules.conv._ConvNd,)),
    "conv_transpose2d": (nn.modules.conv._ConvNd,),
    "batch_norm": (nn.modules.batchnorm._BatchNorm,),
    "layer_norm": (nn.LayerNorm,),
    "group_norm": (nn.GroupNorm,),
}
"""Layers of which one operator is everything that they compute."""


def _is_layer(module: nn.Module | None, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Whether a module is one of torch's own of these kinds."""
    return isinstance(module, kinds) and type(module).__module__.startswith("torch.nn.modules.")


def exported(model: nn.Module, examples: Sequence[Tensor]) -> fx.GraphModule:
    """What torch.export makes of a model, for any number of samples."""
    batches = tuple(two_batches(example)[1] for example in examples)
    samples = torch.export.Dim("samples", min=1, max=2**20)
    shapes: Any = tuple({0: samples} for _ in batches)
    parameters = list(inspect.signature(model.forward).parameters.values())
    if parameters and parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:
        shapes = (shapes,)
    with _quietly(), torch.random.fork_rng():
        try:
            program = torch.export.export(model, batches, dynamic_shapes=shapes, strict=False)
        except Exception:  # torch's own compiler follows other code
            program = torch.export.export(model, batches, dynamic_shapes=shapes, strict=True)
    return program.module()


@contextmanager
def _quietly() -> Iterator[None]:
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _path(path: str) -> str:
    return "" if path.startswith("L[") or path.startswith("_") else path
