"""Composes the parts of a conversion: thresholds, initial potentials, then calibrations in their order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from transpike.calibration import CalibrationData, calibrate_thresholds, visit_blocks, visit_stages
from transpike.calibration.sweep import batches_of, checked_inputs
from transpike.errors import CalibrationError
from transpike.graph.site import Site
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import EventKind
from transpike.rules import (
    BlockCalibration,
    Calibration,
    HalfThreshold,
    Part,
    Population,
    PotentialRule,
    SpikingThresholdRule,
    StageView,
    ThresholdRule,
)
from transpike.schedules import AccumulateThenFire


def apply_parts(
    snn: SpikingNetwork, parts: Sequence[Part], data: CalibrationData | None, *, progress: bool = False
) -> None:
    """Sets the numbers of all sites; see `transpike.convert`.

    Raises:
        ValueError: two parts do the same, or something is no part.
        CalibrationError: thresholds are needed and there is no rule or no data, or a rule fits no site.
    """
    threshold = _only(parts, (ThresholdRule, SpikingThresholdRule), "threshold rule")
    potential = _only(parts, (PotentialRule,), "rule for initial potentials")
    calibrations = [
        part for part in parts if isinstance(part, Calibration | BlockCalibration) and part is not threshold
    ]
    strange = [part for part in parts if part not in (threshold, potential, *calibrations)]
    if strange:
        raise ValueError(
            f"{strange[0]!r} is neither a threshold rule nor a rule for initial potentials nor a calibration"
        )
    plain = {site.name for site in snn.sites if not snn.site(site.name).trained}
    hungry = [part for part in (threshold, *calibrations) if part is not None]
    if threshold is not None and not plain:
        raise CalibrationError(
            f"{threshold} fits no site: all thresholds were trained with the network",
            fix="leave the threshold rule out, or convert the network it was tailored from",
        )
    if any(isinstance(part, BlockCalibration) and part.changes_weights for part in calibrations[:-1]):
        raise ValueError("a part that changes weights must come last: the others compare with the source network")
    blocks = [part for part in calibrations if isinstance(part, BlockCalibration)]
    if blocks and snn.neuron.events is not EventKind.BINARY:
        raise ValueError(f"{blocks[0]} counts spikes of 0 and 1, which {snn.neuron} does not send; use IF()")
    if hungry and data is None:
        raise CalibrationError(
            f"{hungry[0]} needs data", where="convert", fix="pass calibration=batches of training inputs"
        )
    again = [part for part in hungry if not isinstance(part, ThresholdRule)]
    if again and data is not None and not isinstance(data, Tensor | Sequence):
        data = list(data)  # gone through more than once
    _set_thresholds(snn, plain, threshold, potential, data, progress)
    for part in calibrations:
        assert data is not None
        if isinstance(part, BlockCalibration):
            visit_blocks(
                *(snn.network, snn.plan, data, part.steps, part.update),
                emitted=None if part.schedule == AccumulateThenFire(part.steps) else partial(_emitted, snn, part, data),
                as_one=part.as_one,
                progress=progress,
            )
        else:
            _visit(snn, part, data, part.update, progress)
        snn.record["schedule"] = part.schedule


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
            site.set_threshold(torch.full_like(site.theta, _ceiling(name, site)))
    for planned in snn.sites:
        _set_potential(snn, planned.name, potential)
    if isinstance(threshold, SpikingThresholdRule):
        assert data is not None

        def update(stage: StageView) -> None:
            if stage.site in plain:
                threshold.update(stage)
                _set_potential(snn, stage.site, potential)

        _visit(snn, threshold, data, update, progress)


def _ceiling(name: str, site: Site) -> float:
    if site.ceiling is None:
        raise CalibrationError(
            "a plain ReLU has no threshold",
            where=f"site {name}",
            fix="pass a threshold rule and data, for example "
            "convert(model, [Percentile(99.9, PerChannel()), HalfThreshold()], calibration=batches, ...)",
        )
    return site.ceiling


def _set_potential(snn: SpikingNetwork, name: str, rule: PotentialRule | None) -> None:
    site = snn.site(name)
    rule = rule or (None if site.trained else HalfThreshold())
    if rule is not None:
        assert site.population is not None
        site.set_initial_potential(rule.potential(Population(name, site.population, site.theta)))


def _visit(snn: SpikingNetwork, part: Calibration, data: CalibrationData, update: Any, progress: bool) -> None:
    for _ in range(part.rounds):
        visit_stages(*(snn.network, snn.plan, snn.neuron, data), part.schedule, part.steps, update, progress=progress)


def _emitted(snn: SpikingNetwork, part: BlockCalibration, data: CalibrationData, node: str) -> Tensor:
    """What a site sends on the average of the steps, ``[N, *]``."""
    (name,) = [site.name for site in snn.sites if site.node == node]
    means: list[Tensor] = []

    def observe(site: str, _: Tensor, events: Tensor) -> None:
        if site == name:
            means.append(snn.site(name).theta * events.mean(0))

    for index, batch in enumerate(batches_of(data)):
        inputs = checked_inputs(snn.network, batch, index)
        snn(*inputs, steps=part.steps, schedule=part.schedule, observe=observe)
    return torch.cat(means)


def _only(parts: Sequence[Part], kinds: tuple[type[Part], ...], name: str) -> Any:
    found = [part for part in parts if isinstance(part, kinds)]
    if len(found) > 1:
        raise ValueError(f"give at most one {name}, got {found}")
    return found[0] if found else None
