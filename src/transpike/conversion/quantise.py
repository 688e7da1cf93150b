"""Puts a converted network's numbers on grids, on which its sums are exact in any order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from transpike.calibration import CalibrationData
from transpike.calibration.sweep import batches_of, inputs_of
from transpike.conversion.grid_numbers import GridNumbers
from transpike.errors import CalibrationError, ModelError
from transpike.graph.example_run import probing_batch
from transpike.graph.grid_pass import GridGraph, put_on_grid
from transpike.graph.normalize import ActivationCall
from transpike.graph.plan import Plan, make_plan
from transpike.graph.prepare import Capture
from transpike.network.spiking import SpikingNetwork, converted
from transpike.rules.quantisation import Quantisation
from transpike.serialization.model_info import InputSpec, model_info


def quantise(
    snn: SpikingNetwork,
    bits: int | Quantisation = 8,
    *,
    calibration: CalibrationData | None = None,
) -> SpikingNetwork:
    """Puts a converted network's numbers on grids of whole numbers; the network that is given is not changed.

    The sums of such a network are exact in float32, so its events and answers are the same with every kernel, any
    number of threads, and on every machine. It reads as an ANN as before, within rounding.

    Args:
        snn: a converted network in float32 or float64.
        bits: of a weight, sign included; or all settings as a `Quantisation`.
        calibration: inputs, a tensor or batches, whose largest magnitude ends the grid of the inputs. Not needed where
            the network's info says how images are normalised.

    Returns:
        A new network, whose conversion names the settings; a copy of one that is quantised so already.

    Raises:
        ValueError: settings or a schedule that do not fit; the network is quantised already, with other settings.
        ModelError: the network is not converted, or not in float32 or float64.
        ConversionError: operators whose results lie on no grid, by name.
        CalibrationError: the range of the inputs is not known.
        RangeError: the sums of a site would be inexact.
    """
    snn = converted(snn, "tp.quantise")
    settings = bits if isinstance(bits, Quantisation) else Quantisation(bits)
    before = snn.conversion.quantise
    if before == settings:
        return copy.deepcopy(snn)
    if before is not None:
        raise ValueError(f"the network is quantised already ({before}); quantise the one that it was made from")
    return quantised(snn, settings, calibration)


def quantised(snn: SpikingNetwork, settings: Quantisation, calibration: CalibrationData | None) -> SpikingNetwork:
    """See `quantise`, for a network that is not yet; the corrections of its conversion are not made again."""
    conversion = replace(snn.conversion, quantise=settings)
    theta = snn.site(snn.sites[0].name).theta
    if theta.dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f"a quantised network needs float32, this one is {theta.dtype}", where="tp.quantise", fix="call .float()"
        )
    count = len(snn.capture.input_shapes)
    largest = _largest(model_info(snn.network).inputs, calibration, count)
    gm = _copied(snn.network)
    plan = restructure(gm, snn.plan, snn.capture)
    made = SpikingNetwork(gm, plan, conversion, snn.capture).requires_grad_(False).eval()
    made.trained = snn.trained
    graph = GridGraph(gm, plan, _examples(gm, snn.capture))
    with torch.no_grad():
        GridNumbers(graph, settings, snn.schedule, snn.neuron, largest).set()
    made._backend_cache().renew()
    return made


def restructure(gm: fx.GraphModule, plan: Plan, capture: Capture) -> Plan:
    """Gives a planned graph the operators of a quantised network; returns its new plan.

    Raises:
        ConversionError: operators whose results lie on no grid.
    """
    inputs = _examples(gm, capture)
    put_on_grid(gm, plan, inputs)
    calls = [ActivationCall(site.name, site.operator, site.source) for site in plan.sites]
    for site in plan.sites:
        module = gm.get_submodule(site.name)
        theta = gm.get_parameter(f"{site.name}.theta")
        module.unit, module.grid = torch.ones_like(theta.detach()), torch.ones_like(theta.detach())
    planning = make_plan(gm, inputs, calls, capture.leave, capture.max_pooling)
    assert not planning.unsupported, planning.unsupported
    return planning.plan


def _copied(network: fx.GraphModule) -> fx.GraphModule:
    gm = copy.deepcopy(network)
    gm.meta = dict(network.meta)
    return gm


def _examples(gm: fx.GraphModule, capture: Capture) -> tuple[Tensor, ...]:
    """A probing batch of random samples."""
    reference = next(gm.parameters())
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(2, *shape, generator=generator).to(reference) for shape in capture.input_shapes]
    return probing_batch(inputs)


def _largest(spec: InputSpec | None, calibration: CalibrationData | None, count: int) -> list[float]:
    """The largest magnitude of each input: of what its normalisation makes of images, else of the data."""
    if spec is not None and spec.mean and count == 1:
        ends = [abs(value - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True) for value in (0.0, 1.0)]
        return [max(ends)]
    if calibration is None:
        raise CalibrationError(
            "the range of the inputs is not known",
            where="quantising",
            fix="pass calibration=batches of training inputs, or an InputSpec with mean and std as the network's info",
        )
    if not isinstance(calibration, Tensor | Sequence):
        calibration = list(calibration)
    found = [0.0] * count
    for batch in batches_of(calibration):
        for index, tensor in enumerate(inputs_of(batch, count)):
            found[index] = max(found[index], float(tensor.abs().max()))
    return found
