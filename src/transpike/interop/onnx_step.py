"""One time-step as a module for ``torch.onnx.export``: tensors in, tensors out, without a dimension for time.

A file holds no Python, so the memory is a flat list of tensors, and the first step is told by ``steps == 0``: there the
neurons take their initial potentials instead of what they are given. All other memories begin at zero, so a run begins
with zeros everywhere.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from transpike.functional import summing_type
from transpike.graph.normalize import modules_of
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Reset
from transpike.runtime.runners import FunctionRunner, Readout, SiteRunner, TemporalMaxPool, by_sample, rows_of
from transpike.runtime.sequences import in_time, unfold
from transpike.schedules import Memory, Schedule


class StepModule(nn.Module):
    """``(*inputs, steps, *memory) -> (*answers, steps + 1, *memory, *events)``.

    Args:
        snn: the network.
        schedule: `Plain`.
        inputs: an example ``[N, *]`` for every argument.
        events: whether the events of every site are put out, too.

    Attributes:
        names: of the tensors of the memory: ``v.SITE`` for potentials, ``sum.NAME`` for running sums.
        sites: of the sites, in the order of their events.
        example: ``steps`` and the memory at the beginning.
        answers: the number of answers.
    """

    def __init__(self, snn: SpikingNetwork, schedule: Schedule, inputs: Sequence[Tensor], events: bool) -> None:
        super().__init__()
        stepper = snn.stepper(schedule)
        self.prologue = stepper.prologue
        self.body, sites = _without_time(stepper.body)
        self.events = events
        self.sites = sites if events else ()
        with torch.no_grad():
            answer, state = stepper(tuple(inputs))
        self.sizes = [len(memory) for memory in state.memory]
        self.names = tuple(
            name if size == 1 else f"{name}.{index}"
            for name, size in zip(_owners(snn, stepper.stateful), self.sizes, strict=True)
            for index in range(size)
        )
        self.example = tuple(torch.zeros_like(each) for each in pytree.tree_leaves(state))
        self.answers = len(_tensors(answer))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        number = len(tensors) - len(self.example)
        inputs, start, flat = tensors[:number], tensors[number], tensors[number + 1 :]
        memories: list[Memory] = []
        for size in self.sizes:
            memories.append(flat[:size])
            flat = flat[size:]
        answer, new, events = self.body(inputs[0].shape[0], 1, start, *memories, *self.prologue(*inputs))
        kept = [tensor for memory in new for tensor in memory]
        return (*_tensors(answer), start + 1, *kept, *(events if self.events else ()))


def _tensors(answer: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]


def _owners(snn: SpikingNetwork, stateful: Sequence[str]) -> list[str]:
    """What each memory belongs to, in the names of sites and modules where these tell them apart."""
    nodes = {node.name: node for node in snn.network.graph.nodes}
    calls = Counter(str(node.target) for node in nodes.values() if node.op == "call_module")
    kinds = {site.node: "v" for site in snn.sites} | {site.node: "memory" for site in snn.plan.functions}
    kinds |= dict.fromkeys(snn.plan.pools, "pool")
    names = []
    for owner in stateful:
        node = nodes[owner.removeprefix("mean of ")]
        kind = "sum" if owner != node.name else kinds[node.name]
        names.append(f"{kind}.{node.target if calls[str(node.target)] == 1 else node.name}")
    return names


def _without_time(body: fx.GraphModule) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """A lowered body that makes one step of ``[N, *]`` and returns the events too; and the names of its sites."""
    modules = modules_of(body)
    roots: dict[str, Any] = {}
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    events: list[fx.Node] = []
    sites: list[str] = []
    for node in body.graph.nodes:
        if node.op == "output":
            answer, memories = fx.map_arg(node.args[0], lambda source: env[source])
            graph.output((answer, memories, tuple(events)))
            break
        if node.op == "call_function" and node.target is unfold:
            env[node] = env[node.args[0]]  # [1 * N, *] is [N, *]
            continue
        env[node] = graph.node_copy(node, lambda source: env[source])
        if node.op == "call_module":
            module = roots[str(node.target)] = _one_step(modules[str(node.target)])
            if isinstance(module, _Fires):
                events.append(graph.call_function(operator.getitem, (env[node], 2)))
                sites.append(module.name)
    return fx.GraphModule(roots, graph), tuple(sites)


def _one_step(module: nn.Module) -> nn.Module:
    if isinstance(module, SiteRunner):
        plain_if = type(module.neuron) is IF and not isinstance(module, FunctionRunner)
        return _IntegrateFire(module) if plain_if else _AnyNeuron(module)
    if isinstance(module, TemporalMaxPool):
        return _MaxPool(module.pool)
    return _Mean() if isinstance(module, Readout) else module


class _Fires(nn.Module):
    """A population for one step: ``(value, memory, batch, steps, start) -> (value, memory, events)``."""

    def __init__(self, runner: SiteRunner) -> None:
        super().__init__()
        self.name = runner.name
        self.layout = runner.layout


class _IntegrateFire(_Fires):
    """Integrate-and-fire in single operators."""

    def __init__(self, runner: SiteRunner) -> None:
        super().__init__(runner)
        self.site = runner.site
        assert isinstance(runner.neuron, IF)
        self.soft = runner.neuron.reset is Reset.SOFT
        self.rests = not bool(self.site.v_init.any())

    def forward(
        self, value: Tensor, memory: Memory, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory, Tensor]:
        site = self.site
        drive = value.movedim(self.layout[0], 0) if self.layout[0] else value
        if not site.steady:
            drive = site.biased(drive.unsqueeze(0), start).squeeze(0)
        elif site.bias.dim():
            drive = drive + site.bias[0]
        rows = rows_of(memory, self.layout)
        assert rows is not None
        v = rows[0] if self.rests else torch.where(start == 0, site.v_init, rows[0])
        u = v + drive
        events = (u >= site.theta).to(u.dtype)
        sent = site.theta * events
        v = u - sent if self.soft else torch.where(events > 0, torch.zeros_like(u), u)
        value = sent.movedim(0, self.layout[0]) if self.layout[0] else sent
        return value, by_sample((v,), self.layout), events


class _AnyNeuron(_Fires):
    """Any other neuron, and sites of any function, by their own code."""

    def __init__(self, runner: SiteRunner) -> None:
        super().__init__(runner)
        self.runner = runner

    def forward(
        self, value: Any, memory: Memory, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory, Tensor]:
        runner = self.runner
        if not isinstance(runner, FunctionRunner):
            initial = runner.neuron.start(runner.site.parameters_of_neurons, in_time(value, batch, self.layout))
            memory = (torch.where(start == 0, by_sample((initial,), self.layout)[0], memory[0]),)
        seen: list[Tensor] = []
        value, memory = runner.run(lambda _, events: seen.append(events.squeeze(0)), value, memory, batch, steps, start)
        return value, memory, seen[0]


class _MaxPool(nn.Module):
    """`TemporalMaxPool` for one step."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, value: Tensor, memory: Memory, batch: int, steps: int, start: Tensor) -> tuple[Tensor, Memory]:
        before = memory[0]
        after = before + value.to(before.dtype)
        return (self.pool(after) - self.pool(before)).to(value.dtype), (after,)


class _Mean(nn.Module):
    """`Readout` for one step: the mean of all steps so far."""

    def forward(self, value: Tensor, memory: Memory, batch: int, steps: int, start: Tensor) -> tuple[Tensor, Memory]:
        sums = memory[0] + value.to(summing_type(value.dtype))
        return (sums / (start + 1).to(sums.dtype)).to(value.dtype), (sums,)
