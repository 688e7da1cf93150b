"""Runs a network event by event: every stage reads spike maps and writes one; currents are never stored.

Stages whose drive is a sum of windowed linear maps of spikes (`transpike.engine.drive`) run compiled. The drive of the
others, and the readout, are computed by the lowered graph's own torch operators from unpacked spikes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from transpike.engine.drive import DriveBuilder, LinearDrive, NotEventDrivenError, map_shape
from transpike.engine.execution_plan import ExecutionPlan, Parts
from transpike.engine.image import Image, split_image
from transpike.engine.rules import Rule
from transpike.engine.spike_map import Halo, MapShape, Source, unsupported_reason
from transpike.engine.stage import EventStage
from transpike.graph.normalize import modules_of
from transpike.graph.plan import Plan
from transpike.graph.site import Site
from transpike.runtime.execute import MEMORY, run_in_parts
from transpike.runtime.interpreters import Count
from transpike.runtime.lower import Lowered, Readout, SiteRunner, unfold


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
        rule: the schedule in compiled form. If it lets every site send a count of spikes in rho steps
            (`Rule.counted`), maps hold the counts, and each stage runs once for all steps.
        dense: sites whose drive torch operators shall compute.

    Attributes:
        reports: how each stage runs, by site.
        execution: what runs in which order.
        largest_unpacked: neurons of the largest population whose spikes or currents are stored as numbers, of one
            sample and step.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        plan: Plan,
        lowered: Lowered,
        shapes: Mapping[str, tuple[int, ...]],
        rule: Rule,
        dense: frozenset[str] = frozenset(),
    ) -> None:
        self.lowered = lowered
        self.rule = rule
        self.probe = rule.counted
        self.modules = modules_of(lowered.body)
        self.sites = {site.name: cast("Site", network.get_submodule(site.name)) for site in plan.sites}
        self.values: dict[str, LinearDrive] = {}
        self.images: dict[str, Image] = {}
        self.reports: dict[str, StageReport] = {}
        nodes = {node.name: node for node in network.graph.nodes}
        terms = DriveBuilder(network, plan, shapes)
        populations: dict[str, tuple[int, int, int]] = {}
        for site in plan.sites:
            populations[site.name] = map_shape(shapes[site.node])
            try:
                if site.name in dense:
                    raise NotEventDrivenError("dense operators were faster")
                if self._channel_bias(site.name) is None:
                    raise NotEventDrivenError("its bias differs from step to step or from neuron to neuron")
                value, image = split_image(terms.drive(nodes[site.node]), network, shapes)
                reason = unsupported_reason(value.terms, {name: shape[0] for name, shape in populations.items()})
                if reason is None:
                    self.values[site.name] = value
                    if image is not None:
                        self.images[site.name] = image
            except NotEventDrivenError as error:
                reason = str(error)
            sources = self.values[site.name].terms if reason is None else ()
            self.reports[site.name] = StageReport(site.name, reason is None, reason or "", sources)
        answers: dict[fx.Node, tuple[int, ...]] = {}
        self.readouts = self._readouts(terms, nodes, shapes, populations, answers)
        self.shapes = self._maps(populations)
        self.stages = {name: self._stage(name) for name in populations}
        self.samples = {name: self._set_potential(name) for name in populations}
        runners = {
            runner.name: node
            for node in lowered.body.graph.nodes
            if node.op == "call_module" and isinstance(runner := self.modules[str(node.target)], SiteRunner)
        }
        readers = {node: self._reader(value) for node, value in self.readouts.items()}
        self.execution = ExecutionPlan(
            Parts(
                lowered=lowered,
                probe=self.probe,
                sites=self.sites,
                shapes=self.shapes,
                values=self.values,
                images=self.images,
                stages=self.stages,
                runners=runners,
                readers=readers,
                readouts=self.readouts,
                answers=answers,
                modules=self.modules,
            )
        )
        self.largest_unpacked = self._largest_unpacked()

    def _readouts(
        self,
        terms: DriveBuilder,
        nodes: Mapping[str, fx.Node],
        shapes: Mapping[str, tuple[int, ...]],
        populations: Mapping[str, tuple[int, int, int]],
        answers: dict[fx.Node, tuple[int, ...]],
    ) -> dict[fx.Node, LinearDrive]:
        """What the model answers as maps of spikes, by the nodes that say its running mean; fills in their shapes."""
        found: dict[fx.Node, LinearDrive] = {}
        if self.probe:  # counts are spread over the steps when they are unpacked
            return found
        sizes = {name: shape[0] for name, shape in populations.items()}
        for node in self.lowered.body.graph.nodes:
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, Readout):
                try:
                    value = terms.value(nodes[module.name])
                except NotEventDrivenError:
                    continue
                if value.terms and not value.others and unsupported_reason(value.terms, sizes) is None:
                    for mean in (user for user in node.users if user.args[1] == 0):  # the other is the new memory
                        folds = [user for user in mean.users if user.target is unfold]
                        for end in folds if len(folds) == len(mean.users) else [mean]:
                            found[end], answers[end] = value, tuple(shapes[module.name][1:])
        return found

    def _reader(self, value: LinearDrive) -> EventStage:
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
        shape, theta = self.shapes[name], self.sites[name].theta.detach()
        value = self.values.get(name)
        bias = torch.zeros(shape.channels)
        sources: list[tuple[Source, MapShape]] = []
        if value is not None:
            own = self._channel_bias(name)
            assert own is not None
            bias = own if value.bias is None else value.bias + own
            sources = [(term, self.shapes[term.site]) for term in value.terms]
        image = self.images.get(name)
        return EventStage(shape, sources, bias, theta, None if image is None else image.source)

    def _channel_bias(self, name: str) -> Tensor | None:
        """The site's own bias ``[C]``; None if it is not one number per channel."""
        site = self.sites[name]
        bias, population = site.bias.detach(), site.population
        assert population is not None
        if not site.steady or (bias.dim() > 1 and bias.numel() != bias.shape[1]):
            return None
        return bias.reshape(-1).expand(population[0] if population else 1)

    def _largest_unpacked(self) -> int:
        operations, owner = self.execution.operations, self.execution.owner
        sources = [each.all_input_nodes[0] for each in operations if isinstance(each, fx.Node) and each.all_input_nodes]
        names = {owner[source] for source in sources if source in owner}
        names |= {name for name in self.shapes if name not in self.values}
        sizes = [shape.channels * shape.rows * shape.columns for name, shape in self.shapes.items() if name in names]
        return max(sizes, default=1)

    def _set_potential(self, name: str) -> int:
        """Hands the initial potentials to a stage; returns for how many samples they are, 1 if for all."""
        stage, shape = self.stages[name], self.shapes[name]
        v = self.sites[name].v_init.detach()
        population = self.sites[name].population
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
        count: Count | None = None,
        seconds: dict[str, float] | None = None,
        rows: int | None = None,
        memory: int = MEMORY,
    ) -> Any:
        """The answer ``[S, N, *]``, at least its first ``rows`` rows, in the structure of the model's output.

        Args:
            inputs: the model's arguments, constant currents.
            batch: N.
            steps: S.
            count: told the spikes of every site.
            seconds: filled with the time of each stage by site, torch operators before it included, and of `READOUT`.
            rows: of the answer that are wanted, at most S; None is all.
            memory: bytes that spike maps may take, and twice what one site's numbers may; samples run in parts.

        Raises:
            ValueError: initial potentials per sample, for another number of samples.
        """
        for name, samples in self.samples.items():
            if samples not in (1, batch):
                raise ValueError(
                    f"v_init of shape {tuple(self.sites[name].v_init.shape)} does not fit the {batch} samples at site "
                    f"{name!r}; give a scalar, or one value per channel, neuron, or sample and neuron"
                )
        read = rows if rows is not None and self.probe and self.execution.only_answer else steps
        sizes = (shape.padded_rows * shape.padded_columns * shape.bytes for shape in self.shapes.values())
        packed = sum(sizes) * (1 if self.probe else steps)
        size = max(1, min(memory // (8 * self.largest_unpacked * read), memory // packed))
        if max(self.samples.values(), default=1) > 1:
            size = batch

        def run(part: Sequence[Tensor], samples: int, told: Count | None) -> Any:
            return self.execution.run(part, samples, steps, read, self.rule, told, seconds)

        return run_in_parts(run, inputs, batch, size, count)
