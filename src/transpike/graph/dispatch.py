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
        self._kept: dict[Schedule, tuple[_State, Engine]] = {}

    def clear(self) -> None:
        """Forgets everything but the choice of dense sites."""
        self._kept.clear()

    def refusal(self, network: fx.GraphModule, neuron: Neuron, schedule: Schedule) -> str:
        """Why a network cannot run event by event under a schedule; empty if it can."""
        if native.load()[0] is None:
            return f"the native kernels are not there: {native.load()[1]}"
        if schedule.rule(neuron) is None:
            return f"{schedule} with {neuron} has no compiled form"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        recorded = torch.is_grad_enabled()
        for tensor in _tensors(network):
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
        state = [(tensor, tensor.data_ptr(), _version(tensor)) for tensor in _tensors(network)]
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


_State = list[tuple[Tensor, int, int]]


def _tensors(network: nn.Module) -> list[Tensor]:
    """All parameters and buffers. Asked before every run, so without the bookkeeping of ``network.parameters()``."""
    found: list[Tensor] = []
    modules: list[nn.Module | None] = [network]
    while modules:
        module = modules.pop()
        if module is not None:
            found += [tensor for tensor in module._parameters.values() if tensor is not None]
            found += [tensor for tensor in module._buffers.values() if tensor is not None]
            modules += module._modules.values()
    return found


def _version(tensor: Tensor) -> int:
    """Counts changes in place; tensors of inference mode do not count them."""
    return 0 if tensor.is_inference() else tensor._version


def _same(old: _State, new: _State) -> bool:
    return len(old) == len(new) and all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(old, new, strict=True))
