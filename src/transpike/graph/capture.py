"""From a module to one torch.fx graph that remembers where each operator stands in the user's source."""

from __future__ import annotations

import copy
import inspect
import linecache
import operator
import os
import re
import traceback
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from transpike.activations import TrainedActivation
from transpike.errors import TraceError
from transpike.graph.attention import OPENED
from transpike.graph.export_tracer import ExportTracer, exported
from transpike.graph.fingerprint import fingerprint_of, take_fingerprint
from transpike.graph.parametrizations import bake_parametrizations, refuse_hooked_weights
from transpike.graph.plain_tracer import PlainTracer, traced_sizes
from transpike.graph.program import Program, name_tuples, program_of
from transpike.graph.second_batch import check_second_batch, two_batches
from transpike.graph.traced_values import BatchSizeDecisionError, RefusedError, UnfollowedError
from transpike.graph.unwrap import EXPORTED
from transpike.graph.value_tracer import Guard, ValueTracer

_FOREIGN = (
    str(Path(torch.__file__).parent) + os.sep,
    str(Path(torch.__file__).parents[1] / "onnx2torch") + os.sep,  # operators of `load_onnx`
    str(Path(__file__).parent) + os.sep,
    "<",
)
_TOOLS = re.compile(r"\s*#\s*(type:|noqa|pragma|pyright).*$")
"""What linters read, and nobody else."""
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in ')


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


class CaptureLayer(Enum):
    """How a model became a graph.

    ``SYMBOLIC``: plain tracing with torch.fx, without values.

    ``VALUES``: tracing with values: sizes, types and flags decide on the way, and are guarded.

    ``EXPORT``: torch.export, whose operators are written as those of the other two.
    """

    SYMBOLIC = "symbolic"
    VALUES = "values"
    EXPORT = "export"


@dataclass(frozen=True)
class Captured:
    """How a graph was captured.

    Attributes:
        layer: how the model became a graph.
        guards: the sizes of inputs that it was made for.
    """

    layer: CaptureLayer = CaptureLayer.SYMBOLIC
    guards: tuple[Guard, ...] = ()


_META = "transpike.captured"


def captured(gm: fx.GraphModule) -> Captured:
    """How a graph was captured."""
    found = gm.meta.get(_META)
    return found if isinstance(found, Captured) else Captured()


def trace(
    model: nn.Module,
    leaf_modules: LeafModules = (),
    inputs: int = 0,
    *,
    examples: Sequence[Tensor] = (),
    layer: CaptureLayer | None = None,
    bake: bool = False,
) -> Program:
    """Traces a copy of ``model``; the model itself is never changed.

    Where plain tracing stumbles, or stops at a function or module that holds operators of its own, and there are
    examples, the model is traced with values; where that stumbles, too, it is exported.

    Args:
        model: any module without control flow that depends on data; a GraphModule is taken as it is.
        leaf_modules: submodules that stay one operator each.
        inputs: how many arguments the graph takes at least; further ones that have a default value keep it.
        examples: one batch per argument.
        layer: the only way to capture it; None tries one after the other.
        bake: give parametrized weights the values they have; else they stay parametrized.

    Returns:
        The graph; `captured` says how it was made.

    Raises:
        ValueError: a leaf that the model does not hold.
        TraceError: the model's Python code cannot be traced, with the source line; or a weight is made by a hook.
    """
    names = leaf_names(model, leaf_modules)
    refuse_hooked_weights(model)
    if isinstance(model, fx.GraphModule) and EXPORTED in model.meta:
        layer = CaptureLayer.EXPORT
    elif isinstance(model, fx.GraphModule):
        copied = _copied(model, bake)
        assert isinstance(copied, fx.GraphModule)
        given = program_of(copied)
        if fingerprint_of(given) is None:
            take_fingerprint(given, source_of)
        return given
    layers = [CaptureLayer.SYMBOLIC]
    if layer is not None:
        layers = [layer]
    elif examples:
        layers += [CaptureLayer.VALUES, *([] if model.training else [CaptureLayer.EXPORT])]
    reason: TraceError | None = None
    plain: Program | None = None
    for each in layers:
        try:
            found = _WAYS[each](_copied(model, bake), names, max(inputs, len(examples)), examples)
            if each is not CaptureLayer.SYMBOLIC and not model.training:
                with _explained(model):
                    check_second_batch(model, found, [two_batches(example)[1] for example in examples])
        except TraceError as error:
            if each is not CaptureLayer.EXPORT or reason is None:
                reason = error
            if isinstance(error.__cause__, RefusedError | BatchSizeDecisionError):
                break
            continue
        take_fingerprint(found, source_of)
        if each is CaptureLayer.SYMBOLIC and len(layers) > 1 and stops_short(found, names):
            plain = found
            continue
        return found
    if plain is not None:
        return plain
    assert reason is not None
    raise reason


def _copied(model: nn.Module, bake: bool) -> nn.Module:
    model = copy.deepcopy(model)
    if bake:
        bake_parametrizations(model)
    return model


def _symbolic(model: nn.Module, leaves: tuple[str, ...], inputs: int, examples: Sequence[Tensor]) -> Program:
    tracer = PlainTracer(leaves, inputs)
    with _explained(model), traced_sizes():
        graph = tracer.trace(model)
    return _program(model, graph, Captured())


def _with_values(model: nn.Module, leaves: tuple[str, ...], inputs: int, examples: Sequence[Tensor]) -> Program:
    tracer = ValueTracer(examples, leaves)
    with _explained(model):
        graph = tracer.trace(model)
    _drop_unread(graph)
    return _program(model, graph, Captured(CaptureLayer.VALUES, tuple(sorted(tracer.guards))))


def _drop_unread(graph: fx.Graph) -> None:
    """Removes items, attributes and weights that nobody reads; calls of the user's stay."""
    for node in reversed(graph.nodes):
        if not node.users and (node.op == "get_attr" or node.target in (operator.getitem, getattr)):
            graph.erase_node(node)


def _by_export(model: nn.Module, leaves: tuple[str, ...], inputs: int, examples: Sequence[Tensor]) -> Program:
    with _explained(model):
        if leaves or any(isinstance(module, TrainedActivation) for module in model.modules()):
            raise UnfollowedError("torch.export keeps no leaf modules and trained activations")
        if not examples:
            raise UnfollowedError("an exported program needs example inputs")
        tracer = ExportTracer(model if isinstance(model, fx.GraphModule) else exported(model, examples), examples)
        graph = tracer.trace(model)
    _drop_unread(graph)
    return _program(model, graph, Captured(CaptureLayer.EXPORT, tuple(sorted(tracer.guards))))


_WAYS = {
    CaptureLayer.SYMBOLIC: _symbolic,
    CaptureLayer.VALUES: _with_values,
    CaptureLayer.EXPORT: _by_export,
}


def _program(model: nn.Module, graph: fx.Graph, how: Captured) -> Program:
    _return_named_tuples(graph)
    name_tuples(graph)
    gm = Program(model, graph)
    keep_unused_state(gm, model)
    gm.meta[_META] = how
    return gm


@contextmanager
def _explained(model: nn.Module) -> Iterator[None]:
    """Errors of tracing, with the line of the user's code."""
    try:
        yield
    except TraceError:  # it says where
        raise
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


def stops_short(gm: fx.GraphModule, leaves: Collection[str]) -> bool:
    """Whether an operator of the graph is a function or module that holds operators, but is not meant to stay one."""
    for node in gm.graph.nodes:
        if node.op == "call_module" and str(node.target) not in leaves:
            if isinstance(gm.get_submodule(str(node.target)), OPENED):
                return True
        elif node.op == "call_function" and inspect.isfunction(node.target):
            home = str(node.target.__module__).split(".")[0]
            if home != "torch" and node.target.__name__ != "stochastic_depth":
                return True
            if node.target is F.multi_head_attention_forward:
                return True
    return False


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
