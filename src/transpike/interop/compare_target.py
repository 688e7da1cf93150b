"""What a simulator will make of an exported network: its rule, run here, beside the network itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph.walk import reference_tensor
from transpike.interop.nir_graph import metadata_of, nir_target, to_nir
from transpike.interop.simulate_nir import NirRun, execution_order, simulate_nir
from transpike.interop.targets import NirTarget
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import Plain
from transpike.serialization.fields import check_count
from transpike.serialization.json_records import to_json


@dataclass(frozen=True)
class TargetReport:
    """A network here and in a target.

    Attributes:
        target: the target's name.
        steps: T.
        delay: steps before the target's answer begins, during which the input is there already.
        images: how many.
        top1: our accuracy after T steps, in percent; None without labels.
        target_top1: the target's.
        same_answers: images with the same answer, in percent.
        same_events: neurons and steps with the same number of spikes, in percent; the target's steps shifted by the
            delay of each layer.
        spikes: our spikes per image.
        target_spikes: the target's, those of relays included.
    """

    target: str
    steps: int
    delay: int
    images: int
    top1: float | None
    target_top1: float | None
    same_answers: float
    same_events: float
    spikes: float
    target_spikes: float

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return dict(to_json(self))


def run_target(graph: Any, x: Tensor, steps: int, target: NirTarget) -> NirRun:
    """Runs a graph made by `to_nir` by the rule of its target, so long that the answer is a mean of T steps."""
    return simulate_nir(graph, x.detach().cpu(), steps + int(metadata_of(graph)["delay"]), target.rule)


def compare_with_target(snn: SpikingNetwork, batches: Iterable[Any], *, target: str, steps: int) -> TargetReport:
    """Runs a network here, and its export by the rule of a target.

    Args:
        snn: the network.
        batches: inputs ``[N, *]``, or pairs ``(inputs, class indices)``.
        target: a name of `transpike.interop.NIR_TARGETS`.
        steps: T.

    Raises:
        DataError: there are no inputs.
        ExportError, ConfigError, MissingExtraError: see `to_nir`.
    """
    snn, row, steps = converted(snn, "compare_with_target"), nir_target(target), check_count("steps", steps)
    graph = to_nir(snn, target=target, steps=steps, source=False)
    counts = _Counts()
    shifts = _shifts(graph, row.rule.delay)
    for batch in batches:
        x, labels = (batch[0], batch[1]) if isinstance(batch, list | tuple) else (batch, None)
        counts.add(snn, x, labels, run_target(graph, x, steps, row), shifts, steps)
    if not counts.images:
        raise DataError("there are no inputs", where="compare_with_target", fix="give at least one batch")
    delay = int(metadata_of(graph)["delay"])
    return TargetReport(row.name, steps, delay, counts.images, *counts.rates())


def _shifts(graph: Any, delay: int) -> dict[str, tuple[str, tuple[int, int], int]]:
    """By site: its node, its channels there, and by how many steps it is late."""
    depth: dict[str, int] = {}
    for name in execution_order(graph):
        before = [depth[source] for source, node in graph.edges if node == name]
        depth[name] = max(before, default=0) + (type(graph.nodes[name]).__name__ == "IF")
    parts = json.loads(metadata_of(graph)["sites"])
    return {
        site: (node, (first, last), delay * depth[node])
        for node, sites in parts.items()
        for site, (first, last) in sites.items()
    }


class _Counts:
    def __init__(self) -> None:
        self.images, self.labelled = 0, True
        self.hits, self.target_hits, self.answers = 0, 0, 0
        self.equal, self.places = 0, 0
        self.spikes, self.target_spikes = 0.0, 0.0

    def add(
        self,
        snn: SpikingNetwork,
        x: Tensor,
        labels: Tensor | None,
        run: NirRun,
        shifts: dict[str, tuple[str, tuple[int, int], int]],
        steps: int,
    ) -> None:
        def observe(site: str, _drive: Tensor, events: Tensor) -> None:
            node, (first, last), shift = shifts[site]
            theirs = run.events[node][shift : shift + steps, :, first:last].flatten(2)
            ours = (events != 0).cpu().flatten(2)
            self.equal += int((ours == theirs).sum())
            self.places += ours.numel()
            self.spikes += float(ours.sum())

        with torch.no_grad():
            answers = snn(x.to(reference_tensor(snn)), steps=steps, schedule=Plain(), observe=observe)
        ours = answers[-1].flatten(1).argmax(1).cpu()
        theirs = run.answer(len(run.output) - steps)[-1].argmax(1)
        self.images += len(x)
        self.answers += int((ours == theirs).sum())
        self.target_spikes += sum(float(events.sum()) for events in run.events.values())
        if labels is None:
            self.labelled = False
            return
        self.hits += int((ours == labels.cpu()).sum())
        self.target_hits += int((theirs == labels.cpu()).sum())

    def rates(self) -> tuple[float | None, float | None, float, float, float, float]:
        def share(count: int) -> float:
            return 100 * count / self.images

        labelled = (share(self.hits), share(self.target_hits)) if self.labelled else (None, None)
        events = 100 * self.equal / self.places
        return (*labelled, share(self.answers), events, self.spikes / self.images, self.target_spikes / self.images)
