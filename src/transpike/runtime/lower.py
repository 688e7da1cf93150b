"""From the graph and its plan to two executable GraphModules.

The *prologue* computes every STATIC value once. The *body* advances all sites by some steps: time is folded into the
batch (``[S * N, ...]``, step-major), so that every operator stays as the user wrote it; sites, temporal operators and
readouts take their memory as an argument and return the new one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from transpike.functional import summing_type
from transpike.graph.normalize import modules_of
from transpike.graph.plan import Kind, Plan
from transpike.graph.program import name_tuples
from transpike.graph.site import Site
from transpike.graph.sizes import at_steps
from transpike.graph.walk import site_of
from transpike.kernels import KernelPreference
from transpike.neurons import Neuron
from transpike.schedules import Memory, Schedule, SiteContext


def fold(value: Tensor) -> Tensor:
    """``[S, N, *] -> [S * N, *]``."""
    return value.flatten(0, 1)


def unfold(value: Tensor, batch: int) -> Tensor:
    """``[S * N, *] -> [S, N, *]``."""
    return value.reshape(-1, batch, *value.shape[1:])


def join(batch: int, held: tuple[bool, ...], *values: Tensor) -> tuple[Tensor, ...]:
    """Brings the operands of one operator to the same number of steps.

    A branch that is ahead waits, so every sequence is cut to the steps that all have; values that are the same at
    every step (``held``) are repeated.
    """
    steps = min(value.shape[0] // batch for value, hold in zip(values, held, strict=True) if not hold)
    return tuple(
        fold(value.unsqueeze(0).expand(steps, *value.shape)) if hold else value[: steps * batch]
        for value, hold in zip(values, held, strict=True)
    )


def silence(value: Any, batch: int) -> Any:
    """One step of zeros, ``[N, *]``."""
    return pytree.tree_map(lambda sequence: torch.zeros_like(sequence[:batch]), value)


def first_only(value: Any, at_rest: Any, batch: int) -> Any:
    """Takes what an operator gives for zeros, such as its bias, off all steps ``[S * N, *]`` but the first."""

    def difference(value: Tensor, at_rest: Tensor) -> Tensor:
        steps = unfold(value, batch)
        return fold(torch.cat([steps[:1], steps[1:] - at_rest]))

    return pytree.tree_map(difference, value, at_rest)  # an operator may give several tensors


class SiteRunner(nn.Module):
    """Runs one population under a schedule, and turns events into output ``theta * events``."""

    def __init__(
        self,
        name: str,
        site: Site,
        neuron: Neuron,
        schedule: Schedule,
        kernel: KernelPreference,
        number: int,
        constant_drive: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.site = site
        self.neuron = neuron
        self.schedule = schedule
        self.kernel = kernel
        self.number = number
        self.constant_drive = constant_drive

    def currents(self, value: Tensor, batch: int, steps: int) -> Tensor:
        """What arrives, ``[S, N, *]``; a constant current takes no memory."""
        if not self.constant_drive:
            return unfold(value, batch)
        if self.schedule.incremental:
            return torch.cat([value.unsqueeze(0), value.new_zeros(steps - 1, *value.shape)])
        return value.unsqueeze(0).expand(steps, *value.shape)

    def drive(self, value: Tensor, batch: int, steps: int, start: Tensor) -> Tensor:
        """The input current ``[S, N, *]``: what arrives, and the site's bias."""
        once = self.schedule.incremental
        if self.constant_drive and self.site.steady and not once:
            return self.site.biased(value.unsqueeze(0), start).expand(steps, *value.shape)
        return self.site.biased(self.currents(value, batch, steps), start, once=once)

    def emit(self, drive: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The events ``[S_out, N, *]`` and the new memory for a drive ``[S, N, *]``."""
        parameters = self.site.parameters_of_neurons
        context = SiteContext(self.name, drive, self.neuron, parameters, memory, self.number, self.kernel)
        return self.schedule.emit(context)

    def forward(
        self, value: Tensor, memory: Memory | None, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory]:
        """Folded currents (or one constant current) in, folded output and new memory out."""
        return self.run(None, value, memory, batch, steps, start)

    def run(
        self,
        observe: Callable[[Tensor, Tensor], None] | None,
        value: Tensor,
        memory: Memory | None,
        batch: int,
        steps: int,
        start: Tensor,
    ) -> tuple[Tensor, Memory]:
        """`forward`, which shows drive and events ``[S, N, *]``."""
        drive = self.drive(value, batch, steps, start)
        events, memory = self.emit(drive, memory)
        if observe is not None:
            observe(drive, events)
        return fold(self.schedule.values(events, self.site.theta)), memory


class TemporalMaxPool(nn.Module):
    """Max-pooling of a sequence: with C the running sum of the input, emits ``max C(t) - max C(t-1)``.

    T steps add up to the maximum of the sums, so the mean converges to the maximum of the means.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(
        self, value: Tensor, memory: Memory | None, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory]:
        """Folded sequence in, folded sequence of increments out; the memory is C, at least in float32."""
        sequence = unfold(value, batch)
        dtype = summing_type(value.dtype)
        before = torch.zeros_like(sequence[0], dtype=dtype) if memory is None else memory[0]
        sums = torch.cat([before.unsqueeze(0), before + sequence.cumsum(0, dtype=dtype)])
        pooled = unfold(self.pool(fold(sums)), batch)
        return fold(pooled[1:] - pooled[:-1]).to(value.dtype), (sums[-1],)


class Readout(nn.Module):
    """The running mean of a sequence: integrates and never fires (SlipReLU paper, section 2).

    Args:
        name: of the node of the network whose value it is.
        incremental: the running sum instead.
    """

    def __init__(self, name: str, incremental: bool = False) -> None:
        super().__init__()
        self.name = name
        self.incremental = incremental

    def forward(
        self, value: Tensor, memory: Memory | None, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory]:
        """Folded sequence in, folded running means out.

        The memory is the sum so far, at least in float32; ``start`` are the steps in it.
        """
        sums = unfold(value, batch).cumsum(0, dtype=summing_type(value.dtype))
        if memory is not None:
            sums = memory[0] + sums
        if self.incremental:
            return fold(sums).to(value.dtype), (sums[-1],)
        count = start + torch.arange(1, sums.shape[0] + 1, device=sums.device)
        means = sums / count.view(-1, *[1] * (sums.dim() - 1)).to(sums.dtype)
        return fold(means).to(value.dtype), (sums[-1],)


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
        ValueError: the schedule says that it streams, but some site lags behind; or biases per step under digits.
    """
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
            if isinstance(module, Site):
                runner = SiteRunner(name, module, *self.settings, self.constant_drive[name])
            else:
                runner = TemporalMaxPool(module)
            value, memory = self._call(name, runner, self.env[node.all_input_nodes[0]], self.memories[node])
            new[order[node]] = memory
            return value
        sources = self._operands(node, self.env)
        if node.op == "call_module":
            self.roots[str(node.target)] = self.modules[str(node.target)]
        value = self.body.node_copy(node, lambda source: sources[source])
        if not self.incremental or self.kind(node) is not Kind.SEQUENCE:
            return value
        silent = self._operands(node, self.env | self._silent(node))
        return self.body.call_function(
            first_only, (value, self.body.node_copy(node, lambda source: silent[source]), self.batch)
        )

    def _silent(self, node: fx.Node) -> dict[fx.Node, fx.Node]:
        """One step of zeros for every sequence that a node reads."""
        sequences = [source for source in node.all_input_nodes if self.kind(source) is Kind.SEQUENCE]
        return {source: self.body.call_function(silence, (self.env[source], self.batch)) for source in sequences}

    def _call(self, name: str, runner: nn.Module, value: fx.Node, memory: fx.Node) -> tuple[fx.Node, fx.Node]:
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
            joined = self.body.call_function(join, (self.batch, held, *(found[source] for source in in_time)))
            for index, source in enumerate(in_time):
                found[source] = self.body.call_function(operator.getitem, (joined, index))
        sequences = [source for source, hold in zip(in_time, held, strict=True) if not hold]
        for source in node.all_input_nodes:
            if source.name in self.plan.grows:
                size = (found[source], self.plan.grows[source.name], found[sequences[0]], self.batch)
                found[source] = self.body.call_function(at_steps, size)
        return found

    def _one_step(self, source: fx.Node) -> fx.Node:
        """A value as in the ANN, of which sizes are read."""
        value = self.env[source]
        if self.kind(source) not in (Kind.SEQUENCE, Kind.MEAN):
            return value
        return self.body.call_function(operator.getitem, (value, slice(None, self.batch)))

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
