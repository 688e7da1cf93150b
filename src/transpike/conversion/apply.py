"""Applies a conversion: thresholds, initial potentials, then corrections in their order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from transpike.calibration import CalibrationData, calibrate_thresholds, visit_blocks, visit_stages
from transpike.calibration.sweep import batches_of, checked_inputs
from transpike.conversion.quantise import quantised
from transpike.errors import CalibrationError
from transpike.graph.function_site import FunctionSite
from transpike.network.spiking import SpikingNetwork
from transpike.rules import (
    BlockCorrection,
    Correction,
    HalfThreshold,
    Population,
    PotentialRule,
    SpikingThresholdRule,
    StageView,
    ThresholdRule,
)
from transpike.schedules import AccumulateThenFire, Plain

_PIECE = 100  # samples that are observed at once


def apply_conversion(snn: SpikingNetwork, data: CalibrationData | None, *, progress: bool = False) -> SpikingNetwork:
    """Sets the numbers of all sites as the network's conversion says; see `transpike.convert`.

    Returns:
        The network itself, or the quantised one that was made of it.

    Raises:
        CalibrationError: data is needed and there is none, or a rule fits no site.
        ConversionError: the network is to be quantised, and operators lie on no grid.
        RangeError: a quantised network's sums would be inexact.
    """
    plain = {site.name for site in snn.sites if not snn.site(site.name).trained}
    conversion = snn.conversion
    threshold, corrections = conversion.threshold, conversion.corrections
    if threshold is not None and not plain:
        raise CalibrationError(
            f"{threshold} fits no site: all thresholds were trained with the network",
            fix="leave the threshold rule out, or convert the network it was tailored from",
            shell_fix="leave --threshold out, or convert the network it was trained from",
        )
    with_data = [part for part in (threshold, *corrections) if part is not None]
    if with_data and data is None:
        raise CalibrationError(
            f"{with_data[0]} needs data", where="convert", fix="pass calibration=batches of training inputs"
        )
    repeated = [part for part in with_data if not isinstance(part, ThresholdRule)] or conversion.quantise is not None
    if repeated and data is not None and not isinstance(data, Tensor | Sequence):
        data = list(data)  # gone through more than once
    _set_thresholds(snn, plain, threshold, conversion.potential, data, progress)
    late = [part for part in corrections if part.keeps_grid and conversion.quantise is not None]
    for part in corrections:
        if part not in late:
            _correct(snn, part, data, progress)
    if conversion.quantise is not None:
        snn = quantised(snn, conversion.quantise, data)
        for part in late:
            _correct(snn, part, data, progress)
    return snn


def _correct(
    snn: SpikingNetwork, part: Correction | BlockCorrection, data: CalibrationData | None, progress: bool
) -> None:
    assert data is not None
    schedule = snn.schedule
    if isinstance(part, BlockCorrection):
        visit_blocks(
            *(snn.network, snn.plan, data, part.steps, part.update),
            emitted=None if schedule == AccumulateThenFire(part.steps) else partial(_emitted, snn, part, data),
            as_one=part.as_one,
            progress=progress,
        )
        return
    for _ in range(part.rounds):
        visit_stages(
            *(snn.network, snn.plan, snn.neuron, data), *(schedule, part.steps, part.update), progress=progress
        )


def _set_thresholds(
    snn: SpikingNetwork,
    plain: set[str],
    threshold: ThresholdRule | SpikingThresholdRule | None,
    potential: PotentialRule | None,
    data: CalibrationData | None,
    progress: bool,
) -> None:
    """Thresholds of plain ReLU sites, and the initial potentials that follow from them."""
    modules = {name: snn.site(name) for name in sorted(plain)}
    if isinstance(threshold, ThresholdRule):
        assert data is not None
        calibrate_thresholds(snn.network, modules, threshold, data, progress=progress)
    elif threshold is None:
        for name, site in modules.items():
            assert site.ceiling is not None, name
            site.set_threshold(torch.full_like(site.theta, site.ceiling))
    for planned in snn.sites:
        _set_potential(snn, planned.name, potential)
    if isinstance(threshold, SpikingThresholdRule):
        assert data is not None

        def update(stage: StageView) -> None:
            if stage.site in plain:
                threshold.update(stage)
                _set_potential(snn, stage.site, potential)

        visit_stages(*(snn.network, snn.plan, snn.neuron, data), Plain(), threshold.steps, update, progress=progress)


def _set_potential(snn: SpikingNetwork, name: str, rule: PotentialRule | None) -> None:
    site = snn.site(name)
    if isinstance(site, FunctionSite):  # follows values, and has no potential
        return
    rule = rule or (None if site.trained else HalfThreshold())
    if rule is not None:
        assert site.population is not None
        site.set_initial_potential(rule.potential(Population(name, site.population, site.theta)))


def _emitted(snn: SpikingNetwork, part: BlockCorrection, data: CalibrationData, node: str) -> Tensor:
    """What a site's events stand for, ``[N, *]``."""
    (name,) = [site.name for site in snn.sites if site.node == node]
    means: list[Tensor] = []

    def observe(site: str, _: Tensor, events: Tensor) -> None:
        if site == name:
            means.append(snn.schedule.total(snn.schedule.values(events, snn.site(name).theta)).to(events.dtype))

    for index, batch in enumerate(batches_of(data)):
        inputs = checked_inputs(snn.network, batch, index)
        for piece in zip(*(torch.split(tensor, _PIECE) for tensor in inputs), strict=True):
            snn(*piece, steps=part.steps, observe=observe)
    return torch.cat(means)
