"""NIR graphs as spiking networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transpike.conversion.convert import restore
from transpike.errors import CheckpointError, ConfigError, ModelError, TranspikeError
from transpike.graph.prepare import Capture
from transpike.interop.layers import Layer, LayerModule, Op
from transpike.interop.nir_graph import metadata_of, nir_module, unpacked
from transpike.interop.simulate_nir import execution_order, numbers
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF
from transpike.neurons.integrate_fire import Reset
from transpike.rules import Conversion


def from_nir(graph: Any) -> SpikingNetwork:
    """A NIR graph of integrate-and-fire neurons as a spiking network.

    A graph made by `to_nir` comes back bit by bit. One of others is taken as it stands, with soft reset and v(0) = 0.

    Args:
        graph: a ``nir.NIRGraph``, or the path of a file.

    Raises:
        MissingExtraError: nir is not installed.
        CheckpointError: the file is no NIR graph, is damaged, or of a newer version.
        ModelError: the graph has nodes or cycles that converted networks do not have.
    """
    nir = nir_module()
    if isinstance(graph, str | Path):
        try:
            graph = nir.read(graph)
        except Exception as error:  # h5py and nir raise whatever they meet
            raise CheckpointError(f"this is no NIR graph: {error}", where=str(graph), fix="make it again") from error
    about = metadata_of(graph)
    try:
        layers = unpacked(about) if "layers" in about else _layers_of(graph)
        return _network_of(layers, str(about.get("reset", Reset.SOFT.value)))
    except TranspikeError:
        raise
    except Exception as error:  # a file may hold anything
        raise CheckpointError(
            f"the graph cannot become a spiking network: {type(error).__name__}: {error}",
            where="NIR graph",
            fix="make it again with transpike, or give one of Conv2d, Affine, Linear, pooling, Flatten and IF",
        ) from error


def _network_of(layers: Sequence[Layer], reset: str) -> SpikingNetwork:
    model = LayerModule(layers).eval()
    dtype = next((value.dtype for layer in layers for value in layer.tensors.values()), torch.float32)
    inputs = (torch.rand(2, *layers[0].shape, dtype=dtype, generator=torch.Generator().manual_seed(0)),)
    snn = restore(model, inputs, Conversion(neuron=IF(Reset(reset))), Capture(input_shapes=(layers[0].shape,)))
    planned = {site.name.partition("@")[0]: site.name for site in snn.sites}
    for layer in layers:
        if layer.op is Op.SITE:
            site = snn.site(planned[layer.name])
            site.set_threshold(layer.tensors["theta"])
            site.set_initial_potential(layer.tensors["v_init"])
            if layer.tensors["bias"].dim() or layer.tensors["bias"].item():
                site.set_bias(layer.tensors["bias"])
    return snn


def _layers_of(graph: Any) -> list[Layer]:
    """The layers of a graph by others."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(
            f"the graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, and no metadata of ours",
            where="NIR graph",
            fix="give a graph with one of each, or one that to_nir made with source=True",
        )
    layers: list[Layer] = []
    shapes: dict[str, tuple[int, ...]] = {}
    names = {name: f"node_{number}" for number, name in enumerate(execution_order(graph))}

    def add(name: str, op: Op, inputs: tuple[str, ...], shape: tuple[int, ...], **rest: Any) -> str:
        layers.append(Layer(name, op, inputs, shape, **rest))
        shapes[name] = layers[-1].shape
        return name

    for name, short in names.items():
        node = graph.nodes[name]
        kind = type(node).__name__
        inputs = tuple(names[source] for source, target in graph.edges if target == name)
        if len(inputs) > 1:
            inputs = (add(f"{short}_sum", Op.ADD, inputs, shapes[inputs[0]]),)
        shape = tuple(int(size) for size in np.atleast_1d(next(iter(node.output_type.values()))))
        if kind in ("Input", "Output"):
            add(short, Op(kind.lower()), inputs, shape)
        elif kind == "IF":
            theta = _uniform(node.v_threshold)
            if not bool((_tensor(node.r) == 1).all()):
                theta = _uniform(np.asarray(node.v_threshold) / np.asarray(node.r))
            zero = torch.zeros(())
            events = add(
                f"{short}_site", Op.SITE, inputs, shape, tensors={"theta": theta, "v_init": zero, "bias": zero}
            )
            add(short, Op.AFFINE if theta.dim() else Op.SCALE, (events,), shape, **_inverse(theta))
        elif kind in ("Affine", "Linear"):
            tensors = {key: _tensor(getattr(node, key)) for key in ("weight", "bias") if hasattr(node, key)}
            add(short, Op.LINEAR, inputs, shape, tensors=tensors)
        elif kind == "Conv2d":
            padding = _padding(node)
            settings: dict[str, Any] = {key: numbers(getattr(node, key)) for key in ("stride", "dilation")}
            tensors = {key: _tensor(getattr(node, key)) for key in ("weight", "bias")}
            settings |= {"padding": padding, "groups": int(node.groups)}
            add(short, Op.CONV, inputs, shape, tensors=tensors, settings=settings)
        elif kind in ("SumPool2d", "AvgPool2d"):
            settings = {key: numbers(getattr(node, word)) for key, word in _POOLING.items()}
            area = settings["kernel"][0] * settings["kernel"][1]
            pooled = add(f"{short}_pool", Op.POOL, inputs, shape, settings=settings)
            add(short, Op.SCALE, (pooled,), shape, settings={"factor": float(area if kind == "SumPool2d" else 1)})
        elif kind == "Flatten":
            add(short, Op.FLATTEN, inputs, shape)
        else:
            raise ConfigError(f"converted networks have no {kind}", where=f"node {name}", fix="remove the node")
    return layers


_POOLING = {"kernel": "kernel_size", "stride": "stride", "padding": "padding"}


def _inverse(theta: Tensor) -> dict[str, Any]:
    """The layer that makes spikes of 0 and 1 of a site's, which are worth theta."""
    if not theta.dim():
        return {"settings": {"factor": 1 / theta.item()}}
    return {"tensors": {"weight": 1 / theta.flatten(), "bias": torch.zeros(theta.numel())}}


def _padding(node: Any) -> tuple[int, int]:
    if not isinstance(node.padding, str):
        return numbers(node.padding)
    if node.padding == "valid":
        return (0, 0)
    kernel, dilation = node.weight.shape[2:], numbers(node.dilation)
    return (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)


def _tensor(value: Any) -> Tensor:
    return torch.from_numpy(np.array(value, dtype=np.float32))


def _uniform(value: Any) -> Tensor:
    """A threshold per layer where all are the same, else per channel.

    Raises:
        ConfigError: they differ within a channel.
    """
    theta = _tensor(value)
    if bool((theta == theta.flatten()[0]).all()):
        return theta.flatten()[0]
    rows = theta.flatten(1) if theta.dim() > 1 else theta.unsqueeze(1)
    if bool((rows != rows[:, :1]).any()):
        raise ConfigError("thresholds differ within a channel", where="NIR graph", fix="give one per channel")
    return rows[:, 0].reshape(-1, *[1] * (theta.dim() - 1))
