"""The conversion: a trained network becomes a spiking one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from transpike.calibration import CalibrationData
from transpike.conversion.apply import apply_parts
from transpike.errors import ConversionError, Obstacle, VerificationError
from transpike.graph.capture import LeafModules, evaluation_mode, leaf_names, trace
from transpike.graph.equivalence import check_parity
from transpike.graph.example_run import Inputs, check_arguments, check_inputs, inputs_from, probing_batch, shapes_of
from transpike.graph.fold import fold_batchnorm
from transpike.graph.normalize import (
    ActivationCall,
    functionalize,
    modularize,
    modularize_batchnorm,
    modules_of,
    remove_dropout,
    replace_activations,
)
from transpike.graph.operators import MaxPooling
from transpike.graph.plan import Plan, Planning, make_plan, unused_leaves
from transpike.graph.pooling import average_pools, pool_before_activation
from transpike.graph.site import Site
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Neuron
from transpike.rules import Part
from transpike.serialization.model_info import card_of, set_card


class _Prepared(NamedTuple):
    network: fx.GraphModule
    planning: Planning
    folded: list[str]
    calls: list[ActivationCall]
    inputs: tuple[Tensor, ...]
    leave: tuple[str, ...]
    leaf_modules: tuple[str, ...]

    @property
    def record(self) -> dict[str, Any]:
        """What `restore` needs to know."""
        return {
            "leave": sorted(self.leave),
            "leaf_modules": sorted(self.leaf_modules),
            "example_shapes": [list(tensor.shape[1:]) for tensor in self.inputs],
        }


@dataclass(frozen=True)
class Inspection:
    """What a conversion would do, before anything is converted.

    Attributes:
        model: class name of the model.
        plan: sites, stages and kinds of values.
        obstacles: operators that stand in the way; empty if the model converts.
        folded: BatchNorm modules that are folded into the layer in front of them.
        calls: the activation calls, with their source lines.
    """

    model: str
    plan: Plan
    obstacles: tuple[Obstacle, ...]
    folded: tuple[str, ...]
    calls: tuple[ActivationCall, ...]

    @property
    def convertible(self) -> bool:
        """Whether `convert` would succeed."""
        return not self.obstacles

    def __str__(self) -> str:
        lines = [
            f"{self.model}: {'converts' if self.convertible else 'does not convert'}, {len(self.plan.sites)} sites, "
            f"{sum(site.neurons for site in self.plan.sites):,} neurons, {len(self.folded)} BatchNorm folded"
        ]
        for site in self.plan.sites:
            shape = "x".join(str(size) for size in site.shape)
            drive = "constant drive" if site.constant_drive else "spikes"
            lines.append(f"  {site.name:<30} {shape:<14} {drive:<15} {site.operator:<32} {site.source}")
        if self.plan.pools:
            lines.append(f"max-pooling as temporal operator: {', '.join(self.plan.pools)}")
        if self.plan.analogue:
            lines.append(f"kept analogue: {', '.join(self.plan.analogue)}")
        if self.obstacles:
            lines.append("in the way:")
            lines += [f"  - {obstacle}" for obstacle in self.obstacles]
        return "\n".join(lines)


def inspect(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    leave: str | Collection[str] = (),
    leaf_modules: LeafModules = (),
    max_pooling: MaxPooling = MaxPooling.RUNNING,
) -> Inspection:
    """Lists what `convert` would make of a model: sites, what stays analogue, and everything in the way.

    Args:
        model: the trained network; it is not changed.
        example_inputs: a small batch ``[N, *]``, or a tuple of them for a model with several arguments.
        leave: operators to keep as they are, see `convert`.
        leaf_modules: submodules, by name or type, that are not traced into.
        max_pooling: how max-pooling is to run in time.

    Raises:
        TraceError: the model cannot be traced at all.
        InputError: the example inputs are unusable.
    """
    prepared = _prepare(model, example_inputs, leave, leaf_modules, max_pooling)
    plan, obstacles = prepared.planning.plan, prepared.planning.obstacles
    if not obstacles:
        try:
            _verify(model, prepared, max_pooling)
        except VerificationError as error:
            obstacles = (Obstacle("output", type(model).__name__, "(whole model)", error.what, error.fix),)
    return Inspection(type(model).__name__, plan, obstacles, tuple(prepared.folded), tuple(prepared.calls))


def convert(
    model: nn.Module,
    parts: Part | Sequence[Part] = (),
    *,
    example_inputs: Inputs,
    calibration: CalibrationData | None = None,
    leave: str | Collection[str] = (),
    leaf_modules: LeafModules = (),
    neuron: Neuron | None = None,
    max_pooling: MaxPooling = MaxPooling.RUNNING,
    progress: bool = False,
) -> SpikingNetwork:
    """Converts a trained network into a spiking one. The source model is not changed.

    Networks trained with SlipReLU activations take ``V_th = theta`` and ``v(0) = delta theta`` from training (paper,
    Algorithm 1, lines 24 to 28), those with `RateNorm` its theta and ``v(0) = 0``. Plain ReLU sites take their
    thresholds from a `ThresholdRule` and calibration data; a clipped ReLU without a rule takes its ceiling.

    Args:
        model: the network, in the precision it is to run in.
        parts: a part or several: at most one threshold rule and one rule for initial potentials (default for ReLU
            sites: `HalfThreshold`; a potential rule given here also overrides the trained shift), and calibrations,
            which run one after the other.
        example_inputs: a small batch ``[N, *]``, or a list of them; real data finds more mistakes.
        calibration: unlabelled training inputs for threshold rules and calibrations: a tensor or batches.
        leave: operators to keep as they are, by module path, node name or class name. Legal where no spikes arrive,
            and behind the last activation, where they act on the running mean.
        leaf_modules: submodules, by name or type, that are not traced into.
        neuron: the neuron model; None is `IF` with soft reset.
        max_pooling: how max-pooling runs in time; only the default converges to the source network.
        progress: show a progress bar.

    Returns:
        An ``nn.Module`` in evaluation mode whose parameters do not require gradients.

    Raises:
        ValueError: ``leave`` or ``leaf_modules`` name nothing in the model, or two parts do the same.
        TraceError: the model cannot be traced.
        ConversionError: operators stand in the way, or activations that the neuron would exceed; all are listed.
        CalibrationError: thresholds are needed and there is no rule or no data, or the rule fits no site.
        VerificationError: the graph computes something else than the model.
    """
    parts = (parts,) if isinstance(parts, Part) else tuple(parts)
    prepared = _prepare(model, example_inputs, leave, leaf_modules, max_pooling)
    network, planning = prepared.network, prepared.planning
    if planning.obstacles:
        raise ConversionError(planning.obstacles)
    _verify(model, prepared, max_pooling)
    neuron = IF() if neuron is None else neuron
    _refuse_ceilings(network, planning.plan, neuron)
    record = prepared.record | {"parts": parts, "max_pooling": max_pooling}
    snn = SpikingNetwork(network, planning.plan, neuron, record).requires_grad_(False).eval()
    apply_parts(snn, parts, calibration, progress=progress)
    return snn


def _refuse_ceilings(network: fx.GraphModule, plan: Plan, neuron: Neuron) -> None:
    """A neuron that may send several events per step goes beyond the value at which a clipped activation stops."""
    if neuron.most_events <= 1:
        return
    sites = [(site, network.get_submodule(site.name)) for site in plan.sites]
    reason = f"its activation stops at theta, but {neuron} sends up to {neuron.most_events} theta per step"
    fix = "convert with IF or SignedIF, or train the network with plain ReLU"
    found = [
        Obstacle(site.name, site.operator, site.source, reason, fix)
        for site, module in sites
        if isinstance(module, Site) and (module.trained or module.ceiling is not None)
    ]
    if found:
        raise ConversionError(found)


def restore(
    model: nn.Module,
    example_inputs: Inputs,
    leave: Collection[str],
    leaf_modules: Collection[str],
    neuron: Neuron,
    max_pooling: MaxPooling,
) -> SpikingNetwork:
    """The structure of a converted network without its numbers, for `transpike.load`."""
    prepared = _prepare(model, example_inputs, leave, leaf_modules, max_pooling)
    if prepared.planning.obstacles:
        raise ConversionError(prepared.planning.obstacles)
    snn = SpikingNetwork(
        prepared.network, prepared.planning.plan, neuron, prepared.record | {"max_pooling": max_pooling}
    )
    return snn.requires_grad_(False).eval()


def _prepare(
    model: nn.Module,
    example_inputs: Inputs,
    leave: str | Collection[str],
    leaf_modules: LeafModules,
    max_pooling: MaxPooling,
) -> _Prepared:
    """Traces, normalises and plans a copy of the model."""
    inputs = inputs_from(example_inputs)
    leave = (leave,) if isinstance(leave, str) else tuple(leave)
    leaf_modules = leaf_names(model, leaf_modules)
    check_inputs(inputs, "example_inputs")
    with evaluation_mode(model):
        gm = trace(model, leaf_modules, len(inputs), bake=True).eval()
    check_arguments(gm, inputs, "example_inputs")
    set_card(gm, card_of(model))
    functionalize(gm)
    modularize(gm)
    modularize_batchnorm(gm)
    kept = set(leave)

    def make(name: str, activation: nn.Module) -> nn.Module:
        named = {name, name.split("@")[0], type(activation).__name__}
        return activation if named & kept else Site(activation)

    reference = next(gm.parameters(), None)
    calls = replace_activations(gm, make, tailored=True)
    unknown = unused_leaves(leave, gm, calls)
    if unknown:
        raise ValueError(f"leave names no operator of the model: {', '.join(unknown)}")
    remove_dropout(gm)
    if reference is not None:
        gm.to(device=reference.device, dtype=reference.dtype)
    probe = probing_batch(inputs)
    folded = fold_batchnorm(gm, shapes_of(gm, probe))
    if max_pooling is MaxPooling.RUNNING:
        pool_before_activation(gm, lambda module: isinstance(module, Site), shapes_of(gm, probe))
    elif max_pooling is MaxPooling.AVERAGE:
        average_pools(gm)
    gm.graph.eliminate_dead_code()
    gm.delete_all_unused_submodules()
    gm.graph.lint()
    gm.recompile()
    calls = [call for call in calls if isinstance(modules_of(gm).get(call.name), Site)]
    planning = make_plan(gm, probe, calls, leave, max_pooling)
    return _Prepared(gm, planning, folded, calls, inputs, leave, leaf_modules)


def _verify(model: nn.Module, prepared: _Prepared, max_pooling: MaxPooling) -> None:
    """Checks that the graph computes what the model does."""
    faithful = prepared.network
    if max_pooling is MaxPooling.AVERAGE:  # differs from the model on purpose; everything else must not
        faithful = _prepare(model, prepared.inputs, prepared.leave, prepared.leaf_modules, MaxPooling.RUNNING).network
    with evaluation_mode(model):
        check_parity(model, faithful, prepared.inputs)
