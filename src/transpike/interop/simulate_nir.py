"""Runs a NIR graph by the rules of the simulator that it is for; reads nothing but the graph and the rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transpike.errors import ModelError
from transpike.interop.lower_layers import START
from transpike.interop.targets import FiringRule, NirReset
from transpike.kernels import scan


@dataclass(frozen=True, eq=False)
class NirRun:
    """What happened in a run.

    Attributes:
        events: spikes of each node of neurons, ``[T, N, *]``.
        output: what arrives at the output in each step, ``[T, N, *]``.
    """

    events: dict[str, Tensor]
    output: Tensor

    def answer(self, delay: int = 0) -> Tensor:
        """Running means ``[T - delay, N, *]`` of the output behind the first ``delay`` steps."""
        rows = self.output[delay:]
        counts = torch.arange(1, len(rows) + 1, dtype=rows.dtype, device=rows.device)
        return (rows.cumsum(0) / counts.view(-1, *[1] * (rows.dim() - 1))).flatten(2)


def simulate_nir(graph: Any, x: Tensor, steps: int, rule: FiringRule, dtype: torch.dtype = torch.float32) -> NirRun:
    """Runs a graph layer by layer.

    Args:
        graph: a ``nir.NIRGraph`` without cycles.
        x: the input ``[N, *]``, a current that stays the same.
        steps: how many.
        rule: what a step of its neurons is.
        dtype: the precision of currents and potentials.

    Raises:
        ModelError: the graph has a cycle, or nodes that converted networks do not have.
    """
    values: dict[str, Tensor] = {}
    events: dict[str, Tensor] = {}
    output = None
    x = x.to(dtype)
    for name in execution_order(graph):
        node = graph.nodes[name]
        kind = type(node).__name__
        if kind == "Input":
            values[name] = _input(name, node, x, steps)
            continue
        sources = [values[source] for source, target in graph.edges if target == name]
        drive = sources[0]
        for source in sources[1:]:
            drive = drive + source
        if kind == "Output":
            output = drive.expand(steps, *drive.shape[1:])
        elif kind == "IF":
            values[name] = events[name] = _fire(drive, node, steps, rule)
        else:
            values[name] = _in_time(drive, kind, node)
    if output is None:
        raise ModelError("the graph has no output", where="NIR graph", fix="add a nir.Output")
    return NirRun(events, output)


def execution_order(graph: Any) -> list[str]:
    """Names of the nodes, each behind those that it reads.

    Raises:
        ModelError: there is a cycle, or an edge to a node that is not there.
    """
    before: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for source, target in graph.edges:
        if source not in before or target not in before:
            raise ModelError(f"there is no node for the edge {source} -> {target}", where="NIR graph")
        before[target].add(source)
    order: list[str] = []
    while before:
        ready = [name for name, sources in before.items() if sources <= set(order)]
        if not ready:
            raise ModelError(
                f"the graph has a cycle through {sorted(before)[0]}",
                where="NIR graph",
                fix="give a network without recurrence",
            )
        order += ready
        before = {name: sources for name, sources in before.items() if name not in ready}
    return order


def _input(name: str, node: Any, x: Tensor, steps: int) -> Tensor:
    if name != START:
        return x.unsqueeze(0)
    shape = tuple(int(size) for size in np.atleast_1d(node.input_type["input"]))
    pulse = torch.zeros(steps, len(x), *shape, dtype=x.dtype, device=x.device)
    pulse[0] = 1
    return pulse


def _tensor(value: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(value)).to(like)


def numbers(value: Any) -> tuple[int, int]:
    """A stride, padding or kernel of NIR as two numbers."""
    flat: Iterable[Any] = np.atleast_1d(np.asarray(value)).tolist()
    found = [int(each) for each in flat]
    return (found[0], found[0]) if len(found) == 1 else (found[0], found[1])


def _in_time(drive: Tensor, kind: str, node: Any) -> Tensor:
    """An operator without memory, on all steps at once."""
    flat = drive.flatten(0, 1)
    if kind == "Conv2d":
        padding = node.padding if isinstance(node.padding, str) else numbers(node.padding)
        weight, bias = _tensor(node.weight, drive), _tensor(node.bias, drive)
        flat = F.conv2d(flat, weight, bias, numbers(node.stride), padding, numbers(node.dilation), int(node.groups))
    elif kind == "Affine":
        flat = F.linear(flat, _tensor(node.weight, drive), _tensor(node.bias, drive))
    elif kind == "Linear":
        flat = F.linear(flat, _tensor(node.weight, drive))
    elif kind == "Scale":
        flat = flat * _tensor(node.scale, drive)
    elif kind in ("SumPool2d", "AvgPool2d"):
        kernel = numbers(node.kernel_size)
        divisor = 1 if kind == "SumPool2d" else None
        flat = F.avg_pool2d(flat, kernel, numbers(node.stride), numbers(node.padding), divisor_override=divisor)
    elif kind == "Flatten":
        start, end = int(node.start_dim), int(node.end_dim)
        flat = flat.flatten(start + 1 if start >= 0 else start, end + 1 if end >= 0 else end)
    else:
        raise ModelError(f"converted networks have no {kind}", where="NIR graph", fix="give a graph of IF neurons")
    return flat.reshape(*drive.shape[:2], *flat.shape[1:])


def _fire(drive: Tensor, node: Any, steps: int, rule: FiringRule) -> Tensor:
    drive = drive.expand(steps, *drive.shape[1:]) * _tensor(node.r, drive)
    theta = _tensor(node.v_threshold, drive)
    return scan(lambda v, current: fire(v, current, theta, rule), torch.zeros_like(drive[0]), drive)[1]


def fire(v: Tensor, current: Tensor, theta: Tensor, rule: FiringRule) -> tuple[Tensor, Tensor]:
    """One time-step of a rule: the potential after it, and the number of spikes."""
    u = rule.leak * v + current
    held = theta * (v > theta) if rule.holds_back else torch.zeros_like(u)
    seen = v if rule.late else u - held
    if rule.several:
        count = torch.where(seen > 0, torch.div(seen, theta, rounding_mode="trunc"), 0)
    else:
        count = ((seen > theta) if rule.strict else (seen >= theta)).to(u.dtype)
    after = u - count * theta if rule.reset is NirReset.SUBTRACT else torch.where(count > 0, 0.0, u)
    return torch.maximum(after, -theta) if rule.floor else after, count
