"""The ordered operations of an engine with last-use liveness: chains of stages, and torch operators between."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from transpike.engine.layout import Layout
from transpike.engine.rules import Rule
from transpike.engine.stage import Chain
from transpike.graph.operators import keeps_channels_last
from transpike.graph.walk import mutable
from transpike.runtime.interpreters import Count
from transpike.runtime.runners import SiteRunner
from transpike.runtime.sequences import unfold

READOUT = "readout"
"""Stands for the operators behind the last site where times are given by site."""


class _Task(NamedTuple):
    """A node to compute with torch or a chain of sites to run, and what nobody needs any more after it."""

    work: fx.Node | Chain
    forget: list[fx.Node | str]


class ExecutionPlan:
    """Ordered operations with last-use liveness.

    Args:
        layout: the stages, shapes and graph of an engine.

    Attributes:
        operations: nodes to compute with torch, and sites to run.
        owner: the site of every node that runs one.
        only_answer: whether torch operators compute no site's drive.
        constants: whether anything reads what operators in front of the first neurons compute.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        body = layout.lowered.body
        self.placeholders = [node for node in body.graph.nodes if node.op == "placeholder"]
        self.statics = {str(node.target): node for node in self.placeholders}
        self.owner = {node: name for name, node in layout.runners.items()}
        self.answer = next(node for node in body.graph.nodes if node.op == "output").args[0][0]
        self.operations = self._demanded(body.graph)  # nodes to compute with torch, and sites to run
        self.tasks = self._tasks(apart=False)
        demanded = {need for operation in self.operations for need in self._needs(operation)}
        self.constants = any(node in demanded for name, node in self.statics.items() if name.startswith("static_"))
        self.channels_last = keeps_channels_last(layout.lowered.prologue) and not self._torch_reads_statics()
        sites = [operation for operation in self.operations if isinstance(operation, str)]
        self.only_answer = all(site in layout.values for site in sites)  # torch operators compute no site's drive

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
            if operation in self.layout.readouts:
                return [term.site for term in self.layout.readouts[operation].terms]
            return [self.owner.get(node, node) for node in operation.all_input_nodes]
        value = self.layout.values.get(operation)
        if value is None:
            args = self.layout.runners[operation].args
            return [args[0], args[4]]
        others = [self.statics[f"static_{node.name}"] for node in value.others]
        return [*(term.site for term in value.terms), *others]

    def _torch_reads_statics(self) -> bool:
        """Whether torch operators of the body read values of the prologue, which they may want contiguous."""
        dense = [operation for operation in self.operations if operation not in self.layout.values]
        sources = {source for operation in dense for source in self._needs(operation)}
        return any(source in sources for source in self.statics.values() if str(source.target).startswith("static_"))

    def _tasks(self, *, apart: bool) -> list[_Task]:
        """The operations, neighbouring sites in one chain unless they shall be ``apart``."""
        groups: list[list[fx.Node | str]] = []
        for operation in self.operations:
            if groups and isinstance(operation, str) and isinstance(groups[-1][-1], str) and not apart:
                groups[-1].append(operation)
            else:
                groups.append([operation])
        kept: set[fx.Node | str] = set()
        fx.map_arg(self.answer, kept.add)
        tasks: list[_Task] = []
        for group in reversed(groups):
            needed = [need for each in group for need in self._needs(each) if need not in group]
            forget = [need for need in dict.fromkeys(needed) if need not in kept]
            sites = [site for site in group if isinstance(site, str)]
            if isinstance(group[0], fx.Node):
                tasks.append(_Task(group[0], forget))
            else:
                stages = {site: self.layout.stages[site] for site in sites}
                tasks.append(_Task(Chain(stages, [site for site in sites if site in kept]), forget))
            kept.update(needed)
        return tasks[::-1]

    @cached_property
    def tasks_apart(self) -> list[_Task]:
        """The operations one by one, for those who watch."""
        return self._tasks(apart=True)

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
        layout = self.layout
        began = time.perf_counter()
        env: dict[fx.Node, Any] = {}
        given = iter(layout.lowered.prologue(*(self._placed(tensor) for tensor in inputs)) if self.constants else ())
        scalars = {"batch": batch, "steps": read, "start": torch.zeros((), dtype=torch.int64)}
        for node in self.placeholders:
            name = str(node.target)
            env[node] = scalars[name] if name in scalars else None if name.startswith("memory_") else next(given, None)
        maps: dict[str, Any] = {}
        apart = seconds is not None or (count is not None and bool(layout.probe))
        for task in self.tasks_apart if apart else self.tasks:
            if isinstance(task.work, fx.Node):
                env[task.work] = self._compute(task.work, env, maps, batch, read)
            else:
                currents = {site: self._currents(site, inputs, env, batch, steps) for site in task.work.sites}
                length = rule.run_steps(steps)
                found, spikes = task.work.run(maps, currents, rule, batch, length, counted=count is not None)
                maps.update(found)
                if count is not None:
                    for site in task.work.sites:
                        sent = layout.shapes[site].spikes_sent(maps[site], steps) if layout.probe else spikes[site]
                        count(site, torch.as_tensor(sent)[: layout.rule.digits or len(layout.rule.places) or None])
                if seconds is not None:
                    (site,) = task.work.sites
                    seconds[site] = seconds.get(site, 0.0) + time.perf_counter() - began
                    began = time.perf_counter()
            for need in task.forget:
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

    def _currents(
        self, name: str, inputs: Sequence[Tensor], env: Mapping[fx.Node, Any], batch: int, steps: int
    ) -> Tensor | None:
        """What a stage takes beside spikes (`Chain.run`): the whole drive of a dense one, or the image it convolves."""
        layout = self.layout
        image = layout.images.get(name)
        if image is not None:
            given = inputs[image.argument]
            if given.shape[1:] != image.source.shape:
                raise RuntimeError(f"images of shape {list(image.source.shape)} are expected")
            plain = given.detach().as_subclass(Tensor).resolve_neg()
            return (plain if image.grid is None else image.grid(plain)).contiguous()
        value = layout.values.get(name)
        if value is not None and not value.others:
            return None
        stage, shape = layout.stages[name], layout.shapes[name]
        population = (shape.channels, shape.rows, shape.columns)
        runner = layout.runners[name]
        if value is None:
            module = layout.modules[str(runner.target)]
            assert isinstance(module, SiteRunner)
            drive = module.drive(env[runner.args[0]], batch, steps, env[runner.args[4]])
            if layout.rule.digits:  # increments: what a count is made of is their sum
                drive = drive[: layout.rule.digits].sum(0, keepdim=True)
            elif layout.rule.signed:  # behind the last digit nothing arrives
                drive = drive[: len(layout.rule.places)]
            drive = drive[:1] if module.constant_drive and module.site.steady else drive
            found = drive.reshape(drive.shape[0], batch, *population).flatten(3).permute(1, 0, 3, 2)
            return stage.pad(found)
        first, *rest = (env[self.statics[f"static_{node.name}"]] for node in value.others)
        total = sum(rest, start=first).reshape(-1, *population).expand(batch, *population)
        return stage.pad(total.permute(0, 2, 3, 1).reshape(batch, 1, -1, shape.channels))

    def _compute(
        self, node: fx.Node, env: Mapping[fx.Node, Any], maps: Mapping[str, Any], batch: int, steps: int
    ) -> Any:
        if node in self.layout.readers:
            means = self.layout.readers[node].means(maps, batch, steps)
            rows = (steps, batch) if node.target is unfold else (steps * batch,)
            return means.reshape(*rows, *self.layout.answers[node])
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source in self.owner:
            name = self.owner[source]
            site = self.layout.sites[name]
            output = self.layout.shapes[name].unpack(maps[name], batch, steps, site.theta)
            population = output.shape[2:] if site.population is None else site.population
            return output.reshape(steps * batch, *population).contiguous()  # what follows may take views
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda each: env[each])
        if node.op == "call_module":
            return self.layout.modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        if node.op == "get_attr":
            return attrgetter(str(node.target))(self.layout.lowered.body)
        assert callable(node.target)
        return node.target(*args, **kwargs)
