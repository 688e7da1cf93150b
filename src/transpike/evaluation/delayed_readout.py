"""Delayed readout (LTB, Bu et al., CVPR 2025): the answer is a mean that leaves out the first steps.

Deep layers hear nothing before the layers in front of them have charged their neurons, so that the first outputs say
little. The paper lets the readout wait for as many steps as the most driven neuron of every layer takes to fire.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from transpike.calibration.sweep import CalibrationData, sweep
from transpike.graph.site import Site
from transpike.network.spiking import SpikingNetwork

KEPT = 4
"""Steps at the end that are averaged at least, as in the paper; fewer where there are fewer."""


def delayed_readout(answer: Tensor, delay: int) -> Tensor:
    """The mean output of the steps after the first ``delay``, for every number of steps.

    Where fewer than `KEPT` steps would be left, the last `KEPT` are averaged, or all if there are fewer.

    Args:
        answer: what a spiking network returns, ``[T, N, *]``: row t-1 is the mean output of the first t steps.
        delay: steps to leave out, at least 0.

    Returns:
        ``[T, N, *]``: row t-1 is the mean output of the steps ``min(delay, max(t - 4, 0)) + 1 .. t``.

    Raises:
        ValueError: a negative delay.
    """
    if delay < 0:
        raise ValueError(f"delay must not be negative, got {delay}")
    if delay == 0:
        return answer
    steps = torch.arange(1, len(answer) + 1, device=answer.device)
    start = (steps - KEPT).clamp(0, delay)
    column = (-1, *[1] * (answer.dim() - 1))
    sums = torch.cat([torch.zeros_like(answer[:1]), answer * steps.view(column)])
    return (sums[1:] - sums[start]) / (steps - start).view(column)


def readout_delay(snn: SpikingNetwork, *, calibration: CalibrationData, progress: bool = False) -> int:
    """How many steps the readout should wait: those until a mean drive makes every layer fire, added up and rounded up.

    A layer takes ``min_i (theta_i - v_i(0)) / E max(z_i, 0)``; the paper has one threshold per layer, and writes the
    largest mean activation into the denominator. Layers are added up in a row, also where some of them run side by
    side. A site that no data drives is left out.

    Args:
        snn: the converted network.
        calibration: unlabelled training inputs, as for `convert`.
        progress: show a progress bar.

    Raises:
        CalibrationError: there is no data, or a batch is unusable.
    """
    driven: dict[str, Tensor] = {}

    def add(name: str, z: Tensor) -> None:
        driven[name] = driven.get(name, 0.0) + z.clamp_min(0).double().sum(0)

    samples = sweep(snn.network, calibration, add, progress=progress)
    return math.ceil(sum(_first_spike(snn.site(name), total / samples) for name, total in driven.items()))


def _first_spike(site: Site, mean: Tensor) -> float:
    """Steps until the most driven neuron has charged up, given mean drives like one sample's population."""
    distance = (site.theta - site.v_init).double()
    if distance.dim() > mean.dim():  # potentials of particular samples
        distance = distance.mean(0)
    waits = (distance.expand_as(mean) / mean)[mean > 0]
    return max(0.0, float(waits.min())) if waits.numel() else 0.0
