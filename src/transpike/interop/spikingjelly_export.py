"""A network as modules of SpikingJelly."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from transpike.errors import MissingExtraError
from transpike.graph.normalize import modules_of
from transpike.graph.plan import Kind
from transpike.graph.site import Site
from transpike.graph.walk import site_of
from transpike.interop.refusals import Refusals
from transpike.kernels import Surrogate
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Reset
from transpike.schedules import Plain

_BATCHED = (Kind.STATIC, Kind.SEQUENCE, Kind.MEAN)


def to_spikingjelly(snn: SpikingNetwork, *, surrogate_function: Any = None) -> nn.Module:
    """A copy of a network made of SpikingJelly's neurons (version 2.0 or newer).

    Neurons are `IFNode`s with the thresholds, initial potentials and biases of the sites; layers and their names stay.
    ``functional.set_step_mode``, ``functional.reset_net`` and ``state_dict`` work as for any network of SpikingJelly.
    In step mode ``s``, the one it comes in, a call is one time-step; in ``m`` the inputs are ``[T, N, *]``. What comes
    out is each step's answer, whose mean over time is the network's. Weights record gradients, thresholds do not.

    Args:
        snn: a network under `transpike.schedules.Plain` with integrate-and-fire neurons.
        surrogate_function: SpikingJelly's derivative of the spike, as a function of (u - theta) / theta; None is that
            of the network's own neuron.

    Returns:
        The module, on the network's device; it shares nothing with the network.

    Raises:
        ExportError: the network holds what SpikingJelly does not have.
        MissingExtraError: SpikingJelly is not installed.
    """
    refusals = Refusals(snn, "modules of SpikingJelly")
    refusals.schedule(
        snn.schedule,
        (Plain,),
        "convert with schedule=tp.schedules.Plain(), where all layers step together",
    )
    refusals.neuron((Reset.SOFT, Reset.HARD))
    refusals.function_sites()
    refusals.potentials_of_samples()
    refusals.biases_of_steps()
    refusals.analogue_readout()
    refusals.raise_if_any()
    try:
        from spikingjelly.activation_based import surrogate

        from transpike.interop import spikingjelly_neurons as jelly
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"modules of SpikingJelly need {error.name}, which is not installed", fix="pip install spikingjelly"
        ) from error
    neuron = snn.neuron
    assert isinstance(neuron, IF)
    if surrogate_function is None:
        triangle = neuron.surrogate is Surrogate.TRIANGLE
        surrogate_function = surrogate.PiecewiseQuadratic(1.0) if triangle else surrogate.Rect(1.0)

    def node_of(site: Site) -> nn.Module:
        current = site.bias[0] if site.bias.dim() else None
        v_reset = None if neuron.reset is Reset.SOFT else 0.0
        return jelly.ThresholdIFNode(site.theta, site.v_init, current, v_reset, copy.deepcopy(surrogate_function))

    network = copy.deepcopy(snn.network)
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    modules = modules_of(network)
    graph = fx.Graph()
    steps = graph.placeholder("steps")
    env: dict[fx.Node, fx.Node] = {}

    def in_time(name: str, module: nn.Module, node: fx.Node) -> None:
        """Emits a call of a module that sees time."""
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, module)
        dim = snn.plan.layouts.get(node.name, (0, 1))[0]
        arrives = graph.call_function(jelly.into_time, (env[node.all_input_nodes[0]], steps, dim))
        value = graph.call_module(name, (arrives,))
        if isinstance(module, jelly.ThresholdIFNode):
            value = graph.call_function(torch.mul, (value, graph.get_attr(f"{name}.v_threshold")))
        env[node] = graph.call_function(jelly.out_of_time, (value, steps, dim))

    def answer(source: fx.Node) -> fx.Node:
        held = snn.plan.kinds[source.name] in _BATCHED
        return graph.call_function(jelly.into_time, (env[source], steps, 0)) if held else env[source]

    for node in network.graph.nodes:
        site = site_of(node, modules)
        if node.op == "output":
            graph.output(fx.map_arg(node.args[0], answer))
        elif site is not None:
            in_time(str(node.target), node_of(site), node)
        elif node.name in snn.plan.pools:
            pool = modules[str(node.target)]
            calls = len(network.graph.find_nodes(op="call_module", target=node.target))
            name = str(node.target) if calls == 1 else f"{node.target}@{node.name}"  # each call has sums of its own
            in_time(name, jelly.RunningMaxPool(pool), node)
        else:
            env[node] = graph.node_copy(node, lambda source: env[source])
    return jelly.SpikingJellyNetwork(fx.GraphModule(network, graph, "SpikingJellyGraph"))
