"""One time-step of a lowered network as a module, and the state it carries."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.graph.lower import Lowered
from transpike.graph.probe import Inputs, inputs_from
from transpike.schedules import Memory


class State(NamedTuple):
    """Everything a network remembers between two calls of `SpikingNetwork.step`; a value, never changed in place.

    Attributes:
        steps: number of steps made, a whole-number tensor without dimensions.
        memory: per site, temporal operator and readout, its tensors.
    """

    steps: Tensor
    memory: tuple[Memory, ...]

    def select(self, samples: Tensor) -> State:
        """The state of some samples of the batch, to go on with these alone: every memory is ``[N, *]``.

        Args:
            samples: their positions in the batch, whole numbers ``[M]``; give the next step these samples' inputs.
        """
        chosen = tuple(tuple(tensor.index_select(0, samples) for tensor in memory) for memory in self.memory)
        return State(self.steps, chosen)


class Stepper(nn.Module):
    """One time-step as a plain module, for ``torch.compile`` and ``torch.export``: ``(x, state) -> (y, state)``."""

    def __init__(self, lowered: Lowered) -> None:
        super().__init__()
        self.prologue = lowered.prologue
        self.body = lowered.body
        self.memories = len(lowered.stateful)

    def forward(self, x: Inputs, state: State | None = None) -> tuple[Any, State]:
        """See `SpikingNetwork.step`."""
        inputs = inputs_from(x)
        if state is None:
            start = torch.zeros((), dtype=torch.int64, device=inputs[0].device)
            memory: tuple[Memory | None, ...] = (None,) * self.memories
        else:
            start, memory = state
        statics = self.prologue(*inputs)
        answer, new_memory = self.body(inputs[0].shape[0], 1, start, *memory, *statics)
        return pytree.tree_map_only(Tensor, lambda rows: rows.squeeze(0), answer), State(start + 1, new_memory)
