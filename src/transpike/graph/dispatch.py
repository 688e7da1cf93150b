"""Whether a run goes event by event, and the engines that are kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from transpike.graph.engine import Engine
from transpike.graph.lower import Lowered
from transpike.graph.plan import Plan
from transpike.graph.probe import shapes_of
from transpike.kernels import Rule, native
from transpike.neurons import Neuron
from transpike.schedules import Schedule

_KEPT = 4


class Engines:
    """The engines of one network by schedule; packed weights are renewed when the network's have changed.

    Attributes:
        dense: sites whose drive torch operators compute because that was measured to be faster.
    """

    def __init__(self) -> None:
        self.dense: frozenset[str] = frozenset()
        self._kept: dict[Schedule, tuple[Snapshot, Engine]] = {}
        self._usable: Snapshot | None = None  # tensors whose type and place were found right

    def clear(self) -> None:
        """Forgets everything but the choice of dense sites."""
        self._kept.clear()

    def refusal(self, state: Snapshot, neuron: Neuron, schedule: Schedule) -> str:
        """Why a network with this `Snapshot` cannot run event by event under a schedule; empty if it can."""
        if native.load()[0] is None:
            return f"the native kernels are not there: {native.load()[1]}"
        if schedule.rule(neuron) is None:
            return f"{schedule} with {neuron} has no compiled form"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        if self._usable is None or not _same(self._usable, state):
            for tensor in state.tensors:
                if tensor.device.type != "cpu":
                    return "the network is not on the CPU"
                if tensor.is_floating_point() and tensor.dtype != torch.float32:
                    return "the network is not in float32"
            self._usable = state
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state.tensors):
            return "gradients are recorded; run it under torch.no_grad()"
        return ""

    def find(
        self,
        network: fx.GraphModule,
        state: Snapshot,
        plan: Plan,
        neuron: Neuron,
        schedule: Schedule,
        shapes: Sequence[Sequence[int]],
        lower: Callable[[], Lowered],
    ) -> tuple[Engine, Rule]:
        """The engine for a schedule.

        Args:
            network: the ANN graph with its sites.
            state: of the network, as it is now.
            plan: its plan.
            neuron: the neuron model.
            schedule: one that is not refused.
            shapes: of one sample of each input.
            lower: gives the lowered network.
        """
        rule = schedule.rule(neuron)
        assert rule is not None
        try:
            known = self._kept.get(schedule)
        except TypeError:  # it cannot be hashed, which lowering explains
            known = None
            lower()
        if known is not None and _same(known[0], state):
            return known[1], rule
        probe = [torch.zeros(1, *shape) for shape in shapes]
        found = {node.name: shape for node, shape in shapes_of(network, probe).items() if shape is not None}
        engine = Engine(network, plan, lower(), found, self.dense, rule.counted)
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[schedule] = (state, engine)
        return engine, rule


class Snapshot(NamedTuple):
    """All parameters and buffers, with where their numbers lie and how often these changed in place."""

    tensors: list[Tensor]
    types: list[torch.dtype]
    marks: list[int]


def snapshot(network: nn.Module) -> Snapshot:
    """Asked for before every run, so without the bookkeeping of ``network.parameters()``."""
    found: list[Tensor | None] = []
    modules: list[nn.Module | None] = [network]
    for module in modules:  # grows on the way
        if module is not None:
            found.extend(module._parameters.values())
            found.extend(module._buffers.values())
            modules.extend(module._modules.values())
    tensors = [tensor for tensor in found if tensor is not None]
    # tensors of inference mode do not count changes
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    return Snapshot(tensors, [tensor.dtype for tensor in tensors], places + versions)


def _same(old: Snapshot, new: Snapshot) -> bool:
    return old[1:] == new[1:] and all(map(is_, old.tensors, new.tensors))
