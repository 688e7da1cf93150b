"""The conversion: a trained network becomes a spiking one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import cast

from torch import fx, nn

from transpike.calibration import CalibrationData
from transpike.conversion.apply import apply_conversion
from transpike.conversion.quantise import restructure
from transpike.errors import ConversionError, UnsupportedOperator
from transpike.graph.capture import LeafModules
from transpike.graph.example_run import Inputs
from transpike.graph.operators import MaxPooling
from transpike.graph.plan import Plan
from transpike.graph.prepare import Capture, check_prepared, prepare
from transpike.graph.site import Site
from transpike.graph.unwrap import check_weights, unwrapped
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import Neuron
from transpike.rules import Conversion, Percentile, PerChannel


def convert(
    model: nn.Module,
    conversion: Conversion | None = None,
    *,
    example_inputs: Inputs,
    calibration: CalibrationData | None = None,
    leave: str | Collection[str] = (),
    leaf_modules: LeafModules = (),
    max_pooling: MaxPooling = MaxPooling.RUNNING,
    progress: bool = False,
) -> SpikingNetwork:
    """Converts a trained network into a spiking one. The source model is not changed.

    Networks trained with SlipReLU activations take ``V_th = theta`` and ``v(0) = delta theta`` from training (paper,
    Algorithm 1, lines 24 to 28), those with `RateNorm` its theta and ``v(0) = 0``. Plain ReLU sites take their
    thresholds from the conversion's threshold rule and calibration data. So do sites of other functions between layers
    with weights (GELU, LayerNorm, softmax, products); they need a schedule of signed digits, or neurons that send
    negative spikes.

    Args:
        model: the network, in the precision it is to run in.
        conversion: rules, corrections, neuron and schedule; a potential rule also overrides a trained shift. None is
            ``Conversion()``. Published ones are in `transpike.methods`: ``methods["accumulate"](steps=4)``.
        example_inputs: a small batch ``[N, *]``, or a list of them; real data finds more mistakes.
        calibration: unlabelled training inputs for threshold rules and corrections: a tensor or batches.
        leave: activations and other functions to keep as they are although they could become sites, by the path of
            their module or of the module that calls them, node name or class name: where no spikes arrive, and behind
            the last neurons, where they act on the running mean. In front of the first layer with weights and behind
            the last one functions are kept without being listed.
        leaf_modules: submodules, by name or type, that are not traced into.
        max_pooling: how max-pooling runs in time; only the default converges to the source network.
        progress: show a progress bar.

    Returns:
        An ``nn.Module`` in evaluation mode whose parameters do not require gradients.

    Raises:
        ModelError: the model is no module, or one that cannot be rewritten, such as a scripted one.
        InputError: a weight is NaN or infinite; or see ``example_inputs``.
        ValueError: ``leave`` or ``leaf_modules`` name nothing in the model.
        TraceError: the model cannot be traced.
        ConversionError: operators do not convert, or activations that the neuron would exceed; all are listed.
        CalibrationError: data is needed and there is none, or a rule fits no site.
        RangeError: the network is to be quantised, and the sums of a site would be inexact.
        VerificationError: the graph computes something else than the model.
    """
    model = unwrapped(model, "convert", exported=True)
    check_weights(model, "convert")
    conversion = Conversion() if conversion is None else conversion
    if not isinstance(conversion, Conversion):
        raise ValueError(f"convert takes a Conversion, not {conversion!r}; for rules in a list: Conversion.of(*rules)")
    prepared = prepare(model, example_inputs, Capture.of(model, leave, leaf_modules, max_pooling))
    network, plan, unsupported = prepared.network, prepared.planning.plan, prepared.planning.unsupported
    if unsupported:
        raise ConversionError(unsupported)
    check_prepared(model, prepared)
    _refuse_functions(plan, conversion)
    conversion = _with_default(network, plan, conversion)
    _refuse_ceilings(network, plan, conversion.neuron)
    snn = SpikingNetwork(network, plan, conversion, prepared.capture).requires_grad_(False).eval()
    return apply_conversion(snn, calibration, progress=progress)


def _refuse_functions(plan: Plan, conversion: Conversion) -> None:
    """Sites of other functions than ReLU need events of either sign, and a schedule that follows any value."""
    reason = conversion.schedule.unsupported_function(conversion.neuron)
    if plan.functions and reason is not None:
        fix = 'pass methods["digits"](steps=6), whose events are signed digits (--method digits --steps 6)'
        raise ConversionError(
            [
                UnsupportedOperator(site.name, site.operator, site.source, f"{site.kind.meaning}, and {reason}", fix)
                for site in plan.functions
            ]
        )


DEFAULT_THRESHOLD = Percentile(99.9, PerChannel())
"""The rule for plain ReLU sites of a conversion that names none."""


def _with_default(network: fx.GraphModule, plan: Plan, conversion: Conversion) -> Conversion:
    sites = [cast("Site", network.get_submodule(site.name)) for site in plan.sites]
    if conversion.threshold is not None or all(site.trained or site.ceiling is not None for site in sites):
        return conversion
    return replace(conversion, threshold=DEFAULT_THRESHOLD)


def _refuse_ceilings(network: fx.GraphModule, plan: Plan, neuron: Neuron) -> None:
    """A neuron that may send several events per step goes beyond the value at which a clipped activation stops."""
    if neuron.most_events <= 1:
        return
    sites = [(site, network.get_submodule(site.name)) for site in plan.sites]
    reason = f"its activation stops at theta, but {neuron} sends up to {neuron.most_events} theta per step"
    fix = "convert with the neuron IF (--neuron if) or SignedIF (--neuron signed), or train the network with plain ReLU"
    found = [
        UnsupportedOperator(site.name, site.operator, site.source, reason, fix)
        for site, module in sites
        if isinstance(module, Site) and (module.trained or module.ceiling is not None)
    ]
    if found:
        raise ConversionError(found)


def restore(model: nn.Module, example_inputs: Inputs, conversion: Conversion, capture: Capture) -> SpikingNetwork:
    """The structure of a converted network without its numbers, for `transpike.load`.

    Raises:
        ConversionError: operators do not convert.
    """
    prepared = prepare(model, example_inputs, capture)
    if prepared.planning.unsupported:
        raise ConversionError(prepared.planning.unsupported)
    network, plan = prepared.network, prepared.planning.plan
    _refuse_functions(plan, conversion)
    if conversion.quantise is not None:
        plan = restructure(network, plan, prepared.capture)
    snn = SpikingNetwork(network, plan, conversion, prepared.capture)
    return snn.requires_grad_(False).eval()
