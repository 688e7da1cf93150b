"""Whether a run goes event by event, and the engines that are kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        self._kept: dict[Schedule, tuple[list[tuple[Tensor, int]], Engine]] = {}
        self._modules: list[nn.Module] = []

    def clear(self) -> None:
        """Forgets everything but the choice of dense sites."""
        self._kept.clear()
        self._modules.clear()

    def _tensors(self, network: fx.GraphModule) -> list[Tensor]:
        """All parameters and buffers; the list of modules is kept: to make it takes as long as a small network."""
        if not self._modules:
            self._modules = list(network.modules())
        found: list[Tensor] = []
        for module in self._modules:
            found += [tensor for tensor in module._parameters.values() if tensor is not None]
            found += [tensor for tensor in module._buffers.values() if tensor is not None]
        return found

    def refusal(self, network: fx.GraphModule, neuron: Neuron, schedule: Schedule) -> str:
        """Why a network cannot run event by event under a schedule; empty if it can."""
        if native.load()[0] is None:
            return f"the native kernels are not there: {native.load()[1]}"
        if schedule.rule(neuron) is None:
            return f"{schedule} with {neuron} has no compiled form"
        recorded = torch.is_grad_enabled()
        for tensor in self._tensors(network):
            if tensor.device.type != "cpu":
                return "the network is not on the CPU"
            if tensor.is_floating_point() and tensor.dtype != torch.float32:
                return "the network is not in float32"
            if recorded and tensor.requires_grad:
                return "gradients are recorded; run it under torch.no_grad()"
        return ""

    def find(
        self,
        network: fx.GraphModule,
        plan: Plan,
        neuron: Neuron,
        schedule: Schedule,
        shapes: Sequence[Sequence[int]],
        lower: Callable[[], Lowered],
    ) -> tuple[Engine, Rule]:
        """The engine for a schedule.

        Args:
            network: the ANN graph with its sites.
            plan: its plan.
            neuron: the neuron model.
            schedule: one that is not refused.
            shapes: of one sample of each input.
            lower: gives the lowered network.
        """
        rule = schedule.rule(neuron)
        assert rule is not None
        state = [(tensor, tensor._version) for tensor in self._tensors(network)]
        try:
            known = self._kept.get(schedule)
        except TypeError:  # it cannot be hashed, which lowering explains
            known = None
            lower()
        if known is not None and _same(known[0], state):
            return known[1], rule
        probe = [torch.zeros(1, *shape) for shape in shapes]
        found = {node.name: shape for node, shape in shapes_of(network, probe).items() if shape is not None}
        engine = Engine(network, plan, lower(), found, self.dense)
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[schedule] = (state, engine)
        return engine, rule


def _same(old: list[tuple[Tensor, int]], new: list[tuple[Tensor, int]]) -> bool:
    return len(old) == len(new) and all(a is b and i == j for (a, i), (b, j) in zip(old, new, strict=True))
