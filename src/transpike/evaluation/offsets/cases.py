"""The four cases of the COS paper's figure 2, found in a network: why one spike more or less is sent, and the shift.

Theorem 2 moves the initial potential down (i) or up (ii), by theta or by more: the two arms of its maxima. The paper's
text names panels a and b as down, c and d as up; here the arms tell the two panels of a direction apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from transpike.errors import InputError
from transpike.evaluation.offsets.counts import checked_batches, need_counts, wanted_count
from transpike.kernels import scan
from transpike.kernels.offset_probe import probe
from transpike.kernels.reference import fire
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Reset
from transpike.schedules import OffsetSpike, Schedule
from transpike.schedules.offset_spike import shift


class ShiftCase(Enum):
    """Direction of the shift and the arm of Theorem 2's maximum that decides its length."""

    DOWN = "too many spikes: down by theta"
    DOWN_FURTHER = "too many spikes: down by more than theta"
    UP = "too few spikes: up by theta"
    UP_FURTHER = "too few spikes: up by more than theta"


@dataclass(frozen=True)
class Trajectory:
    """One neuron over rho steps.

    Attributes:
        potentials: v(0), ..., v(rho), after reset.
        spikes: s(1), ..., s(rho).
    """

    potentials: tuple[float, ...]
    spikes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.spikes or len(self.potentials) != len(self.spikes) + 1:
            raise ValueError(f"{len(self.potentials)} potentials do not belong to {len(self.spikes)} spikes")

    @property
    def count(self) -> int:
        """Number of spikes."""
        return sum(self.spikes)


@dataclass(frozen=True)
class CaseExample:
    """A neuron of the network to which one case of figure 2 applies.

    Attributes:
        case: which.
        site: where the neuron is.
        sample: number of the sample, from 0.
        neuron: the neuron's index in the population.
        theta: threshold.
        drive: input current of the rho steps.
        wanted: the count that the ANN wants for this drive.
        before: from the site's own initial potential.
        after: from the shifted one.
    """

    case: ShiftCase
    site: str
    sample: int
    neuron: tuple[int, ...]
    theta: float
    drive: tuple[float, ...]
    wanted: int
    before: Trajectory
    after: Trajectory

    @property
    def offset_before(self) -> int:
        """Psi before the shift."""
        return self.wanted - self.before.count

    @property
    def offset_after(self) -> int:
        """Psi after the shift."""
        return self.wanted - self.after.count


def find_cases(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    feed: Schedule,
    *,
    probe_steps: int = 4,
    progress: bool = False,
) -> dict[ShiftCase, CaseExample | None]:
    """Finds a neuron for each of the four cases: the first one, by batch, site, sample and index.

    Args:
        snn: a network of integrate-and-fire neurons with soft reset.
        batches: a tensor, or batches as in calibration; none is read once all cases are found.
        feed: the schedule that makes every site's drive.
        probe_steps: rho.
        progress: show a progress bar.

    Returns:
        By case; None where the data has no such neuron.

    Raises:
        ValueError, InputError, DataError: see `offset_spikes`; or hard reset, which Theorem 2 does not cover.
    """
    need_counts(snn, feed, probe_steps)
    if not isinstance(snn.neuron, IF) or snn.neuron.reset is not Reset.SOFT:
        raise InputError(
            "the cases are those of integrate-and-fire with soft reset",
            where=f"the neuron {snn.neuron}",
            fix="convert with IF(Reset.SOFT)",
        )
    found: dict[ShiftCase, CaseExample | None] = dict.fromkeys(ShiftCase)
    samples = 0

    def look(name: str, drive: Tensor, _: Tensor) -> None:
        site, seen = snn.site(name), drive[:probe_steps]
        theta = site.theta.expand(seen.shape[1:])
        start = snn.neuron.start(site.parameters_of_neurons, seen)
        result = probe(seen, start, site.theta)
        moved = shift(result, result.residual, site.theta, probe_steps, OffsetSpike.epsilon)
        masks = {
            ShiftCase.DOWN: (moved < 0) & (-moved <= theta),
            ShiftCase.DOWN_FURTHER: -moved > theta,
            ShiftCase.UP: (moved > 0) & (moved <= theta),
            ShiftCase.UP_FURTHER: moved > theta,
        }
        for case, mask in masks.items():
            if found[case] is None and bool(mask.any()):
                index = tuple(int(i) for i in mask.nonzero()[0])
                numbers = seen.flatten(1)[:, int(mask.flatten().nonzero()[0])]
                wanted = wanted_count(site, seen.sum(0), probe_steps)[index]
                found[case] = CaseExample(
                    case=case,
                    site=name,
                    sample=samples + index[0],
                    neuron=index[1:],
                    theta=float(theta[index]),
                    drive=tuple(numbers.tolist()),
                    wanted=int(wanted),
                    before=_trajectory(numbers, start[index], theta[index]),
                    after=_trajectory(numbers, (start + moved)[index], theta[index]),
                )

    for inputs in checked_batches(snn, batches, "the four cases", progress):
        with torch.no_grad():
            snn(*inputs, steps=probe_steps, schedule=feed, observe=look)
        samples += inputs[0].shape[0]
        if all(found.values()):
            break
    return found


def _trajectory(drive: Tensor, v: Tensor, theta: Tensor) -> Trajectory:
    def step(state: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        state, event = fire(state, current, theta, soft_reset=True)
        return state, torch.stack([state, event])

    _, rows = scan(step, v, drive)
    return Trajectory((float(v), *rows[:, 0].tolist()), tuple(rows[:, 1].int().tolist()))
