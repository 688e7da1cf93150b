"""Whether a run goes event by event, and the engines that are kept for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import fx, nn

from transpike.engine.engine import Engine
from transpike.engine.weights import WeightSnapshot
from transpike.graph.example_run import shapes_of
from transpike.graph.plan import Plan
from transpike.kernels import Rule, native
from transpike.neurons import Neuron
from transpike.runtime.lower import Lowered
from transpike.schedules import Schedule

_KEPT = 4


class Engines:
    """The engines of one network by schedule; packed weights are renewed when the network's have changed.

    Attributes:
        dense: sites whose drive torch operators compute because that was measured to be faster.
    """

    def __init__(self) -> None:
        self.dense: frozenset[str] = frozenset()
        self._kept: dict[Schedule, Engine] = {}
        self._state: WeightSnapshot | None = None
        self._usable = False  # whether type and place of the tensors were found right

    def clear(self) -> None:
        """Forgets the packed weights; the choice of dense sites stays."""
        self._kept.clear()

    def refusal(self, network: nn.Module, neuron: Neuron, schedule: Schedule) -> str:
        """Why the network, as it is now, cannot run event by event under a schedule; empty if it can."""
        if native.load()[0] is None:
            return f"the native kernels are not there: {native.load()[1]}"
        if schedule.rule(neuron) is None:
            return f"{schedule} with {neuron} has no compiled form"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        state = self._look(network)
        if not self._usable:
            for tensor in state.tensors:
                if tensor.device.type != "cpu":
                    return "the network is not on the CPU"
                if tensor.is_floating_point() and tensor.dtype != torch.float32:
                    return "the network is not in float32"
            self._usable = True
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state.tensors):
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
        """The engine for a schedule, for the network as it was at the last `refusal`.

        Args:
            network: the ANN graph with its sites.
            plan: its plan.
            neuron: the neuron model.
            schedule: one that was not refused.
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
        if known is not None:
            return known, rule
        probe = [torch.zeros(1, *shape) for shape in shapes]
        found = {node.name: shape for node, shape in shapes_of(network, probe).items() if shape is not None}
        engine = Engine(network, plan, lower(), found, self.dense, rule.counted)
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[schedule] = engine
        return engine, rule

    def _look(self, network: nn.Module) -> WeightSnapshot:
        """Forgets packed weights that are no longer the network's."""
        if self._state is None or not self._state.is_current(network):
            self._state, self._usable = WeightSnapshot(network), False
            self.clear()
        return self._state
