"""From a module to one torch.fx graph that remembers where each operator stands in the user's source."""

from __future__ import annotations

import copy
import inspect
import linecache
import os
import re
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.utils import _pytree as pytree

from transpike.activations import TrainedActivation
from transpike.errors import TraceError
from transpike.graph.fingerprint import fingerprint_of, take_fingerprint
from transpike.graph.parametrizations import bake_parametrizations, refuse_hooked_weights
from transpike.graph.program import Program, name_tuples, program_of

_FOREIGN = (str(Path(torch.__file__).parent) + os.sep, str(Path(__file__).parent) + os.sep, "<")
_TOOLS = re.compile(r"\s*#\s*(type:|noqa|pragma|pyright).*$")
"""What linters read, and nobody else."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


class _Tracer(fx.Tracer):
    record_stack_traces = True

    def __init__(self, leaf_modules: Collection[str] = (), inputs: int = 0) -> None:
        super().__init__()
        self.leaf_modules = leaf_modules
        self.inputs = inputs

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
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


LeafModules = str | type[nn.Module] | Collection[str | type[nn.Module]]
"""Submodules, by qualified name or type."""


def leaf_names(model: nn.Module, leaf_modules: LeafModules) -> tuple[str, ...]:
    """The qualified names of submodules given by name or type; one alone counts as a list of one.

    Raises:
        ValueError: a name or type that the model does not hold.
    """
    modules = dict(model.named_modules())
    found: dict[str, None] = {}
    for leaf in (leaf_modules,) if isinstance(leaf_modules, str | type) else leaf_modules:
        if isinstance(leaf, str):
            names = [leaf] if leaf in modules else []
        else:
            names = [name for name, module in modules.items() if isinstance(module, leaf)]
        if not names:
            shown = repr(leaf) if isinstance(leaf, str) else leaf.__name__
            raise ValueError(f"leaf {shown} is not a submodule of {type(model).__name__}")
        found.update(dict.fromkeys(names))
    return tuple(found)


def trace(model: nn.Module, leaf_modules: LeafModules = (), inputs: int = 0, *, bake: bool = False) -> Program:
    """Traces a copy of ``model``; the model itself is never changed.

    Args:
        model: any module without control flow that depends on data; a GraphModule is taken as it is.
        leaf_modules: submodules that stay one operator each.
        inputs: how many arguments the graph takes at least; further ones that have a default value keep it.
        bake: give parametrized weights the values they have; else they stay parametrized.

    Raises:
        ValueError: a leaf that the model does not hold.
        TraceError: the model's Python code cannot be traced, with the source line; or a weight is made by a hook.
    """
    names = leaf_names(model, leaf_modules)
    refuse_hooked_weights(model)
    model = copy.deepcopy(model)
    if bake:
        bake_parametrizations(model)
    if isinstance(model, fx.GraphModule):
        given = program_of(model)
        if fingerprint_of(given) is None:
            take_fingerprint(given, source_of)
        return given
    tracer = _Tracer(names, inputs)
    try:
        with _traced_sizes():
            graph = tracer.trace(model)
    except Exception as error:  # user code runs here, so anything may come
        where, owner = _failing_line(error, model)
        leaf = (
            f", or pass the module that holds it: leaf_modules=[{owner!r}] (a leaf with spikes at its input must "
            "still be replaced)"
        )
        raise TraceError(
            f"{type(model).__name__} cannot be traced: {error}",
            where=where,
            fix="control flow, item assignment or Python numbers that depend on the data cannot become a spiking "
            "network; rewrite that line" + (leaf if owner else ""),
        ) from error
    _return_named_tuples(graph)
    name_tuples(graph)
    gm = Program(model, graph)
    keep_unused_state(gm, model)
    take_fingerprint(gm, source_of)
    return gm


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
def _traced_sizes() -> Iterator[None]:
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


def _return_named_tuples(graph: fx.Graph) -> None:
    """Where a namedtuple is returned, fx makes a call of its class; here it becomes part of the answer's structure.

    Only as the answer or in a tuple: elsewhere fx cannot write it, and the plan refuses it.
    """
    output = next(node for node in graph.nodes if node.op == "output")
    made = {
        node: node.target
        for node in output.all_input_nodes
        if isinstance(node.target, type) and pytree.is_namedtuple_class(node.target)
    }

    def inlined(value: Any) -> Any:
        if isinstance(value, fx.Node) and value in made:
            return made[value](*value.args)
        return tuple(map(inlined, value)) if type(value) is tuple else value

    output.args = (inlined(output.args[0]),)
    for node in made:
        if not node.users:
            graph.erase_node(node)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[nn.Module]:
    """``model`` in evaluation mode; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, training in modes:
            module.training = training


def keep_unused_state(gm: fx.GraphModule, model: nn.Module) -> None:
    """Attaches what the graph never calls, so that the state_dict keeps all keys of ``model``."""
    for name, module in model.named_modules():
        missing = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        if not missing:
            continue
        try:
            target = gm.get_submodule(name)
        except AttributeError:
            gm.add_submodule(name, module)
            continue
        for key, value in missing.items():
            if key in dict(target.named_parameters(recurse=False)) | dict(target.named_buffers(recurse=False)):
                if key in module._non_persistent_buffers_set:  # torch 2.8 forgets it
                    target._non_persistent_buffers_set.add(key)
                continue
            if isinstance(value, nn.Parameter):
                target.register_parameter(key, value)
            else:
                target.register_buffer(key, value, persistent=key not in module._non_persistent_buffers_set)


def source_of(node: fx.Node) -> str:
    """``file:line: code`` of the user's line that made ``node``, or a note that it is unknown."""
    trace = node.stack_trace
    if node.op == "get_attr" and trace is None:  # torch 2.8 records none for what is read
        trace = next((user.stack_trace for user in node.users), None)
    frames = _FRAME.finditer(trace or "")
    return _innermost([(m["file"], int(m["line"])) for m in frames]) or "(source line not recorded)"


def _innermost(frames: list[tuple[str, int]]) -> str:
    for file, line in reversed(frames):
        if not file.startswith(_FOREIGN):
            code = _TOOLS.sub("", linecache.getline(file, line).strip())
            file = file.split("site-packages" + os.sep)[-1].removeprefix(str(Path.cwd()) + os.sep)
            return f"{file}:{line}: {code}" if code else f"{file}:{line}"
    return ""


def _failing_line(error: Exception, model: nn.Module) -> tuple[str, str]:
    """The innermost line of user code in a traceback, and the name of the submodule whose forward it is in, if any."""
    frames = list(traceback.walk_tb(error.__traceback__))
    where = _innermost([(frame.f_code.co_filename, line) for frame, line in frames])
    names = {id(module): name for name, module in model.named_modules()}
    owner = ""
    for frame, _ in frames:
        found = names.get(id(frame.f_locals.get("self")))
        if found:
            owner = found
    return where or "(unknown)", owner
