"""The GraphModule of this library: it can be pickled without being traced again."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import fx, nn
from torch.fx.graph import CodeGen
from torch.fx.node import map_aggregate
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class _Reference:
    """Stands for a node among the arguments of another."""

    name: str


class _Record(NamedTuple):
    """One node of a graph as plain values."""

    name: str
    op: str
    target: Any
    args: Any
    kwargs: Any
    meta: dict[str, Any]


class Program(fx.GraphModule):
    """A GraphModule whose pickle keeps names, source lines and ``meta``.

    The pickle of fx holds Python code, is traced again when it is read, and loses them.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        state = {key: value for key, value in self.__dict__.items() if key != "_graph"}
        return _rebuild, (state, [_written(node) for node in self.graph.nodes])


def program_of(model: fx.GraphModule) -> Program:
    """A GraphModule from elsewhere, with all its submodules and what it says about itself."""
    if isinstance(model, Program):
        return model
    return _assemble(model.__dict__, model.graph)


class _NamingTuples(CodeGen):
    """Generated code that finds the classes of the namedtuples that it returns."""

    def __init__(self, classes: dict[str, Any]) -> None:
        super().__init__()
        self._classes = classes

    def additional_globals(self) -> list[tuple[str, Any]]:
        """The classes by the names that the code has for them."""
        return list(self._classes.items())


def name_tuples(graph: fx.Graph) -> None:
    """Makes the classes of returned namedtuples known to the graph's code, which torch 2.8 leaves to chance.

    Needed once a graph has its output, before it becomes a GraphModule.
    """
    if "repr_fn" in inspect.signature(CodeGen.generate_output).parameters:  # this torch names them itself
        return
    classes: dict[str, Any] = {}

    def look(value: Any) -> None:
        if pytree.is_namedtuple_instance(value):
            classes[type(value).__name__] = type(value)
        for part in value if isinstance(value, tuple | list) else value.values() if isinstance(value, dict) else ():
            look(part)

    for node in graph.find_nodes(op="output"):
        look(node.args)
    if classes:
        graph.set_codegen(_NamingTuples(classes))


def _written(node: fx.Node) -> _Record:
    def refer(leaf: Any) -> Any:
        return _Reference(leaf.name) if isinstance(leaf, fx.Node) else leaf

    args, kwargs = (map_aggregate(value, refer) for value in (node.args, node.kwargs))
    meta: dict[str, Any] = {}
    if node.stack_trace is not None:
        meta["stack_trace"] = node.stack_trace
    if "nn_module_stack" in node.meta:  # the classes in it need not be importable
        meta["nn_module_stack"] = {key: (path, None) for key, (path, _) in node.meta["nn_module_stack"].items()}
    return _Record(node.name, node.op, node.target, args, kwargs, meta)


def _rebuild(state: dict[str, Any], records: list[_Record]) -> Program:
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}

    def read(leaf: Any) -> Any:
        return nodes[leaf.name] if isinstance(leaf, _Reference) else leaf

    for record in records:
        args: Any = map_aggregate(record.args, read)
        kwargs: Any = map_aggregate(record.kwargs, read)
        node = graph.create_node(record.op, record.target, args, kwargs, name=record.name)
        node.meta = record.meta
        nodes[record.name] = node
    name_tuples(graph)
    return _assemble(state, graph)


def _assemble(state: dict[str, Any], graph: fx.Graph) -> Program:
    program = Program(nn.Module(), fx.Graph())
    program.__dict__.update({key: value for key, value in state.items() if key != "_graph"})
    program.graph = graph
    return program
