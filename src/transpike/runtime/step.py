"""One time-step of a lowered network as a module, and the state it carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.errors import StateError
from transpike.graph.example_run import Inputs, inputs_from
from transpike.runtime.lower import Lowered
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


def check_state(state: State, owners: Sequence[str], batch: int) -> None:
    """Checks that a state may go on.

    Args:
        state: what the user gave.
        owners: the names of what has a memory in this network.
        batch: number of samples of the input.

    Raises:
        StateError: it belongs to another network or batch size.
    """
    if not isinstance(state, State):
        raise StateError(f"a State is expected, not {type(state).__name__}", fix="pass what step returned, or None")
    if len(state.memory) != len(owners):
        raise StateError(
            f"the state has {len(state.memory)} memories, this network {len(owners)}",
            fix="use the state that this network's step returned",
        )
    for owner, memory in zip(owners, state.memory, strict=True):
        for tensor in memory:
            if tensor.shape[0] != batch:
                raise StateError(
                    f"the state is for {tensor.shape[0]} samples, the input has {batch}",
                    where=owner,
                    fix="start a new state (None) for each batch",
                )


class Stepper(nn.Module):
    """One time-step as a plain module, for ``torch.compile`` and ``torch.export``: ``(x, state) -> (y, state)``.

    Attributes:
        stateful: names of the nodes that own the memories, in order.
    """

    def __init__(self, lowered: Lowered) -> None:
        super().__init__()
        self.prologue = lowered.prologue
        self.body = lowered.body
        self.stateful = lowered.stateful

    def forward(self, x: Inputs, state: State | None = None) -> tuple[Any, State]:
        """See `SpikingNetwork.step`."""
        inputs = inputs_from(x)
        if state is None:
            start = torch.zeros((), dtype=torch.int64, device=inputs[0].device)
            memory: tuple[Memory | None, ...] = (None,) * len(self.stateful)
        else:
            start, memory = state
        statics = self.prologue(*inputs)
        answer, new_memory = self.body(inputs[0].shape[0], 1, start, *memory, *statics)
        return pytree.tree_map_only(Tensor, lambda rows: rows.squeeze(0), answer), State(start + 1, new_memory)
