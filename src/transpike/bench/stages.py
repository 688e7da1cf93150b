"""Where the time of a converted network goes, stage by stage, beside its ANN and what the machine could do at most."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from transpike.bench.compare import Gate, pass_gate, relu_network
from transpike.bench.limits import Peaks, count_additions, measure_peaks, packed_bytes, weight_bytes
from transpike.engine.drive import map_shape
from transpike.engine.execution_plan import READOUT
from transpike.graph.walk import NodeVisitor
from transpike.kernels import native
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import Schedule

_PART = 8  # samples whose spikes are counted at once: torch stores those of all sites and steps as numbers


@dataclass(frozen=True)
class StageCost:
    """One stage: the operators in front of a site and its neurons, all samples and steps.

    Attributes:
        site: the population at its end, or ``"readout"``.
        events: whether it runs event by event.
        rate: share of the neurons that it reads which spike at a step; None where torch operators compute its drive.
        milliseconds: the fastest of several runs.
        share: of the sum over all stages.
        ann_milliseconds: the same operators and ReLU in one pass of the ANN, the faster of both memory formats.
        additions: what the spikes ask for (`transpike.bench.limits.count_additions`); currents that torch operators
            compute, and the neurons' own arithmetic, are not counted.
        bytes: that must move: packed spikes in and out, weights and initial potentials once, currents that torch
            operators computed; 0 for the readout.
        limit: the least time for both (`Peaks.seconds`) over the measured one, more than 1 where a kernel needs far
            fewer additions; None where torch operators compute.
    """

    site: str
    events: bool
    rate: float | None
    milliseconds: float
    share: float
    ann_milliseconds: float
    additions: int
    bytes: int
    limit: float | None


@dataclass(frozen=True)
class StageCosts:
    """All stages of a network in order, with what they were measured on."""

    gate: Gate
    batch: int
    steps: int
    schedule: str
    threads: int
    instruction_set: str
    peaks: Peaks
    stages: tuple[StageCost, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def cost_stages(
    snn: SpikingNetwork,
    inputs: Tensor,
    *,
    steps: int,
    schedule: Schedule | None = None,
    repeats: int = 7,
    peaks: Peaks | None = None,
) -> StageCosts:
    """Times every stage of a converted network and counts its work.

    Work is that of spikes one by one. Accumulate-then-fire sends one count per neuron instead, which takes other
    numbers of additions and bytes, so its share of the limit says little.

    Args:
        snn: the network, on the CPU in float32.
        inputs: one batch of real data.
        steps: T.
        schedule: how the network runs; None is the network's own.
        repeats: rounds, in each of which the network runs three times and so does each form of the ANN.
        peaks: what the machine does at most; None measures it.

    Raises:
        BenchError: as `pass_gate`.
        ValueError: no repeats.
    """
    schedule = snn.schedule if schedule is None else schedule
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    gate = pass_gate(snn, inputs, steps, schedule)
    peaks = measure_peaks() if peaks is None else peaks
    names = [site.name for site in snn.sites]
    shapes = {site.name: map_shape((1, *site.shape)) for site in snn.sites}
    spikes = count_spikes(snn, inputs, steps, schedule)
    seconds, dense = _time(snn, inputs, steps, schedule, repeats)
    batch, total, every = inputs.shape[0], schedule.site_steps(steps), sum(seconds.values())
    costs = []
    for name, report in snn.engine.report(schedule).items():
        read = {source.site for source in report.sources}
        neurons = batch * total * sum(_size(shapes[site]) for site in read)
        additions = sum(count_additions(source, spikes[source.site], shapes[name]) for source in report.sources)
        moved = packed_bytes(shapes[name], batch, total) + 4 * snn.site(name).v_init.numel()
        moved += sum(packed_bytes(shapes[site], batch, total) for site in read)
        moved += sum(weight_bytes(source) for source in report.sources)
        if not read:
            times = 1 if snn.sites[names.index(name)].constant_drive else total
            moved += 4 * batch * times * _size(shapes[name])
        costs.append(
            StageCost(
                name,
                report.events,
                float(sum(spikes[site].sum() for site in read)) / neurons if read else None,
                1e3 * seconds[name],
                seconds[name] / every,
                1e3 * dense[name],
                additions,
                moved,
                peaks.seconds(additions, moved) / seconds[name] if read else None,
            )
        )
    last = StageCost(
        READOUT, False, None, 1e3 * seconds[READOUT], seconds[READOUT] / every, 1e3 * dense[READOUT], 0, 0, None
    )
    compiled = native.module()
    numbers = (compiled.threads(), compiled.instruction_set())
    return StageCosts(gate, batch, steps, str(schedule), *numbers, peaks, (*costs, last))


def count_spikes(snn: SpikingNetwork, inputs: Tensor, steps: int, schedule: Schedule) -> dict[str, Tensor]:
    """How often each neuron spikes, all samples and steps, by site ``[C, H, W]`` (float64), from a dense run."""
    found: dict[str, Tensor] = {}

    def add(site: str, _: Tensor, events: Tensor) -> None:
        spikes = events.double().sum((0, 1))
        spikes = spikes.reshape(map_shape((1, *spikes.shape)))
        found[site] = found[site] + spikes if site in found else spikes

    with torch.no_grad():
        for part in torch.split(inputs, _PART):
            snn(part, steps=steps, schedule=schedule, observe=add)
    return found


def _size(shape: tuple[int, int, int]) -> int:
    return shape[0] * shape[1] * shape[2]


def _time(
    snn: SpikingNetwork, inputs: Tensor, steps: int, schedule: Schedule, repeats: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each stage, of the spiking network and of the ANN; rounds in which all of them run in turn."""
    forms = [_Stages(relu_network(snn), inputs, [site.name for site in snn.sites])]
    if inputs.dim() == 4:
        last = inputs.contiguous(memory_format=torch.channels_last)
        forms.append(_Stages(relu_network(snn).to(memory_format=torch.channels_last), last, forms[0].names))
    seconds: dict[str, float] = {}
    dense: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(repeats):
            _keep_fastest(seconds, snn.engine.time(inputs, steps=steps, schedule=schedule, repeats=2))
            for form in forms:
                form.time()  # warms up
                for _ in range(2):
                    _keep_fastest(dense, form.time())
    return seconds, dense


def _keep_fastest(found: dict[str, float], seconds: Mapping[str, float]) -> None:
    for name, value in seconds.items():
        found[name] = min(value, found.get(name, value))


class _Stages:
    """Runs the ANN operator by operator and takes the time at the end of every stage."""

    def __init__(self, network: fx.GraphModule, inputs: Tensor, names: list[str]) -> None:
        self.inputs, self.names = inputs, names
        self.visitor = NodeVisitor(network, on_node=self._after)
        self.seconds: dict[str, float] = {}
        self.began = 0.0

    def time(self) -> dict[str, float]:
        """Seconds of each stage in one run."""
        self.seconds = {}
        self.began = time.perf_counter()
        self.visitor.run(self.inputs)
        self._end(READOUT)
        return self.seconds

    def _after(self, node: fx.Node, _: Any) -> None:
        if node.op == "call_module" and node.target in self.names:
            self._end(str(node.target))

    def _end(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self.began
        self.began = now
