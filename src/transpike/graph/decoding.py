"""What decodes an answer: activations behind an operator that keeps them from becoming neurons, without weights."""

from __future__ import annotations

from torch import fx, nn

from transpike.graph.normalize import modules_of
from transpike.graph.operators import Role, role_of
from transpike.graph.walk import site_of


def keep_decoding(gm: fx.GraphModule) -> None:
    """Puts the activations back that decode an answer, as the clamp in ``sigmoid(boxes).clamp(0, 1)``.

    An operator that is not linear in time can stay behind the last activation only. Where no weights follow it, the
    activations that do are no layers of the network, but part of how its answer is written.
    """
    modules = modules_of(gm)
    spiking: set[fx.Node] = set()
    decoding: set[fx.Node] = set()
    for node in gm.graph.nodes:
        if site_of(node, modules) is not None or any(source in spiking for source in node.all_input_nodes):
            spiking.add(node)
        if any(source in decoding for source in node.all_input_nodes):
            decoding.add(node)
        elif node in spiking and site_of(node, modules) is None and role_of(node, modules) is Role.OTHER:
            behind = _descendants(node)
            if not any(_has_weights(each, modules) for each in behind):
                decoding |= behind
    for node in decoding:
        site = site_of(node, modules)
        if site is not None:
            gm.set_submodule(str(node.target), site.activation)


def _descendants(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        new = set(waiting.pop().users) - found
        found |= new
        waiting.extend(new)
    return found


def _has_weights(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    """Whether a node reads parameters: in its module, or among its arguments."""
    root = node.graph.owning_module
    for source in (node, *node.all_input_nodes):
        if source.op == "get_attr" and root is not None:
            path, _, name = str(source.target).rpartition(".")
            if isinstance(getattr(root.get_submodule(path), name, None), nn.Parameter):
                return True
    if node.op != "call_module" or site_of(node, modules) is not None:
        return False
    return next(modules[str(node.target)].parameters(), None) is not None
