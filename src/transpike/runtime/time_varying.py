"""Inputs that differ from step to step."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, fx

from transpike.errors import ConversionError
from transpike.graph.example_run import ROWS, check_arguments
from transpike.graph.normalize import ActivationCall
from transpike.graph.plan import Plan, make_plan
from transpike.graph.prepare import Capture
from transpike.graph.walk import reference_tensor
from transpike.runtime.encoding import Encoding


def split_frames(
    network: fx.GraphModule, inputs: tuple[Any, ...], steps: Callable[[], int]
) -> tuple[dict[str, Tensor], tuple[Any, ...]]:
    """The frames ``[S, N, *]`` of every argument that varies in time, by name, and all arguments of the first step.

    Args:
        network: the ANN graph with its sites.
        inputs: tensors and encodings.
        steps: gives S; asked for only if an argument varies.

    Raises:
        InputError: too few arguments or too many, too few frames.
    """
    if not any(isinstance(value, Encoding) for value in inputs):
        return {}, inputs
    check_arguments(network, inputs, "SpikingNetwork")
    names = [node.name for node in network.graph.find_nodes(op="placeholder")]
    given = dict(zip(names, inputs, strict=False))  # arguments with defaults may be left out
    frames = {name: value.frames(steps()) for name, value in given.items() if isinstance(value, Encoding)}
    return frames, tuple(frames[name][0] if name in frames else value for name, value in given.items())


def plan_for(network: fx.GraphModule, plan: Plan, capture: Capture, time_varying: Collection[str]) -> Plan:
    """The plan when some arguments differ from step to step.

    Args:
        network: the ANN graph with its sites.
        plan: the plan for constant inputs.
        capture: how the network was captured.
        time_varying: names of the arguments.

    Raises:
        ConversionError: an operator in front of the first neurons cannot take an input that changes.
    """
    reference = reference_tensor(network)
    generator = torch.Generator().manual_seed(0)
    probe = tuple(torch.rand(ROWS, *shape, generator=generator).to(reference) for shape in capture.input_shapes)
    calls = [ActivationCall(site.name, site.operator, site.source) for site in plan.sites]
    planning = make_plan(network, probe, calls, capture.leave, capture.max_pooling, time_varying)
    if planning.unsupported:
        raise ConversionError(planning.unsupported)
    return planning.plan
