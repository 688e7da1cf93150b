"""NIR files: a graph, and beside it the event trains that it must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from transpike.interop.compare_target import run_target
from transpike.interop.lower_layers import INPUT, OUTPUT, START
from transpike.interop.nir_graph import metadata_of, nir_module, nir_target
from transpike.serialization.json_records import write_atomically


def nir_samples(graph: Any, x: Tensor, steps: int) -> Any:
    """Inputs, and the spikes and outputs that a graph made by `to_nir` must give in its target.

    Args:
        graph: the graph.
        x: inputs ``[N, *]``, currents that stay the same.
        steps: T; targets that are late run longer.

    Returns:
        A ``nir.NIRGraphData`` with ``TimeGriddedData`` of shape ``[N, T, neurons]``, dt = 1: of the inputs ``current``,
        of every node of neurons ``spikes`` (their number, where a target sends several), of the output ``current``.
    """
    nir = nir_module()
    run = run_target(graph, x, steps, nir_target(str(metadata_of(graph)["target"])))
    length = len(run.output)

    def gridded(rows: Tensor, kind: type) -> Any:
        return nir.TimeGriddedData(rows.transpose(0, 1).flatten(2).numpy().astype(kind), 1.0)

    def node(name: str, values: Any) -> Any:
        return nir.NIRNodeData({name: values})

    several = any(bool((events > 1).any()) for events in run.events.values())
    nodes = {
        name: node("spikes", gridded(events, np.int32 if several else np.bool_)) for name, events in run.events.items()
    }
    nodes[INPUT] = node("current", gridded(x.detach().cpu().expand(length, *x.shape), np.float32))
    if START in graph.nodes:
        pulse = np.zeros((len(x), length, int(np.prod(graph.nodes[START].input_type["input"]))), np.float32)
        pulse[:, 0] = 1
        nodes[START] = node("current", nir.TimeGriddedData(pulse, 1.0))
    nodes[OUTPUT] = node("current", gridded(run.output, np.float32))
    return nir.NIRGraphData(nodes)


def samples_path(path: Path) -> Path:
    """Where the samples of a graph lie: ``net.samples.nir`` beside ``net.nir``."""
    return path.with_name(f"{path.stem}.samples{path.suffix or '.nir'}")


def write_nir(graph: Any, path: Path | str, samples: Any = None) -> None:
    """Writes a graph, and beside it what `nir_samples` gave; each file appears at once or not at all.

    Raises:
        MissingExtraError: nir is not installed.
        OutputError: a file cannot be written.
    """
    nir = nir_module()
    path = Path(path)
    if samples is not None:
        write_atomically(samples_path(path), lambda temporary: nir.write_data(temporary, samples))
    write_atomically(path, lambda temporary: nir.write(temporary, graph))
