"""From the graph and its plan to two executable GraphModules.

The *prologue* computes every STATIC value once. The *body* advances all sites by some steps: time is folded into the
batch (``[S * N, ...]``, step-major), so that every operator stays as the user wrote it; sites, temporal operators and
readouts take their memory as an argument and return the new one.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from transpike.graph.function_site import FunctionSite
from transpike.graph.normalize import modules_of
from transpike.graph.operators import vanishes_at_rest
from transpike.graph.plan import Kind, Layout, Plan
from transpike.graph.program import name_tuples
from transpike.graph.site import Site
from transpike.graph.sizes import at_steps
from transpike.graph.walk import site_of
from transpike.kernels import KernelPreference
from transpike.neurons import Neuron
from transpike.runtime.runners import Argument, FunctionRunner, Readout, SiteRunner, TemporalMaxPool
from transpike.runtime.sequences import first_only, first_step, join, silence, steps_of, unfold
from transpike.schedules import Schedule


@dataclass(frozen=True)
class Lowered:
    """The executable form of a network under one schedule.

    Attributes:
        prologue: ``(*constant inputs) -> static values``.
        body: ``(batch, steps, start, *memories, *statics, *folded time-varying inputs) -> (answer, memories)``; the
            answer has the structure of the model's output with tensors ``[S, N, *]``.
        stateful: names of the nodes that own the memories, in order.
    """

    prologue: fx.GraphModule
    body: fx.GraphModule
    stateful: tuple[str, ...]


def lower(
    gm: fx.GraphModule, plan: Plan, neuron: Neuron, schedule: Schedule, kernel: KernelPreference, number: int
) -> Lowered:
    """Emits prologue and body for one pass of a schedule.

    Raises:
        ValueError: the schedule says that it streams, but some site lags behind; or biases per step under digits; or
            sites of other functions than ReLU under a schedule or neuron that has none.
    """
    reason = schedule.unsupported_function(neuron) if plan.functions else None
    if reason is not None:
        raise ValueError(
            f"{schedule} with {neuron} cannot run {len(plan.functions)} of the sites, such as "
            f"{plan.functions[0].name!r}, which follow another function than ReLU: {reason}; run SignedDigits, or "
            "Plain with the neuron SignedIF"
        )
    lagging = [site.name for site in plan.sites if schedule.lag(site.name) > 0]
    if schedule.streamable and lagging:  # joins and readouts have no memory for a branch that is ahead
        raise ValueError(
            f"{schedule} says streamable=True, but site {lagging[0]!r} lags by {schedule.lag(lagging[0])} steps: "
            "a schedule with lags needs all steps at once, so it must say streamable=False"
        )
    if schedule.incremental:
        for site in plan.sites:
            module = gm.get_submodule(site.name)
            if isinstance(module, Site) and not module.steady:
                raise ValueError(
                    f"the biases of site {site.name!r} differ from step to step, and {schedule} adds a bias only once: "
                    "convert without temporal biases, or run another schedule"
                )
    return _Lowering(gm, plan, neuron, schedule, kernel, number).run()


class _Lowering:
    def __init__(
        self,
        gm: fx.GraphModule,
        plan: Plan,
        neuron: Neuron,
        schedule: Schedule,
        kernel: KernelPreference,
        number: int,
    ) -> None:
        self.gm = gm
        self.plan = plan
        self.settings = (neuron, schedule, kernel, number)
        self.incremental = schedule.incremental
        self.modules = modules_of(gm)
        self.constant_drive = {site.name: site.constant_drive for site in plan.sites}
        self.body = fx.Graph()
        self.roots: dict[str, Any] = {}
        self.env: dict[fx.Node, fx.Node] = {}
        self.stateful: list[str] = []
        self.new_memories: list[fx.Node] = []

    def kind(self, node: fx.Node) -> Kind:
        return self.plan.kinds[node.name]

    def in_body(self, node: fx.Node) -> bool:
        return self.plan.in_time(node.name)

    def run(self) -> Lowered:
        nodes = list(self.gm.graph.nodes)
        crossing = [
            node
            for node in nodes
            if not self.in_body(node) and any(self.in_body(user) or user.op == "output" for user in node.users)
        ]
        prologue = self._prologue(nodes, crossing)
        self._body(nodes, crossing)
        body = _without_dead_code(fx.GraphModule(self.roots, self.body))
        return Lowered(prologue, body, tuple(self.stateful))

    def _prologue(self, nodes: list[fx.Node], crossing: list[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}
        for node in nodes:
            if node.op != "output" and not self.in_body(node):
                env[node] = graph.node_copy(node, lambda source: env[source])
        graph.output(tuple(env[node] for node in crossing))
        return _without_dead_code(fx.GraphModule(self.gm, graph))

    def _body(self, nodes: list[fx.Node], crossing: list[fx.Node]) -> None:
        graph = self.body
        self.batch = graph.placeholder("batch")
        self.steps = graph.placeholder("steps")
        self.start = graph.placeholder("start")
        owners = [node for node in nodes if self._is_stateful(node)]
        readouts = [node for node in nodes if node.name in self.plan.readouts]
        self.memories = {node: graph.placeholder(f"memory_{node.name}") for node in owners}
        self.readout_memories = {node: graph.placeholder(f"memory_mean_{node.name}") for node in readouts}
        for node in crossing:
            self.env[node] = graph.placeholder(f"static_{node.name}")
        for node in nodes:
            if node.op == "placeholder" and self.in_body(node):
                self.env[node] = graph.placeholder(f"time_varying_{node.name}")
        self.means: dict[fx.Node, fx.Node] = {}
        order = {node: index for index, node in enumerate(owners)}
        readout_order = {node: len(owners) + index for index, node in enumerate(readouts)}  # a site may be both
        new: dict[int, fx.Node] = {}
        for node in nodes:
            if node.op == "output":
                answer = fx.map_arg(node.args[0], self._answer)
                graph.output((answer, tuple(new[index] for index in range(len(owners) + len(readouts)))))
                name_tuples(graph)
            elif self.in_body(node):
                if node.op != "placeholder":
                    self.env[node] = self._emit(node, new, order)
                if node in self.readout_memories:
                    value, memory = self._call(
                        f"readout_{node.name}",
                        Readout(node.name, self.incremental),
                        self.env[node],
                        self.readout_memories[node],
                    )
                    self.means[node] = value
                    new[readout_order[node]] = memory
        self.stateful = [node.name for node in owners] + [f"mean of {node.name}" for node in readouts]

    def _is_stateful(self, node: fx.Node) -> bool:
        return node.name in self.plan.pools or site_of(node, self.modules) is not None

    def _emit(self, node: fx.Node, new: dict[int, fx.Node], order: dict[fx.Node, int]) -> fx.Node:
        if self._is_stateful(node):
            name = str(node.target)
            module = self.modules[name]
            runner: nn.Module
            arrives: Any = self.env[node.all_input_nodes[0]]
            if isinstance(module, FunctionSite):
                arguments = tuple(map(self._argument, node.args))
                runner = FunctionRunner(name, module, *self.settings, arguments, self._layout(node))
                arrives = tuple(fx.map_arg(argument, lambda each: self.env[each]) for argument in node.args)
            elif isinstance(module, Site):
                drive = node.all_input_nodes[0]
                runner = SiteRunner(name, module, *self.settings, self.constant_drive[name], self._layout(drive))
            else:
                runner = TemporalMaxPool(module)
            value, memory = self._call(name, runner, arrives, self.memories[node])
            new[order[node]] = memory
            return value
        sources = self._operands(node, self.env)
        if node.op == "call_module":
            self.roots[str(node.target)] = self.modules[str(node.target)]
        value = self.body.node_copy(node, lambda source: sources[source])
        sequences = [source for source in node.all_input_nodes if self.kind(source) is Kind.SEQUENCE]
        if (
            not self.incremental
            or self.kind(node) is not Kind.SEQUENCE
            or vanishes_at_rest(node, self.modules, sequences)
        ):
            return value
        silent = self._operands(node, self.env | self._silent(sequences))
        at_rest = self.body.node_copy(node, lambda source: silent[source])
        return self.body.call_function(first_only, (value, at_rest, self.batch, self._layout(node)))

    def _layout(self, node: fx.Node) -> Layout:
        return self.plan.layouts.get(node.name, (0, 1))

    def _argument(self, value: Any) -> Argument:
        """What a site of any function must know about one of its arguments."""
        if not isinstance(value, fx.Node):
            return Argument(None)
        return Argument(self.kind(value), self._layout(value), self.plan.grows.get(value.name, False))

    def _silent(self, sequences: Sequence[fx.Node]) -> dict[fx.Node, fx.Node]:
        """One step of zeros for every sequence."""
        return {
            source: self.body.call_function(silence, (self.env[source], self.batch, self._layout(source)))
            for source in sequences
        }

    def _call(self, name: str, runner: nn.Module, value: Any, memory: fx.Node) -> tuple[fx.Node, fx.Node]:
        self.roots[name] = runner
        pair = self.body.call_module(name, (value, memory, self.batch, self.steps, self.start))
        get = operator.getitem
        return self.body.call_function(get, (pair, 0)), self.body.call_function(get, (pair, 1))

    def _operands(self, node: fx.Node, env: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, fx.Node]:
        """The values ``env`` of a node's inputs, brought to one number of steps."""
        if node.name in self.plan.read:
            return {source: self._one_step(source) for source in node.all_input_nodes}
        mean = self.kind(node) is Kind.MEAN
        found: dict[fx.Node, fx.Node] = {}
        in_time: list[fx.Node] = []
        for source in node.all_input_nodes:
            kind = self.kind(source)
            found[source] = self.means[source] if mean and kind is Kind.SEQUENCE else env[source]
            if kind in (Kind.STATIC, Kind.SEQUENCE, Kind.MEAN):
                in_time.append(source)
        held = tuple(self.kind(source) is Kind.STATIC for source in in_time)
        if len(in_time) > 1:
            layouts = tuple(self._layout(source) for source in in_time)
            settings = (self.batch, held, layouts, self.incremental and not mean)
            joined = self.body.call_function(join, (*settings, *(found[source] for source in in_time)))
            for index, source in enumerate(in_time):
                found[source] = self.body.call_function(operator.getitem, (joined, index))
        sequences = [source for source, hold in zip(in_time, held, strict=True) if not hold]
        for source in node.all_input_nodes:
            if source.name in self.plan.grows:
                sequence = sequences[0]
                steps = self.body.call_function(steps_of, (found[sequence], self.batch, self._layout(sequence)))
                found[source] = self.body.call_function(at_steps, (found[source], self.plan.grows[source.name], steps))
        return found

    def _one_step(self, source: fx.Node) -> fx.Node:
        """A value as in the ANN, of which sizes are read."""
        value = self.env[source]
        if self.kind(source) not in (Kind.SEQUENCE, Kind.MEAN):
            return value
        return self.body.call_function(first_step, (value, self.batch, self._layout(source)))

    def _answer(self, source: fx.Node) -> fx.Node:
        kind = self.kind(source)
        if kind is Kind.SEQUENCE:
            return self.body.call_function(unfold, (self.means[source], self.batch))
        if kind is Kind.MEAN:
            return self.body.call_function(unfold, (self.env[source], self.batch))
        return self.body.call_function(_hold, (self.env[source], self.steps))


def _without_dead_code(gm: fx.GraphModule) -> fx.GraphModule:
    gm.graph.eliminate_dead_code()
    gm.recompile()
    return gm


def _hold(value: Tensor, steps: int) -> Tensor:
    """A static answer, the same after every step."""
    return value.unsqueeze(0).expand(steps, *value.shape)
