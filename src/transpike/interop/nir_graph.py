"""Networks to NIR graphs and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from transpike.errors import CheckpointError, ConfigError, known_words, needs_extra
from transpike.interop.chain import as_chain
from transpike.interop.layers import Layer, Op
from transpike.interop.lower_layers import OUTPUT, Node, lower_layers
from transpike.interop.read_network import read_network
from transpike.interop.targets import NIR_TARGETS, NirTarget, Topology
from transpike.network.spiking import SpikingNetwork, converted
from transpike.neurons import IF
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
        return nir.IF(r=ones, v_threshold=arrays["v_threshold"], v_reset=0 * ones)
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
            key = f"a{len(arrays):05d}"
            held[name] = (key, tuple(value.shape))
            arrays[key] = np.atleast_1d(value.cpu().numpy())  # HDF5 does not compress scalars
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


def unpacked(about: Mapping[str, Any]) -> list[Layer]:
    """The layers that `to_nir` wrote into a graph's metadata."""
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
