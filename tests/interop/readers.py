"""Runs a NIR graph in each simulator as its users do, and records the spikes of every node of neurons."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Run = tuple[dict[str, Tensor], Tensor]
"""Events by node ``[T, N, *]``, and the output ``[T, N, classes]``."""


def _recorded(model: nn.Module, names: set[str], kind: str, step: Callable[[Any], tuple[Any, Any]], steps: int) -> Run:
    """Steps a stateful module, which returns its output and state."""
    events: dict[str, list[Tensor]] = {name: [] for name in names}
    for name, module in model.named_modules():
        if type(module).__name__ == kind and name in names:
            module.register_forward_hook(lambda _m, _i, out, name=name: events[name].append(out[0]))
    outputs, state = [], None
    with torch.no_grad():
        for _ in range(steps):
            output, state = step(state)
            outputs.append(output.flatten(1))
    return {name: torch.stack(each) for name, each in events.items()}, torch.stack(outputs)


def _neurons(graph: Any) -> set[str]:
    return {name for name, node in graph.nodes.items() if type(node).__name__ == "IF"}


def sinabs(graph: Any, x: Tensor, steps: int) -> Run:
    from sinabs.nir import from_nir

    model = from_nir(graph, batch_size=len(x))
    events: dict[str, Tensor] = {}

    def shaped(value: Tensor) -> Tensor:
        return value.unflatten(0, (len(x), steps)).transpose(0, 1)

    for name, module in model.named_modules():
        if name in _neurons(graph):
            module.register_forward_hook(lambda _m, _i, out, name=name: events.__setitem__(name, shaped(out)))
    with torch.no_grad():
        output = model(x.unsqueeze(1).expand(-1, steps, *x.shape[1:]).flatten(0, 1))
    return events, shaped(output[0] if isinstance(output, tuple) else output).flatten(2)


def norse(graph: Any, x: Tensor, steps: int) -> Run:
    import norse.torch

    model = norse.torch.from_nir(graph)
    return _recorded(model, _neurons(graph), "IAFCell", lambda state: model(x, state), steps)


def snntorch(graph: Any, x: Tensor, steps: int) -> Run:
    import nirtorch
    from snntorch.import_nir import _nir_to_snntorch_module

    model = nirtorch.load(graph, _nir_to_snntorch_module)
    return _recorded(model, _neurons(graph), "Leaky", lambda state: model(x, state), steps)


def spikingjelly(graph: Any, x: Tensor, steps: int) -> Run:
    from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

    model = import_from_nir(graph, dt=1.0)
    return _recorded(model, _neurons(graph), "_NIRStatefulModule", lambda state: model(x, state), steps)


def spyx(graph: Any, x: Tensor, steps: int) -> Run:
    import jax.numpy as jnp
    from spyx.nir import from_nir

    last = x.movedim(1, -1) if x.dim() == 4 else x
    frames = jnp.asarray(np.broadcast_to(last.numpy()[None], (steps, *last.shape)))
    model, (output, states) = from_nir(graph, frames, dt=1, return_all_states=True)
    neurons = [layer for layer in model.layers if hasattr(layer, "threshold")]
    potentials = [np.asarray(state) for state in states if state is not None]
    events = {}
    for name, layer, v in zip(sorted(_neurons(graph)), neurons, potentials, strict=True):
        before = np.concatenate([np.zeros_like(v[:1]), v[:-1]])  # it fires by the potential of the step before
        spikes = torch.from_numpy((before > np.asarray(layer.threshold)).astype(np.float32))
        events[name] = spikes.movedim(-1, 2) if spikes.dim() == 5 else spikes
    return events, torch.from_numpy(np.array(output)).flatten(2)


READERS: dict[str, Callable[[Any, Tensor, int], Run]] = {
    "sinabs": sinabs,
    "spyx": spyx,
    "norse": norse,
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
}


def read_and_run(target: str, path: Path, x: Tensor, steps: int) -> Run:
    """Reads the file and runs it."""
    import nir

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return READERS[target](nir.read(path), x, steps)
