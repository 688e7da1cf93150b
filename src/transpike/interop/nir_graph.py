"""Networks to NIR graphs and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transpike.conversion.convert import restore
from transpike.errors import CheckpointError, ConfigError, ModelError, TranspikeError, known_words, needs_extra
from transpike.graph.prepare import Capture
from transpike.interop.chain import as_chain
from transpike.interop.layers import Layer, LayerModule, Op
from transpike.interop.lower_layers import OUTPUT, Node, lower_layers
from transpike.interop.read_network import read_network
from transpike.interop.simulate_nir import execution_order, numbers
from transpike.interop.targets import NIR_TARGETS, NirTarget, Topology
from transpike.network.spiking import SpikingNetwork, converted
from transpike.neurons import IF
from transpike.neurons.integrate_fire import Reset
from transpike.rules import Conversion
from transpike.serialization.fields import check_count

_KEY = "transpike"
"""All our metadata lies under this key of the graph's."""
_FORMAT = 1


def nir_module() -> Any:
    """The package nir.

    Raises:
        MissingExtraError: it is not installed.
    """
    with needs_extra("nir", "the exchange of networks by NIR"):
        import nir
    return nir


def nir_target(name: str) -> NirTarget:
    """A row of the table of targets.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in NIR_TARGETS:
        raise ConfigError(f"NIR has no target {name!r} here", where="target", fix=known_words(name, NIR_TARGETS))
    return NIR_TARGETS[name]


def to_nir(snn: SpikingNetwork, *, target: str = "plain", steps: int | None = None, source: bool = True) -> Any:
    """A converted network as a NIR graph for one simulator.

    BatchNorm, factors of pooling and, where the target wants it, thresholds are folded into weights; v(0) comes by a
    second input or in equal parts with every step's bias. What the target's neurons do otherwise than ours is not
    mended: `compare_with_target` says what it costs.

    Args:
        snn: the network.
        target: who reads the graph, a name of `transpike.interop.NIR_TARGETS`.
        steps: T, for targets that get v(0) with the biases.
        source: put the network's own numbers into the metadata, so that `from_nir` gives it back bit by bit; the file
            grows by its weights.

    Returns:
        A ``nir.NIRGraph`` for one sample and one step, in float32.

    Raises:
        MissingExtraError: nir is not installed.
        ConfigError: there is no such target.
        ExportError: something in the network cannot be expressed; all reasons are listed.
        ValueError: the target needs ``steps``.
    """
    nir = nir_module()
    row = nir_target(target)
    snn = converted(snn, "to_nir")
    if steps is not None:
        steps = check_count("steps", steps)
    layers = read_network(snn, row.name)
    nodes = lower_layers(layers, row, steps)
    if row.topology is Topology.CHAIN:
        nodes = as_chain(nodes, row)
    made = {node.name: _nir_node(nir, node) for node in nodes}
    edges = [(name, node.name) for node in nodes for name in node.inputs]
    about: dict[str, Any] = {
        "format": _FORMAT,
        "target": row.name,
        "rule": str(row.rule),
        "reset": _reset_of(snn),
        "steps": steps or 0,
        "delay": row.rule.delay * _depth(nodes),
        "sites": json.dumps({node.name: dict(node.parts) for node in nodes if node.parts}),
    }
    if source:
        about.update(_packed(layers))
    return nir.NIRGraph(made, edges, metadata={_KEY: about})


def _reset_of(snn: SpikingNetwork) -> str:
    assert isinstance(snn.neuron, IF)
    return snn.neuron.reset.value


def _depth(nodes: Sequence[Node]) -> int:
    """Layers of neurons on the longest way to the output."""
    depth: dict[str, int] = {}
    for node in nodes:
        depth[node.name] = max((depth[name] for name in node.inputs), default=0) + (node.kind == "IF")
    return depth[OUTPUT]


def _nir_node(nir: Any, node: Node) -> Any:
    arrays = {name: value.float().numpy() for name, value in node.arrays.items()}
    shape = np.array(node.shape)
    if node.kind == "Input":
        return nir.Input({"input": shape})
    if node.kind == "Output":
        return nir.Output({"output": shape})
    if node.kind == "IF":
        ones = np.ones_like(arrays["v_threshold"])
        return nir.IF(r=ones, v_threshold=arrays["v_threshold"], v_reset=arrays["v_reset"])
    if node.kind == "Affine":
        return nir.Affine(weight=arrays["weight"], bias=arrays["bias"])
    if node.kind == "Flatten":
        return nir.Flatten({"input": np.array(node.settings["of"])}, start_dim=0, end_dim=-1)
    pairs = {name: value if name == "groups" else tuple(value) for name, value in node.settings.items()}
    if node.kind == "Conv2d":
        return nir.Conv2d(input_shape=None, weight=arrays["weight"], bias=arrays["bias"], **pairs)
    cls = getattr(nir, node.kind)
    return cls(
        kernel_size=np.array(pairs["kernel"]), stride=np.array(pairs["stride"]), padding=np.array(pairs["padding"])
    )


def _packed(layers: Sequence[Layer]) -> dict[str, Any]:
    """Layers as JSON, and their tensors as arrays beside it."""
    arrays: dict[str, Any] = {}
    rows = []
    for layer in layers:
        held = {}
        for name, value in layer.tensors.items():
            held[name] = [f"a{len(arrays):05d}", list(value.shape)]
            arrays[held[name][0]] = np.atleast_1d(value.cpu().numpy())  # HDF5 does not compress scalars
        rows.append(
            {
                "name": layer.name,
                "op": layer.op.value,
                "inputs": layer.inputs,
                "shape": layer.shape,
                "settings": dict(layer.settings),
                "label": layer.label,
                "tensors": held,
            }
        )
    return {"layers": json.dumps(rows), "arrays": arrays}


def _unpacked(about: Mapping[str, Any]) -> list[Layer]:
    arrays = about["arrays"]
    return [
        Layer(
            str(row["name"]),
            Op(row["op"]),
            tuple(row["inputs"]),
            tuple(row["shape"]),
            {name: torch.from_numpy(np.array(arrays[k])).reshape(shape) for name, (k, shape) in row["tensors"].items()},
            {name: tuple(value) if isinstance(value, list) else value for name, value in row["settings"].items()},
            str(row["label"]),
        )
        for row in json.loads(about["layers"])
    ]


def metadata_of(graph: Any) -> dict[str, Any]:
    """What we wrote into a graph's metadata; empty for graphs of others.

    Raises:
        CheckpointError: a newer version of transpike wrote it.
    """
    about = dict((graph.metadata or {}).get(_KEY, {}))
    if about and int(about.get("format", 0)) > _FORMAT:
        raise CheckpointError(
            f"the graph's metadata has format {about['format']}, this version of transpike reads {_FORMAT}",
            where="NIR graph",
            fix="upgrade transpike",
        )
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in about.items()}


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
        layers = _unpacked(about) if "layers" in about else _layers_of(graph)
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

    def add(name: str, op: Op, inputs: tuple[str, ...], shape: Sequence[int], **rest: Any) -> str:
        layers.append(Layer(name, op, inputs, tuple(int(size) for size in shape), **rest))
        shapes[name] = layers[-1].shape
        return name

    for name, short in names.items():
        node = graph.nodes[name]
        kind = type(node).__name__
        inputs = tuple(names[source] for source, target in graph.edges if target == name)
        if len(inputs) > 1:
            inputs = (add(f"{short}_sum", Op.ADD, inputs, shapes[inputs[0]]),)
        shape = np.atleast_1d(next(iter(node.output_type.values())))
        if kind in ("Input", "Output"):
            add(short, Op(kind.lower()), inputs, shape)
        elif kind == "IF":
            theta = _uniform(node.v_threshold)
            if not bool((_tensor(node.r) == 1).all()):
                theta = _uniform(np.asarray(node.v_threshold) / np.asarray(node.r))
            zero = torch.zeros(())
            events = add(f"{short}_site", Op.SITE, inputs, shape, tensors={"theta": theta, "v_init": zero, "bias": zero})
            add(short, Op.AFFINE if theta.dim() else Op.SCALE, (events,), shape, **_inverse(theta))
        elif kind in ("Affine", "Linear"):
            tensors = {key: _tensor(getattr(node, key)) for key in ("weight", "bias") if hasattr(node, key)}
            add(short, Op.LINEAR, inputs, shape, tensors=tensors)
        elif kind == "Conv2d":
            padding = _padding(node)
            settings = {key: numbers(getattr(node, key)) for key in ("stride", "dilation")}
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
