"""The front end in order: a model becomes one normalised graph with a plan."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor, fx, nn

from transpike.graph.attention_products import attention_as_products
from transpike.graph.capture import CaptureLayer, LeafModules, captured, evaluation_mode, leaf_names, trace
from transpike.graph.decoding import keep_decoding
from transpike.graph.equivalence import check_equivalence
from transpike.graph.example_run import (
    Inputs,
    check_arguments,
    check_guards,
    check_inputs,
    inputs_from,
    probing_batch,
    shapes_of,
)
from transpike.graph.fold import fold_batchnorm
from transpike.graph.function_pass import make_function_sites
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
from transpike.graph.plan import Planning, make_plan, unused_leaves
from transpike.graph.pooling import average_pools, pool_before_activation
from transpike.graph.site import Site
from transpike.serialization.fields import ADDED
from transpike.serialization.model_info import model_info, set_model_info


@dataclass(frozen=True)
class Capture:
    """How a model is captured as a graph, so that the same graph can be made of it again.

    Attributes:
        leave: activations that stay as they are, by module path, node name or class name.
        leaf_modules: names of submodules that are not traced into.
        max_pooling: how max-pooling runs in time.
        input_shapes: of one sample of each input.
        layer: how the model became a graph; None takes the first way that succeeds.
        guards: sizes of the inputs that the graph was made for: index of the input, dimension, size.
    """

    leave: tuple[str, ...] = ()
    leaf_modules: tuple[str, ...] = ()
    max_pooling: MaxPooling = MaxPooling.RUNNING
    input_shapes: tuple[tuple[int, ...], ...] = ()
    layer: CaptureLayer | None = field(default=CaptureLayer.SYMBOLIC, metadata=ADDED)
    guards: tuple[tuple[int, int, int], ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "leave", tuple(sorted(self.leave)))
        object.__setattr__(self, "leaf_modules", tuple(sorted(self.leaf_modules)))
        object.__setattr__(self, "max_pooling", MaxPooling(self.max_pooling))  # from JSON it comes as a word
        object.__setattr__(self, "input_shapes", tuple(tuple(shape) for shape in self.input_shapes))
        object.__setattr__(self, "layer", None if self.layer is None else CaptureLayer(self.layer))
        object.__setattr__(self, "guards", tuple(tuple(guard) for guard in self.guards))

    @classmethod
    def of(
        cls,
        model: nn.Module,
        leave: str | Collection[str] = (),
        leaf_modules: LeafModules = (),
        max_pooling: MaxPooling = MaxPooling.RUNNING,
    ) -> Capture:
        """From what a user gives: one name or several, submodules by name or type.

        Raises:
            ValueError: ``leaf_modules`` names nothing in the model.
        """
        names = (leave,) if isinstance(leave, str) else tuple(leave)
        return cls(names, leaf_names(model, leaf_modules), max_pooling, layer=None)


class Prepared(NamedTuple):
    """What the front end makes of a model.

    Attributes:
        network: the graph, with a `Site` where each activation stood.
        planning: its plan, and what does not convert.
        folded: BatchNorm modules that were folded.
        calls: the activation calls.
        inputs: the example inputs.
        capture: how it was captured, with the shapes of the inputs.
    """

    network: fx.GraphModule
    planning: Planning
    folded: list[str]
    calls: list[ActivationCall]
    inputs: tuple[Tensor, ...]
    capture: Capture


def prepare(model: nn.Module, example_inputs: Inputs, capture: Capture) -> Prepared:
    """Traces, normalises and plans a copy of the model.

    Raises:
        ValueError: ``leave`` names nothing in the model.
        TraceError: the model cannot be traced.
        InputError: the example inputs are unusable.
    """
    inputs = inputs_from(example_inputs)
    leave, max_pooling = capture.leave, capture.max_pooling
    check_inputs(inputs, "example_inputs")
    with evaluation_mode(model):
        leaves, layer = capture.leaf_modules, capture.layer
        gm = trace(model, leaves, len(inputs), examples=inputs, layer=layer, bake=True).eval()
    how = captured(gm)
    check_arguments(gm, inputs, "example_inputs")
    check_guards(how.guards, inputs, "example_inputs")
    set_model_info(gm, model_info(model))
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
    keep_decoding(gm)
    gm.graph.eliminate_dead_code()
    gm.delete_all_unused_submodules()
    gm.graph.lint()
    gm.recompile()
    calls = [call for call in calls if isinstance(modules_of(gm).get(call.name), Site)]
    attention_as_products(gm, probe)
    calls += make_function_sites(gm, probe, leave)
    if reference is not None:
        gm.to(device=reference.device, dtype=reference.dtype)
    planning = make_plan(gm, probe, calls, leave, max_pooling)
    shapes = tuple(tuple(tensor.shape[1:]) for tensor in inputs)
    done = replace(capture, input_shapes=shapes, layer=how.layer, guards=how.guards)
    return Prepared(gm, planning, folded, calls, inputs, done)


def check_prepared(model: nn.Module, prepared: Prepared) -> None:
    """Checks that the graph computes what the model does.

    Raises:
        VerificationError: it computes something else.
    """
    faithful = prepared.network
    if (
        prepared.capture.max_pooling is MaxPooling.AVERAGE
    ):  # differs from the model on purpose; everything else must not
        faithful = prepare(model, prepared.inputs, replace(prepared.capture, max_pooling=MaxPooling.RUNNING)).network
    with evaluation_mode(model):
        check_equivalence(model, faithful, prepared.inputs)
