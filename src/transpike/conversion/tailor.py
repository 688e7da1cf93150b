"""Makes a network ready for training with a convertible activation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from transpike.activations import ActivationSettings, ThetaPercentile, TrainedActivation
from transpike.calibration.sweep import CalibrationData, batches_of, inputs_of, sweep
from transpike.errors import CalibrationError, ConversionError, UnsupportedOperator
from transpike.graph.capture import CaptureLayer, LeafModules, captured, keep_unused_state, leaf_names, source_of, trace
from transpike.graph.equivalence import check_equivalence
from transpike.graph.example_run import Inputs, check_arguments, check_inputs, inputs_from
from transpike.graph.normalize import (
    ActivationCall,
    functionalize,
    modularize,
    modules_of,
    replace_activations,
)
from transpike.graph.operators import operator_name
from transpike.graph.pooling import average_pools
from transpike.graph.site import Site
from transpike.graph.unwrap import check_weights, unwrapped
from transpike.rules.thresholds.percentile import HistogramPercentile
from transpike.serialization.model_info import model_info, set_model_info

_META = "transpike.tailoring"


@dataclass(frozen=True)
class Tailoring:
    """What `tailor` replaced.

    Attributes:
        activation: the settings of the new activations.
        activations: each replaced call, with its name, operator and source line.
        pools: each max-pooling that became average pooling.
        leaf_modules: submodules, by name, that were not traced into.
        inputs: arguments that had an example input.
        training: the mode in which the model was traced.
        layer: how the model became a graph.
        input_shapes: of one sample of each input, if the graph was made with their sizes.
    """

    activation: ActivationSettings
    activations: tuple[ActivationCall, ...]
    pools: tuple[ActivationCall, ...]
    leaf_modules: tuple[str, ...] = ()
    inputs: int = 0
    training: bool = True
    layer: CaptureLayer = CaptureLayer.SYMBOLIC
    input_shapes: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.activations)} activations -> {self.activation}"]
        lines += [f"  {call.name:<30} {call.operator:<34} {call.source}" for call in self.activations]
        lines += [f"{len(self.pools)} max-poolings -> average pooling"] if self.pools else []
        lines += [f"  {call.name:<30} {call.operator:<34} {call.source}" for call in self.pools]
        return "\n".join(lines)


def tailor(
    model: nn.Module,
    activation: ActivationSettings,
    *,
    leaf_modules: LeafModules = (),
    calibration: CalibrationData | None = None,
    example_inputs: Inputs | None = None,
) -> fx.GraphModule:
    """Replaces every ReLU-like call by its own trainable activation, and max-pooling by average pooling.

    Steps 1 and 2 of the paper's Algorithm 1. The model is traced in the mode (train or eval) it is in; weights are
    copied, the model itself is not changed. Applying it again returns an equal network; plain activations that came
    since are replaced. With data, the traced graph is compared with the model before anything is replaced.

    Args:
        model: a network with ReLU, ReLU6, clamp or clipped activations as modules, functions or methods.
        activation: settings of the activations; every call gets a threshold of its own.
        leaf_modules: submodules, by name or type, that cannot be traced and are kept whole.
        calibration: inputs for ``theta_init=ThetaPercentile(...)``; run through the ReLU network.
        example_inputs: a small batch ``[N, *]``, or a tuple of them for a model with several arguments. Arguments
            with default values that get no input keep their defaults.

    Returns:
        A GraphModule with all state_dict keys of ``model`` and what each activation trains (``theta`` of `SlipReLU`).

    Raises:
        ValueError: the network is tailored already, with other settings; an unknown leaf.
        TraceError: the model cannot be traced.
        ConversionError: a max-pooling with indices or dilation has no average-pooling counterpart.
        CalibrationError: `ThetaPercentile` without data.
        InputError: the example inputs are unusable.
        VerificationError: the graph computes something else than the model.
    """
    model = unwrapped(model, "tailor")
    check_weights(model, "tailor")
    inputs = () if example_inputs is None else inputs_from(example_inputs)
    leaf_modules = leaf_names(model, leaf_modules)
    if inputs:
        check_inputs(inputs, "example_inputs")
    gm = _graph(model, activation, leaf_modules, len(inputs), inputs)
    if example_inputs is not None:
        check_arguments(gm, inputs, "example_inputs")
    elif calibration is not None:
        inputs, calibration = _first_inputs(gm, calibration)
    if inputs:
        check_equivalence(copy.deepcopy(model), copy.deepcopy(gm), inputs)  # in training mode, BatchNorm would learn
    starts = _starting_thresholds(gm, activation, calibration)
    given = 0 if example_inputs is None else len(inputs)
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in inputs[:given])
    return _replace(model, gm, activation, leaf_modules, given, starts, shapes)


def apply_activation(
    model: nn.Module,
    activation: ActivationSettings,
    leaf_modules: Collection[str],
    inputs: int,
    layer: CaptureLayer = CaptureLayer.SYMBOLIC,
    input_shapes: Sequence[Sequence[int]] = (),
) -> fx.GraphModule:
    """The rewriting behind `tailor`, for a model with so many inputs.

    Args:
        model: the model.
        activation: settings of the activations.
        leaf_modules: submodules, by name, that are not traced into.
        inputs: arguments that have an input.
        layer: how the model becomes a graph.
        input_shapes: of one sample of each input, for layers that need them.
    """
    generator = torch.Generator().manual_seed(0)
    like = next(model.parameters(), torch.empty(()))
    examples = [torch.rand(2, *shape, generator=generator).to(like) for shape in input_shapes]
    gm = _graph(model, activation, leaf_modules, inputs, examples, layer)
    return _replace(model, gm, activation, leaf_modules, inputs, {}, input_shapes)


def _graph(
    model: nn.Module,
    activation: ActivationSettings,
    leaf_modules: Collection[str],
    inputs: int,
    examples: Sequence[Tensor] = (),
    layer: CaptureLayer | None = None,
) -> fx.GraphModule:
    """The traced network with a module for every dropout and pooling; its activations are those of the model."""
    gm = trace(model, leaf_modules, inputs, examples=examples, layer=layer)
    _refuse_other_settings(gm, activation)
    functionalize(gm)
    _refuse_functional_batchnorm(gm)
    modularize(gm)
    gm.recompile()
    return gm


def _replace(
    model: nn.Module,
    gm: fx.GraphModule,
    activation: ActivationSettings,
    leaf_modules: Collection[str],
    inputs: int,
    starts: Mapping[str, float],
    input_shapes: Sequence[Sequence[int]] = (),
) -> fx.GraphModule:
    """``starts`` overrides the initial threshold of the activations it names."""
    earlier = tailoring(gm)

    def make(name: str, _: nn.Module) -> nn.Module:
        module = activation.build()
        if name in starts:
            module.start_at(starts[name])
        return module.train(gm.training)

    calls = replace_activations(gm, make, tailored=False)
    set_model_info(gm, model_info(model))
    pools = average_pools(gm)
    gm.delete_all_unused_submodules()
    keep_unused_state(gm, copy.deepcopy(model))  # never the tensors of the source
    gm.graph.lint()
    gm.recompile()
    layer = captured(gm).layer
    shapes = () if layer is CaptureLayer.SYMBOLIC else tuple(map(tuple, input_shapes))
    done = Tailoring(activation, tuple(calls), tuple(pools), tuple(leaf_modules), inputs, gm.training, layer, shapes)
    if earlier is not None:
        done = dataclasses.replace(
            earlier, activations=earlier.activations + done.activations, pools=earlier.pools + done.pools
        )
    gm.meta[_META] = done
    reference = next(model.parameters(), None)
    return gm if reference is None else gm.to(device=reference.device, dtype=reference.dtype)


def _refuse_other_settings(gm: fx.GraphModule, activation: ActivationSettings) -> None:
    """A checkpoint holds the settings of one activation, and nobody expects the old ones to stay."""
    for name, module in gm.named_modules():
        if isinstance(module, TrainedActivation) and module.config != activation:
            raise ValueError(
                f"the network is tailored already: {name!r} is a {module.config}; to have {activation}, tailor the "
                "model it was made from"
            )


def _refuse_functional_batchnorm(gm: fx.GraphModule) -> None:
    """A traced ``F.batch_norm(..., training=self.training)`` would keep its mode, so it cannot be trained."""
    modules = modules_of(gm)
    found = [node for node in gm.graph.nodes if node.target is F.batch_norm]
    if found:
        raise ConversionError(
            [
                UnsupportedOperator(
                    node.name,
                    operator_name(node, modules),
                    source_of(node),
                    "a traced functional BatchNorm keeps the mode it was traced in, so the network cannot be trained",
                    "use nn.BatchNorm modules; or convert the trained ReLU network without tailoring",
                )
                for node in found
            ]
        )


def tailoring(network: nn.Module) -> Tailoring | None:
    """What `tailor` did to this network; None if it is not a tailored network."""
    found = network.meta.get(_META) if isinstance(network, fx.GraphModule) else None
    return found if isinstance(found, Tailoring) else None


def _first_inputs(gm: fx.GraphModule, calibration: CalibrationData) -> tuple[tuple[torch.Tensor, ...], CalibrationData]:
    """Some samples of the first batch, as the model takes them; and the data with that batch still in it."""
    batches = iter(batches_of(calibration))
    first = next(batches, None)
    if first is None:
        return (), calibration
    if batches is calibration:  # an iterator gives a batch only once
        calibration = chain([first], batches)
    reference = next(gm.parameters(), None)
    inputs = inputs_of(first, sum(node.op == "placeholder" for node in gm.graph.nodes))
    check_inputs(inputs, "calibration batch 0")
    return tuple(tensor[:8] if reference is None else tensor[:8].to(reference) for tensor in inputs), calibration


def _starting_thresholds(
    gm: fx.GraphModule, activation: ActivationSettings, calibration: CalibrationData | None
) -> dict[str, float]:
    """Percentiles of the ReLU network's activations at each site; empty for a constant start."""
    if not isinstance(activation.theta_init, ThetaPercentile):
        return {}
    if calibration is None:
        raise CalibrationError(
            "theta_init=ThetaPercentile(...) needs data",
            where="tailor",
            fix="pass calibration=batches of training inputs, or a number as theta_init",
        )
    ann = _evaluation_copy(gm)
    replace_activations(ann, lambda _, module: Site(module), tailored=False)
    ann.recompile()
    statistics: dict[str, HistogramPercentile] = {}
    fraction = activation.theta_init.percentile / 100.0

    def take(name: str, z: torch.Tensor) -> None:
        statistics.setdefault(name, HistogramPercentile(fraction)).update(z.reshape(1, -1))

    sweep(ann, calibration, take)
    return {name: float(value) for name, s in statistics.items() if (value := s.result().item()) > 0}


def _evaluation_copy(gm: fx.GraphModule) -> fx.GraphModule:
    """A copy in evaluation mode, but for BatchNorm that is in training mode and has seen no data.

    That one takes each batch's own statistics, as it will in training: with those that it was made with, activations
    would shrink from layer to layer, and thresholds with them.
    """
    ann = copy.deepcopy(gm).eval()
    for name, module in modules_of(gm).items():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            assert module.running_var is not None
            fresh = not module.running_mean.any() and bool((module.running_var == 1).all())
            modules_of(ann)[name].train(module.training and fresh)
    return ann
