"""The stages that a network is divided into: drives, spike maps and packed weights of one schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from transpike.engine.drive import DriveBuilder, LinearDrive, NotEventDrivenError, map_shape
from transpike.engine.image import Image, split_image
from transpike.engine.rules import Rule
from transpike.engine.spike_map import Halo, MapShape, Source, unsupported_reason
from transpike.engine.stage import EventStage
from transpike.graph.normalize import modules_of
from transpike.graph.plan import Plan
from transpike.graph.site import Site
from transpike.runtime.lower import Lowered
from transpike.runtime.runners import Readout, SiteRunner
from transpike.runtime.sequences import unfold


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


class Layout:
    """One network under one schedule, divided into stages and packed.

    Args:
        network: the ANN graph with its sites.
        plan: its plan.
        lowered: the same network lowered for the schedule.
        shapes: shape of every node's tensor in a batch, by name.
        rule: the schedule in compiled form. If it lets every site send a count of spikes in rho steps
            (`Rule.counted`), maps hold the counts, and each stage runs once for all steps.
        dense: sites whose drive torch operators shall compute.

    Attributes:
        probe: rho, if maps hold counts of spikes in rho steps; else 0.
        sites: parameters of the neurons, by site like all that follow.
        values: drives that compiled stages compute.
        images: convolutions of an image that compiled stages compute.
        reports: how each stage runs.
        shapes: of the spike maps.
        stages: the compiled stages.
        samples: for how many samples the initial potentials are, 1 if for all.
        runners: the nodes of the lowered body that run sites.
        readouts: answers that are maps of spikes, by the nodes that say their running mean.
        readers: the stages that compute them.
        answers: their shapes.
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
                channels = {name: shape[0] for name, shape in populations.items()}
                reason = unsupported_reason(value.terms, channels, signed=rule.signed)
                if reason is None:
                    self.values[site.name] = value
                    if image is not None:
                        self.images[site.name] = image
            except NotEventDrivenError as error:
                reason = str(error)
            sources = self.values[site.name].terms if reason is None else ()
            self.reports[site.name] = StageReport(site.name, reason is None, reason or "", sources)
        self.answers: dict[fx.Node, tuple[int, ...]] = {}
        self.readouts = self._readouts(terms, nodes, shapes, populations)
        self.shapes = self._maps(populations)
        self.stages = {name: self._stage(name) for name in populations}
        self.samples = {name: self._set_potential(name) for name in populations}
        self.runners: dict[str, Any] = {
            runner.name: node
            for node in lowered.body.graph.nodes
            if node.op == "call_module" and isinstance(runner := self.modules[str(node.target)], SiteRunner)
        }
        self.readers = {node: self._reader(value) for node, value in self.readouts.items()}

    def _readouts(
        self,
        terms: DriveBuilder,
        nodes: Mapping[str, fx.Node],
        shapes: Mapping[str, tuple[int, ...]],
        populations: Mapping[str, tuple[int, int, int]],
    ) -> dict[fx.Node, LinearDrive]:
        """What the model answers as maps of spikes, by the nodes that say its running mean."""
        found: dict[fx.Node, LinearDrive] = {}
        if self.probe or self.rule.signed:  # what an event is worth depends on its step
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
                            found[end], self.answers[end] = value, tuple(shapes[module.name][1:])
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
        return {
            name: MapShape(*shape, halos[name], self.probe, self.rule.digits, self.rule.places)
            for name, shape in populations.items()
        }

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
        stage = EventStage(shape, sources, bias, theta, None if image is None else image.source)
        stage.set_lag(dict(self.rule.site_lags).get(name, self.rule.default_lag))
        return stage

    def _channel_bias(self, name: str) -> Tensor | None:
        """The site's own bias ``[C]``; None if it is not one number per channel."""
        site = self.sites[name]
        bias, population = site.bias.detach(), site.population
        assert population is not None
        if not site.steady or (bias.dim() > 1 and bias.numel() != bias.shape[1]):
            return None
        return bias.reshape(-1).expand(population[0] if population else 1)

    def _set_potential(self, name: str) -> int:
        """Hands the initial potentials to a stage; returns for how many samples they are, 1 if for all."""
        stage, shape = self.stages[name], self.shapes[name]
        v = self.sites[name].v_init.detach()
        if self.rule.digits or self.rule.signed:  # values are rounded, whatever the potential
            v = self.sites[name].theta.detach() / 2
        population = self.sites[name].population
        assert population is not None
        if v.numel() == 1 or (v.dim() == len(population) and v.numel() == v.shape[0]):
            v = v.reshape(1, 1, -1).expand(1, 1, shape.channels)
        else:
            samples = v.shape[0] if v.dim() > len(population) else 1
            v = v.expand(samples, *population).reshape(samples, shape.channels, -1).mT
        stage.set_potential(stage.pad(v))
        return v.shape[0]
