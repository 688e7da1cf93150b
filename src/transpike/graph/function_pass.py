"""Finds the functions that spikes must follow, other than ReLU, and puts a `FunctionSite` where each stands.

A function is not linear in time, has a layer with weights in front of it, and one behind: others stay analogue, in
front of the first neurons or behind the last. Calls that lead to nothing but one function's result become part of it.
Then every layer with weights, and every matrix product of two values, is given events: where something else would
arrive, a site sends it on.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx, nn

from transpike.graph.capture import source_of
from transpike.graph.example_run import examples_of
from transpike.graph.function_site import FunctionSite, SiteKind, identity
from transpike.graph.function_table import ALL, kind_of_calls, limits_of, short_name
from transpike.graph.linear_operators import Change
from transpike.graph.normalize import ActivationCall, call_name, modules_of
from transpike.graph.operators import Role, change_of, is_left, operator_name, role_of, takes_batch_statistics
from transpike.graph.program import program_of
from transpike.graph.walk import site_of

_WEIGHTED: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear)
_WEIGHTED_CALLS = frozenset(
    [
        *("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        *("matmul", "bmm", "mm", "mv", "addmm", "baddbmm", "einsum", "bilinear", "tensordot", "inner"),
    ]
)
"""Functions that multiply matrices: layers with weights, or products of two values."""

_FUNCTION_HOMES = frozenset(
    f"torch.nn.modules.{name}" for name in ("activation", "distance", "instancenorm", "normalization", "pooling")
)
"""Where modules are that compute a function of their input alone."""


def make_function_sites(gm: fx.GraphModule, inputs: tuple[Tensor, ...], leave: Collection[str]) -> list[ActivationCall]:
    """Puts sites where functions stand, and in front of what needs events; changes the graph in place.

    Args:
        gm: normalised graph with a `Site` at every activation call.
        inputs: the probing batch.
        leave: names of activations that are kept as they are.

    Returns:
        What the new sites were in the source.
    """
    return _Pass(gm, inputs, leave).run()


class _Pass:
    def __init__(self, gm: fx.GraphModule, inputs: tuple[Tensor, ...], leave: Collection[str]) -> None:
        self.gm = gm
        self.leave = leave
        self.modules = modules_of(gm)
        self.examples = examples_of(gm, inputs)
        self.nodes = list(gm.graph.nodes)
        self.varying: set[fx.Node] = set()
        self.fed: set[fx.Node] = set()
        self.feeds: set[fx.Node] = set()
        self.moving: set[fx.Node] = set()
        self.nonlinear: set[fx.Node] = set()
        self.relayed = False
        self.calls: list[ActivationCall] = []
        self.taken: Counter[str] = Counter()
        self.counts = Counter(str(node.target) for node in self.nodes if node.op == "call_module")
        for node in self.nodes:
            self._vary(node)
        for node in reversed(self.nodes):
            if any(self._is_site(user) or self._weighs(user) or user in self.feeds for user in node.users):
                self.feeds.add(node)

    def run(self) -> list[ActivationCall]:
        for node in self.nodes:
            self._look_back(node)
        if not self._cones():  # what arrives at layers of a network of ReLUs stays as it is
            return []
        self.relayed = True
        for node in self.nodes:
            self._look_back(node)
        cones = self._cones()
        self._relay({root for root, _ in cones})
        for root, members in cones:
            self._make(root, members)
        self.gm.graph.eliminate_dead_code()
        self.gm.delete_all_unused_submodules()
        self.gm.graph.lint()
        self.gm.recompile()
        return self.calls

    def _vary(self, node: fx.Node) -> None:
        """Whether a node varies with the input, other than in its shape."""
        if role_of(node, self.modules) is Role.SIZE or node.op == "output":
            return
        sources = self._among(node, self.varying)
        given = node.op == "placeholder" and isinstance(self.examples[node], Tensor)
        if given or (sources and not self._change(node, sources).still):
            self.varying.add(node)

    def _look_back(self, node: fx.Node) -> None:
        """Whether a node has weights in front of it, is a function, and differs from step to step."""
        sources = self._among(node, self.varying)
        if node not in self.varying or not sources:
            return
        if any(source in self.fed or self._weighs(source) for source in sources) or self._is_site(node):
            self.fed.add(node)
        moving = self._among(node, self.moving)
        if self.relayed and self._multiplies(node):  # what has weights in front of it will arrive as events
            moving = [each for each in sources if each in self.moving or each in self.fed or self._weighs(each)]
        reason = self._change(node, moving).reason  # a product is none where only one of its factors moves
        pool = role_of(node, self.modules) is Role.MAX_POOL
        kept = self._is_site(node) or pool or takes_batch_statistics(node, self.modules)
        if reason is not None and not kept and not self._stays(node):
            self.nonlinear.add(node)
        sent = self.relayed and self._multiplies(node) and node in self.fed  # what it is given
        if moving or sent or self._is_site(node) or self._is_function(node):
            self.moving.add(node)

    def _among(self, node: fx.Node, chosen: set[fx.Node]) -> list[fx.Node]:
        return [source for source in node.all_input_nodes if source in chosen]

    def _change(self, node: fx.Node, moving: list[fx.Node]) -> Change:
        return change_of(node, self.modules, moving, _dtype(self.examples[node]))

    def _is_site(self, node: fx.Node) -> bool:
        return site_of(node, self.modules) is not None

    def _multiplies(self, node: fx.Node) -> bool:
        """Whether a call multiplies matrices."""
        if node.op == "call_module":
            return isinstance(self.modules.get(str(node.target)), _WEIGHTED)  # none of the new ones
        return node.op in ("call_function", "call_method") and short_name(node, self.modules) in _WEIGHTED_CALLS

    def _stays(self, node: fx.Node) -> bool:
        """Whether a call stays: one that the user listed, or that hides layers with weights, as recurrent ones do."""
        if is_left(node, self.modules, self.leave):
            return True
        if node.op != "call_module":
            return False
        home = type(self.modules[str(node.target)]).__module__
        return home not in _FUNCTION_HOMES or isinstance(self.modules[str(node.target)], nn.MultiheadAttention)

    def _weighs(self, node: fx.Node) -> bool:
        """Whether a call is a layer with weights."""
        return self._multiplies(node) and len(self._among(node, self.varying)) == 1

    def _is_function(self, node: fx.Node) -> bool:
        return node in self.nonlinear and node in self.fed and node in self.feeds

    def _cones(self) -> list[tuple[fx.Node, list[fx.Node]]]:
        """Every function that sends events, with the calls that lead to nothing else, in graph order."""
        owned: dict[fx.Node, fx.Node] = {}
        found: list[tuple[fx.Node, list[fx.Node]]] = []
        for root in reversed(self.nodes):
            if root in owned or not self._may_end(root):
                continue
            cone = self._cone(root, owned)
            owned.update(dict.fromkeys(cone, root))
            found.append((root, [node for node in self.nodes if node in cone]))
        return found[::-1]

    def _may_end(self, node: fx.Node) -> bool:
        """Whether a node's values can be sent: those of a function, also where it gives several."""
        example, function = self.examples[node], node
        if node.target is operator.getitem and not isinstance(self.examples[node.all_input_nodes[0]], Tensor):
            function = node.all_input_nodes[0]
        return self._is_function(function) and isinstance(example, Tensor) and example.dtype.is_floating_point

    def _cone(self, root: fx.Node, owned: Mapping[fx.Node, fx.Node]) -> set[fx.Node]:
        """The calls whose results lead to ``root`` alone, up to sites, layers, and what products are given."""
        cone = {root}
        for node in reversed(self.nodes[: self.nodes.index(root)]):
            if node in owned or node.op in ("placeholder", "get_attr", "output") or self._is_site(node):
                continue
            users = set(node.users)
            several = not isinstance(self.examples[node], Tensor) and node in self.nonlinear and users & cone
            if not several and not (users and users <= cone):
                continue
            if role_of(node, self.modules) is Role.MAX_POOL or any(self._multiplies(user) for user in users & cone):
                continue
            if self._multiplies(node) and node not in self.nonlinear:
                continue
            cone.add(node)
        return self._trimmed(root, cone)

    def _trimmed(self, root: fx.Node, cone: set[fx.Node]) -> set[fx.Node]:
        """Without what is linear in time and not behind a function of the same cone: that stays outside."""
        inside: set[fx.Node] = set()
        for node in self.nodes:
            if node in cone and (
                node is root or node in self.nonlinear or any(source in inside for source in node.all_input_nodes)
            ):
                inside.add(node)
        return inside

    def _make(self, root: fx.Node, members: list[fx.Node]) -> None:
        """Puts a site in the place of some calls, whose result is that of ``root``."""
        own = set(members)
        arguments = list(
            dict.fromkeys(source for node in members for source in node.all_input_nodes if source not in own)
        )
        graph = fx.Graph()
        inner: dict[fx.Node, fx.Node] = {node: graph.placeholder(node.name) for node in arguments}
        for node in members:
            inner[node] = graph.node_copy(node, lambda source: inner[source])
        graph.output(inner[root])
        function = program_of(fx.GraphModule(self.gm, graph))
        drives = sum(argument in self.varying for argument in arguments)
        site = FunctionSite(
            *(function, kind_of_calls(members, drives, self.modules), limits_of(root, self.modules)),
            by_row=self._by_row(root),
        )
        new = self._put(root, site, call_name(root, self.modules, self.counts, self.taken), arguments)
        root.replace_all_uses_with(new)

    def _by_row(self, node: fx.Node) -> bool:
        """Whether channels are the first dimension of a sample: where the next layer is a convolution."""
        waiting, seen = list(node.users), set(node.users)
        while waiting:
            user = waiting.pop(0)
            if self._multiplies(user):
                return "conv" in short_name(user, self.modules)
            new = [each for each in user.users if each not in seen]
            waiting += new
            seen.update(new)
        return True

    def _relay(self, functions: set[fx.Node]) -> None:
        """Sends on, with a site of its own, what arrives at a matrix product and is no sum of events."""
        events: dict[fx.Node, bool] = {}
        relays: dict[fx.Node, fx.Node] = {}
        for node in self.nodes:
            if node not in self.varying:
                continue
            if self._multiplies(node) and node in self.fed:
                for source in node.all_input_nodes:
                    if not events.get(source, True):
                        if source not in relays:
                            relays[source] = self._send_on(source)
                        node.replace_input_with(source, relays[source])
            sent = node in functions or self._is_site(node)
            pool = role_of(node, self.modules) is Role.MAX_POOL and node in self.fed
            changed = self._multiplies(node) or node in self.nonlinear or pool
            events[node] = sent or not (changed or any(not events.get(source, True) for source in node.all_input_nodes))

    def _send_on(self, source: fx.Node) -> fx.Node:
        site = FunctionSite(identity(), SiteKind.POINTWISE, ALL, by_row=self._by_row(source))
        name = call_name(source, self.modules, self.counts, self.taken, "@sent")
        return self._put(source, site, name, [source])

    def _put(self, root: fx.Node, site: FunctionSite, name: str, arguments: list[fx.Node]) -> fx.Node:
        """A call of a new site behind ``root``."""
        self.gm.add_submodule(name, site.train(self.gm.training))
        with self.gm.graph.inserting_after(root):
            new = self.gm.graph.call_module(name, tuple(arguments))
        new.meta = dict(root.meta)
        new.stack_trace = root.stack_trace
        self.varying.add(new)
        self.calls.append(ActivationCall(name, operator_name(root, self.modules), source_of(root)))
        return new


def _dtype(example: object) -> torch.dtype | None:
    return example.dtype if isinstance(example, Tensor) else None
