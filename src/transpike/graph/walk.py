"""Walks over a graph: what stands at a node, and one interpreter for everybody who watches a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from transpike.graph.normalize import modules_of
from transpike.graph.site import Site


class NodeVisitor(fx.Interpreter):
    """Runs a graph node by node and hands out what happens.

    Args:
        gm: the graph.
        on_site: computes a module of ``kind`` in its place, from its name, itself and its arguments.
        on_node: called with every node and its value, once it is computed.
        kind: the modules that ``on_site`` computes.

    Attributes:
        current: the node that runs, or ran last.
    """

    current: fx.Node

    def __init__(
        self,
        gm: fx.GraphModule,
        *,
        on_site: Callable[[str, Any, tuple[Any, ...]], Any] | None = None,
        on_node: Callable[[fx.Node, Any], None] | None = None,
        kind: type[nn.Module] = Site,
    ) -> None:
        super().__init__(gm)
        self.on_site, self.on_node, self.kind = on_site, on_node, kind
        self.found = modules_of(gm)

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        self.current = n
        value = super().run_node(n)
        if self.on_node is not None:
            self.on_node(n, value)
        return value

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Runs one module."""
        module = self.found[target]
        if self.on_site is not None and isinstance(module, self.kind):
            return self.on_site(str(target), module, args)
        return super().call_module(target, args, kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The answer, with the dicts and lists of the model, not fx's immutable ones."""
        return mutable(super().output(target, args, kwargs))


def mutable(value: Any) -> Any:
    """The same structure with plain dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: mutable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mutable(item) for item in value]
    if isinstance(value, tuple):
        items = [mutable(item) for item in value]
        return type(value)(*items) if pytree.is_namedtuple_instance(value) else tuple(items)
    return value


def site_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Site | None:
    """The site that a node calls, given the modules of its graph; None for other nodes."""
    module = modules.get(str(node.target)) if node.op == "call_module" else None
    return module if isinstance(module, Site) else None


def argument_count(gm: fx.GraphModule) -> int:
    """Number of the model's arguments that have no default."""
    return sum(not node.args for node in gm.graph.find_nodes(op="placeholder"))


def reference_tensor(module: nn.Module) -> Tensor:
    """A parameter, which says on which device and in which precision the module computes."""
    return next(module.parameters())
