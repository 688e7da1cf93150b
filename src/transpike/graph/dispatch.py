"""Whether a run goes event by event, and the engines that are kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any

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
        self._state: Snapshot | None = None
        self._usable: Snapshot | None = None  # tensors whose type and place were found right

    def clear(self) -> None:
        """Forgets everything but the choice of dense sites."""
        self._kept.clear()

    def state(self, network: nn.Module) -> Snapshot:
        """The network as it is now; the same object as long as nothing has changed."""
        if self._state is None or not self._state.holds():
            self._state = Snapshot(network)
        return self._state

    def refusal(self, state: Snapshot, neuron: Neuron, schedule: Schedule) -> str:
        """Why a network in this `state` cannot run event by event under a schedule; empty if it can."""
        if native.load()[0] is None:
            return f"the native kernels are not there: {native.load()[1]}"
        if schedule.rule(neuron) is None:
            return f"{schedule} with {neuron} has no compiled form"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        if self._usable is not state:
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
            state: of the network (`state`).
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
        if known is not None and known[0] is state:
            return known[1], rule
        probe = [torch.zeros(1, *shape) for shape in shapes]
        found = {node.name: shape for node, shape in shapes_of(network, probe).items() if shape is not None}
        engine = Engine(network, plan, lower(), found, self.dense, rule.counted)
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[schedule] = (state, engine)
        return engine, rule


class Snapshot:
    """All parameters and buffers of a network, where their numbers lie and how often these changed in place.

    It is compared before every run, when other data have taken its place in the cache: what it reads is kept short.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = list(network.modules())
        kinds = [kind for module in modules for kind in (module._parameters, module._buffers, module._modules)]
        self.holders = [kind for kind in kinds if kind]
        self.held = self._held()
        self.tensors = [value for value in self.held if isinstance(value, Tensor)]
        self.places, self.versions = self._places(), self._versions()

    def holds(self) -> bool:
        """Whether the network still is what it was."""
        held = self._held()
        return (
            len(held) == len(self.held)
            and all(map(is_, held, self.held))
            and self._places() == self.places
            and self._versions() == self.versions
        )

    def _held(self) -> list[Any]:
        held: list[Any] = []
        for holder in self.holders:
            held.extend(holder.values())
        return held

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.tensors]

    def _versions(self) -> list[int]:
        try:
            return [tensor._version for tensor in self.tensors]
        except RuntimeError:  # tensors of inference mode do not count changes
            return [0 if tensor.is_inference() else tensor._version for tensor in self.tensors]
