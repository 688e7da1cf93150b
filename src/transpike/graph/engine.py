"""Runs a network event by event: every stage reads spike maps and writes one; currents are never stored.

Stages whose drive is a sum of windowed linear maps of spikes (`transpike.graph.terms`) run compiled. The drive of the
others, and the readout, are computed by the lowered graph's own torch operators from unpacked spikes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from transpike.graph.lower import Lowered, Readout, SiteRunner
from transpike.graph.normalize import modules_of
from transpike.graph.operators import keeps_channels_last
from transpike.graph.plan import Plan
from transpike.graph.site import Site
from transpike.graph.terms import NotEventsError, Terms, Value, map_shape
from transpike.graph.watch import mutable
from transpike.kernels.events import EventStage, Rule
from transpike.kernels.windows import Halo, MapShape, Source, excess

_UNPACKED = 4 * 2**20  # spikes and currents stored as numbers at once, 16 MiB

Count = Callable[[str, Tensor], None]
"""Called per site with its name and the spikes of each step, all samples together ``[S]``, whole numbers."""

READOUT = "readout"
"""Stands for the operators behind the last site where times are given by site."""


@dataclass(frozen=True)
class StageReport:
    """How one stage runs.

    Attributes:
        site: the population at its end.
        events: whether it runs event by event.
        reason: why not.
        sources: the windows of spikes that it reads; none where it runs dense, or in front of all neurons.
    """

    site: str
    events: bool
    reason: str
    sources: tuple[Source, ...] = field(default=(), repr=False, compare=False)


class Engine:
    """One network under one schedule, ready to run.

    Args:
        network: the ANN graph with its sites.
        plan: its plan.
        lowered: the same network lowered for the schedule.
        shapes: shape of every node's tensor in a batch, by name.
        dense: sites whose drive torch operators shall compute.
        probe: rho, if the schedule lets every site send a count of spikes in rho steps (`Rule.counted`); maps then
            hold the counts, and each stage runs once for all steps.

    Attributes:
        largest_unpacked: neurons of the largest population whose spikes or currents are stored as numbers, of one
            sample and step.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        plan: Plan,
        lowered: Lowered,
        shapes: Mapping[str, tuple[int, ...]],
        dense: frozenset[str] = frozenset(),
        probe: int = 0,
    ) -> None:
        self.lowered = lowered
        self.probe = probe
        self.modules = modules_of(lowered.body)
        self.sites = {site.name: network.get_submodule(site.name) for site in plan.sites}
        self.values: dict[str, Value] = {}
        self.reports: dict[str, StageReport] = {}
        nodes = {node.name: node for node in network.graph.nodes}
        terms = Terms(network, plan, shapes)
        populations: dict[str, tuple[int, int, int]] = {}
        for site in plan.sites:
            populations[site.name] = map_shape(shapes[site.node])
            try:
                if site.name in dense:
                    raise NotEventsError("dense operators were faster")
                if self._channel_bias(site.name) is None:
                    raise NotEventsError("its bias differs from step to step or from neuron to neuron")
                value = terms.drive(nodes[site.node])
                reason = excess(value.terms, {name: shape[0] for name, shape in populations.items()})
                if not reason:
                    self.values[site.name] = value
            except NotEventsError as error:
                reason = str(error)
            sources = self.values[site.name].terms if not reason else ()
            self.reports[site.name] = StageReport(site.name, not reason, reason, sources)
        self.answers: dict[fx.Node, tuple[int, ...]] = {}
        self.readouts = self._readouts(terms, nodes, shapes, populations)
        self.shapes = self._maps(populations)
        self.stages = {name: self._stage(name) for name in populations}
        self.samples = {name: self._set_potential(name) for name in populations}
        self.runners = {
            runner.name: node
            for node in lowered.body.graph.nodes
            if node.op == "call_module" and isinstance(runner := self.modules[str(node.target)], SiteRunner)
        }
        self.readers = {node: self._reader(value) for node, value in self.readouts.items()}
        self.program = _Program(self)
        self.largest_unpacked = self._largest_unpacked()

    def _readouts(
        self,
        terms: Terms,
        nodes: Mapping[str, fx.Node],
        shapes: Mapping[str, tuple[int, ...]],
        populations: Mapping[str, tuple[int, int, int]],
    ) -> dict[fx.Node, Value]:
        """What the model answers as maps of spikes, by the nodes that take the running mean of it."""
        found: dict[fx.Node, Value] = {}
        if self.probe:  # counts are spread over the steps when they are unpacked
            return found
        sizes = {name: shape[0] for name, shape in populations.items()}
        for node in self.lowered.body.graph.nodes:
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, Readout):
                try:
                    value = terms.value(nodes[module.name])
                except NotEventsError:
                    continue
                if value.terms and not value.others and not excess(value.terms, sizes):
                    found[node], self.answers[node] = value, tuple(shapes[module.name][1:])
        return found

    def _reader(self, value: Value) -> EventStage:
        """Currents that no neuron receives."""
        shape = MapShape(*value.shape, Halo(0, 0, 0, 0))
        bias = torch.zeros(shape.channels) if value.bias is None else value.bias
        return EventStage(shape, [(term, self.shapes[term.site]) for term in value.terms], bias, torch.ones(()))

    def _maps(self, populations: Mapping[str, tuple[int, int, int]]) -> dict[str, MapShape]:
        """Shapes of the maps, each with the halo that the widest of its readers needs."""
        halos = dict.fromkeys(populations, Halo(0, 0, 0, 0))
        for value in (*self.values.values(), *self.readouts.values()):
            for term in value.terms:
                needed = term.needs(populations[term.site], value.shape[1:])
                halos[term.site] = Halo(*map(max, zip(halos[term.site], needed, strict=True)))
        return {name: MapShape(*shape, halos[name], self.probe) for name, shape in populations.items()}

    def _stage(self, name: str) -> EventStage:
        shape, theta = self.shapes[name], self._site(name).theta.detach()
        value = self.values.get(name)
        bias = torch.zeros(shape.channels)
        sources: list[tuple[Source, MapShape]] = []
        if value is not None:
            own = self._channel_bias(name)
            assert own is not None
            bias = own if value.bias is None else value.bias + own
            sources = [(term, self.shapes[term.site]) for term in value.terms]
        return EventStage(shape, sources, bias, theta)

    def _channel_bias(self, name: str) -> Tensor | None:
        """The site's own bias ``[C]``; None if it is not one number per channel."""
        site = self._site(name)
        bias, population = site.bias.detach(), site.population
        assert population is not None
        if not site.steady or (bias.dim() > 1 and bias.numel() != bias.shape[1]):
            return None
        return bias.reshape(-1).expand(population[0] if population else 1)

    def _site(self, name: str) -> Site:
        site = self.sites[name]
        assert isinstance(site, Site)
        return site

    def _largest_unpacked(self) -> int:
        program = self.program
        sources = [op.all_input_nodes[0] for op in program.operations if isinstance(op, fx.Node) and op.all_input_nodes]
        names = {program.owner[source] for source in sources if source in program.owner}
        names |= {name for name in self.shapes if name not in self.values}
        sizes = [shape.channels * shape.rows * shape.columns for name, shape in self.shapes.items() if name in names]
        return max(sizes, default=1)

    def _set_potential(self, name: str) -> int:
        """Hands the initial potentials to a stage; returns for how many samples they are, 1 if for all."""
        stage, shape = self.stages[name], self.shapes[name]
        v = self._site(name).v_init.detach()
        population = self._site(name).population
        assert population is not None
        if v.numel() == 1 or (v.dim() == len(population) and v.numel() == v.shape[0]):
            v = v.reshape(1, 1, -1).expand(1, 1, shape.channels)
        else:
            samples = v.shape[0] if v.dim() > len(population) else 1
            v = v.expand(samples, *population).reshape(samples, shape.channels, -1).mT
        stage.set_potential(stage.pad(v))
        return v.shape[0]

    def run(
        self,
        inputs: Sequence[Tensor],
        batch: int,
        steps: int,
        rule: Rule,
        count: Count | None,
        seconds: dict[str, float] | None = None,
        rows: int | None = None,
    ) -> Any:
        """The answer ``[S, N, *]``, at least its first ``rows`` rows, in the structure of the model's output.

        Samples run in parts, so that the numbers that torch operators read do not fill the memory.

        Args:
            inputs: the model's arguments, constant currents.
            batch: N.
            steps: S.
            rule: the schedule in compiled form.
            count: told the spikes of every site.
            seconds: filled with the time of each stage by site, torch operators before it included, and of `READOUT`.
            rows: of the answer that are wanted, at most S; None is all.

        Raises:
            ValueError: initial potentials per sample, for another number of samples.
        """
        for name, samples in self.samples.items():
            if samples not in (1, batch):
                raise ValueError(
                    f"v_init of shape {tuple(self._site(name).v_init.shape)} does not fit the {batch} samples at site "
                    f"{name!r}; give a scalar, or one value per channel, neuron, or sample and neuron"
                )
        read = rows if rows is not None and self.probe and self.program.only_answer else steps
        size = max(1, _UNPACKED // (self.largest_unpacked * read))
        if size >= batch or max(self.samples.values(), default=1) > 1:
            return self.program.run(inputs, batch, steps, read, rule, count, seconds)
        total: dict[str, Tensor] = {}

        def add(name: str, spikes: Tensor) -> None:
            total[name] = total[name] + spikes if name in total else spikes

        answers = []
        for part in zip(*(torch.split(tensor, size) for tensor in inputs), strict=True):
            samples = part[0].shape[0]
            answers.append(self.program.run(part, samples, steps, read, rule, add, seconds))
        for name, spikes in total.items():
            if count is not None:
                count(name, spikes)
        return pytree.tree_map(lambda *rows: torch.cat(rows, 1) if isinstance(rows[0], Tensor) else rows[0], *answers)


class _Program:
    """What to compute in which order, and when to forget it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        body = engine.lowered.body
        self.placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
        self.statics = {str(node.target): node for node in self.placeholders}
        self.owner = {node: name for name, node in engine.runners.items()}
        self.answer = next(node for node in body.graph.nodes if node.op == "output").args[0][0]
        self.operations = self._demanded(body.graph)  # nodes to compute with torch, and sites to run
        self.forget = self._last_uses()
        self.channels_last = keeps_channels_last(engine.lowered.prologue) and not self._torch_reads_statics()
        sites = [operation for operation in self.operations if isinstance(operation, str)]
        self.only_answer = all(site in engine.values for site in sites)  # torch operators compute no site's drive

    def _demanded(self, graph: fx.Graph) -> list[fx.Node | str]:
        """What the answer needs, in order: spikes that only compiled stages read are never unpacked."""
        needed: set[fx.Node | str] = set()
        fx.map_arg(self.answer, needed.add)
        found: list[fx.Node | str] = []
        for node in reversed(graph.nodes):
            operation = self.owner.get(node, node)
            if operation in needed and node.op not in ("placeholder", "output"):
                found.append(operation)
                needed.update(self._needs(operation))
        return found[::-1]

    def _needs(self, operation: fx.Node | str) -> list[fx.Node | str]:
        if isinstance(operation, fx.Node):
            if operation in self.engine.readouts:
                return [term.site for term in self.engine.readouts[operation].terms]
            return [self.owner.get(node, node) for node in operation.all_input_nodes]
        value = self.engine.values.get(operation)
        if value is None:
            args = self.engine.runners[operation].args
            return [args[0], args[4]]
        others = [self.statics[f"static_{node.name}"] for node in value.others]
        return [*(term.site for term in value.terms), *others]

    def _torch_reads_statics(self) -> bool:
        """Whether torch operators of the body read values of the prologue, which they may want contiguous."""
        dense = [operation for operation in self.operations if operation not in self.engine.values]
        sources = {source for operation in dense for source in self._needs(operation)}
        return any(source in sources for source in self.statics.values() if str(source.target).startswith("static_"))

    def _last_uses(self) -> list[list[fx.Node | str]]:
        """After each operation, what nobody needs any more."""
        kept: set[fx.Node | str] = set()
        fx.map_arg(self.answer, kept.add)
        forget: list[list[fx.Node | str]] = []
        for operation in reversed(self.operations):
            needed = [need for need in dict.fromkeys(self._needs(operation)) if need not in kept]
            forget.append(needed)
            kept.update(needed)
        return forget[::-1]

    def run(
        self,
        inputs: Sequence[Tensor],
        batch: int,
        steps: int,
        read: int,
        rule: Rule,
        count: Count | None,
        seconds: dict[str, float] | None,
    ) -> Any:
        """See `Engine.run`; torch operators read the first ``read`` of the steps."""
        engine = self.engine
        began = time.perf_counter()
        env: dict[fx.Node, Any] = {}
        given = iter(engine.lowered.prologue(*(self._placed(tensor) for tensor in inputs)))
        scalars = {"batch": batch, "steps": read, "start": torch.zeros((), dtype=torch.int64)}
        for node in self.placeholders:
            name = str(node.target)
            env[node] = scalars[name] if name in scalars else (None if name.startswith("memory_") else next(given))
        maps: dict[str, Any] = {}
        for operation, forgotten in zip(self.operations, self.forget, strict=True):
            if isinstance(operation, str):
                currents = self._currents(operation, env, batch, steps)
                maps[operation], spikes = engine.stages[operation].run(maps, currents, rule, batch, steps)
                if count is not None:
                    sent = engine.shapes[operation].spikes_sent
                    count(operation, sent(maps[operation], steps) if engine.probe else torch.tensor(spikes))
                if seconds is not None:
                    seconds[operation] = seconds.get(operation, 0.0) + time.perf_counter() - began
                    began = time.perf_counter()
            else:
                env[operation] = self._compute(operation, env, maps, batch, read)
            for need in forgotten:
                if isinstance(need, str):
                    del maps[need]
                else:
                    del env[need]
        if seconds is not None:
            seconds[READOUT] = seconds.get(READOUT, 0.0) + time.perf_counter() - began
        return mutable(fx.map_arg(self.answer, lambda node: env[node]))

    def _placed(self, tensor: Tensor) -> Tensor:
        """Images with the channels of a pixel side by side, as stages read currents, where operators keep that."""
        last = self.channels_last and tensor.dim() == 4
        return tensor.contiguous(memory_format=torch.channels_last) if last else tensor

    def _currents(self, name: str, env: Mapping[fx.Node, Any], batch: int, steps: int) -> Tensor | None:
        """Currents that are not made of spikes, or the whole drive of a dense stage, ``[N, 1 or S, H * W, padded]``."""
        engine = self.engine
        value = engine.values.get(name)
        if value is not None and not value.others:
            return None
        stage, shape = engine.stages[name], engine.shapes[name]
        population = (shape.channels, shape.rows, shape.columns)
        runner = engine.runners[name]
        if value is None:
            module = engine.modules[str(runner.target)]
            assert isinstance(module, SiteRunner)
            drive = module.drive(env[runner.args[0]], batch, steps, env[runner.args[4]])
            drive = drive[:1] if module.constant_drive and module.site.steady else drive
            found = drive.reshape(drive.shape[0], batch, *population).flatten(3).permute(1, 0, 3, 2)
            return stage.pad(found)
        first, *rest = (env[self.statics[f"static_{node.name}"]] for node in value.others)
        total = sum(rest, start=first).reshape(-1, *population).expand(batch, *population)
        return stage.pad(total.permute(0, 2, 3, 1).reshape(batch, 1, -1, shape.channels))

    def _compute(
        self, node: fx.Node, env: Mapping[fx.Node, Any], maps: Mapping[str, Any], batch: int, steps: int
    ) -> Any:
        if node in self.engine.readers:
            means = self.engine.readers[node].means(maps, batch, steps)
            return means.reshape(steps * batch, *self.engine.answers[node]), None  # no memory: all steps ran
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source in self.owner:
            name = self.owner[source]
            site = self.engine._site(name)
            output = self.engine.shapes[name].unpack(maps[name], batch, steps, site.theta)
            population = output.shape[2:] if site.population is None else site.population
            return output.reshape(steps * batch, *population)
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: env[each])
        if node.op == "call_module":
            return self.engine.modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.engine.lowered.body)
        assert callable(node.target)
        return node.target(*args, **kwargs)
