"""Offset spikes (COS paper, Definition 1): how many spikes each neuron is short of what the ANN wants.

    psi = a T / theta - sum over t of s(t),    T = rho

*Without* the constraint the network simply runs, and ``a`` is the ANN's activation (figures 1a, 1b, 3 and 6). *With* it
the site's input is taken as right and ``a = f(W phi)`` (appendix A.1): the neurons run by themselves on the drive that
a feeding schedule makes. If that schedule sends the ANN's counts, as `AccumulateThenFire` and `ExactPotential` do at
rho = L, the spikes are rectified as in the caption of figure 1; if it is `Plain`, this is appendix A.1 to the letter.

The ratio of exact outputs and the mean of psi^2 (the paper's MSE) follow from the histograms; no activation outlives
its batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transpike.evaluation.offsets.counts import activation_of, checked_batches, need_counts, source_drives, wanted_count
from transpike.functional import summing_type
from transpike.graph.site import Site
from transpike.kernels import KernelPreference
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import OffsetSpike, Plain, Schedule, SiteContext


@dataclass(frozen=True)
class SiteOffsets:
    """The distribution of psi at one site.

    Attributes:
        site: its name.
        counts: how many neurons (of all samples) have psi = -rho, ..., 0, ..., rho.
        output_mse: mean squared difference between the mean output ``theta count / T`` and the ANN's activation.
        right_inputs: share of neurons whose received drive asks for the same count as the ANN's drive does. (Table S2
            counts inputs that are equal bit by bit, which the rounding of sums lowers by itself.)
    """

    site: str
    counts: tuple[int, ...]
    output_mse: float
    right_inputs: float

    def __post_init__(self) -> None:
        if len(self.counts) % 2 == 0 or len(self.counts) < 3:
            raise ValueError(f"counts must hold 2 rho + 1 numbers with rho of at least 1, got {len(self.counts)}")
        if min(self.counts) < 0 or sum(self.counts) == 0:
            raise ValueError(f"counts must be numbers of neurons, at least one in all, got {self.counts}")

    @property
    def probe_steps(self) -> int:
        """Rho, the steps over which spikes were counted."""
        return len(self.counts) // 2

    @property
    def offsets(self) -> range:
        """The values of psi that ``counts`` stands for."""
        return range(-self.probe_steps, self.probe_steps + 1)

    def share(self, offset: int) -> float:
        """Share of neurons with psi = ``offset``, in [0, 1]; 0 beyond rho, which no psi can exceed."""
        inside = abs(offset) <= self.probe_steps
        return self.counts[offset + self.probe_steps] / sum(self.counts) if inside else 0.0

    @property
    def exact(self) -> float:
        """Share of neurons with psi = 0: the ratio of Table 3, in [0, 1]."""
        return self.share(0)

    @property
    def mse(self) -> float:
        """Mean of psi^2: the MSE of Table 3 and figure 5, in spikes squared."""
        return sum(offset**2 * self.share(offset) for offset in self.offsets)


@dataclass(frozen=True)
class Offsets:
    """The distributions of psi at all sites under one schedule.

    Attributes:
        label: the schedule's name.
        constrained: whether the inputs of the sites were taken as right.
        sites: in execution order; the last one is the paper's output layer.
        answer_mse: mean squared difference between the network's answer after rho steps and the ANN's; None with the
            constraint, where sites run by themselves, and for an answer that is not one tensor.
    """

    label: str
    constrained: bool
    sites: tuple[SiteOffsets, ...]
    answer_mse: float | None


def iterated_schedules(probe_steps: int, iterations: int) -> dict[str, Schedule]:
    """Plain, then COS with 1 .. ``iterations`` iterations: the columns of Table 3.

    Raises:
        ValueError: iterations below 0.
    """
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    found: dict[str, Schedule] = {"plain": Plain()}
    return found | {f"cos:{k}": OffsetSpike(probe_steps, iterations=k) for k in range(1, iterations + 1)}


def offset_spikes(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    schedules: Mapping[str, Schedule],
    *,
    probe_steps: int = 4,
    feed: Schedule | None = None,
    progress: bool = False,
) -> dict[str, Offsets]:
    """Counts psi at every site after T = rho steps.

    The ANN of a site without trained threshold is the clipped one; `counts.wanted_count` says how counts are rounded.

    Args:
        snn: a network of neurons that send 0 or 1.
        batches: tensors, or tuples that start with the model's inputs (labels are ignored).
        schedules: how the neurons run, by label.
        probe_steps: rho, the number of steps that are counted.
        feed: None to count without the constraint; else the schedule that makes every site's drive.
        progress: show a progress bar.

    Returns:
        By label.

    Raises:
        ValueError: rho below 1, or a schedule of several passes or with lags, which has no count after rho steps.
        InputError, DataError: another neuron, unusable batches, or none.
    """
    names = [site.name for site in snn.sites]
    for schedule in (*schedules.values(), *(() if feed is None else (feed,))):
        need_counts(snn, schedule, probe_steps)
    tallies = {label: {name: _Tally(probe_steps) for name in names} for label in schedules}
    answers = {label: _Mean() for label in schedules}
    what = f"offset spikes {'without' if feed is None else 'with'} constraint"
    for inputs in checked_batches(snn, batches, what, progress):
        with torch.no_grad():
            drives, source = source_drives(snn, inputs)
            if feed is not None:
                constrained = _Constrained(snn, probe_steps, drives, schedules, tallies)
                snn(*inputs, steps=probe_steps, schedule=feed, observe=constrained)
                continue
            for label, schedule in schedules.items():
                observe = _Free(snn, probe_steps, drives, tallies[label])
                answer = snn(*inputs, steps=probe_steps, schedule=schedule, observe=observe)
                if isinstance(answer, Tensor) and isinstance(source, Tensor):
                    answers[label].add((answer[-1] - source).double().square())
    return {
        label: Offsets(
            label,
            feed is not None,
            tuple(tallies[label][name].result(name) for name in names),
            answers[label].value if answers[label].number else None,
        )
        for label in schedules
    }


class _Mean:
    """A running mean in float64."""

    def __init__(self) -> None:
        self.total = 0.0
        self.number = 0

    def add(self, values: Tensor) -> None:
        self.total += float(values.sum(dtype=torch.float64))
        self.number += values.numel()

    @property
    def value(self) -> float:
        return self.total / self.number


class _Tally:
    """What is kept of one site under one schedule."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.counts = torch.zeros(2 * steps + 1, dtype=torch.int64)
        self.error = _Mean()
        self.right = _Mean()

    def add(self, site: Site, ann: Tensor, assumed: Tensor, received: Tensor, count: Tensor) -> None:
        """Counts one batch.

        Args:
            site: the site.
            ann: T times the ANN's drive, ``[N, *]``.
            assumed: the sum of drives that psi is measured against: ``ann``, or ``received`` with the constraint.
            received: the sum of drives that came, ``[N, *]``.
            count: spikes sent, ``[N, *]``.
        """
        psi = (wanted_count(site, assumed, self.steps) - count).round().long() + self.steps
        self.counts += torch.bincount(psi.flatten(), minlength=len(self.counts)).cpu()
        output = site.theta * count / self.steps
        self.error.add((output - activation_of(site, assumed / self.steps)).double().square())
        same = wanted_count(site, received, self.steps) == wanted_count(site, ann, self.steps)
        self.right.add(same.double())

    def result(self, name: str) -> SiteOffsets:
        return SiteOffsets(name, tuple(self.counts.tolist()), self.error.value, self.right.value)


@dataclass(frozen=True, eq=False)
class _Free:
    """An observer that compares the counts of a run with the ANN."""

    snn: SpikingNetwork
    steps: int
    drives: Mapping[str, Tensor]
    tallies: Mapping[str, _Tally]

    def __call__(self, name: str, drive: Tensor, events: Tensor) -> None:
        ann = self.steps * self.drives[name]
        dtype = summing_type(drive.dtype)
        received = drive[: self.steps].sum(0, dtype=dtype)
        count = events[: self.steps].sum(0, dtype=dtype)
        self.tallies[name].add(self.snn.site(name), ann, ann, received, count)


@dataclass(frozen=True, eq=False)
class _Constrained:
    """An observer that runs the neurons by themselves on each drive it sees."""

    snn: SpikingNetwork
    steps: int
    drives: Mapping[str, Tensor]
    schedules: Mapping[str, Schedule]
    tallies: Mapping[str, Mapping[str, _Tally]]

    def __call__(self, name: str, drive: Tensor, events: Tensor) -> None:
        site, seen = self.snn.site(name), drive[: self.steps]
        dtype = summing_type(seen.dtype)
        received = seen.sum(0, dtype=dtype)
        for label, schedule in self.schedules.items():
            visit = SiteContext(name, seen, self.snn.neuron, site.parameters_of_neurons, None, 0, KernelPreference.AUTO)
            count = schedule.emit(visit)[0].sum(0, dtype=dtype)
            self.tallies[label][name].add(site, self.steps * self.drives[name], received, received, count)
