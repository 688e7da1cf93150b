"""The plain schedule: all layers step together, as in QCFS and SlipReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from transpike.kernels.digits import spikes_towards
from transpike.neurons import EventKind, Neuron
from transpike.schedules.contract import FunctionContext, Memory, Schedule, SiteContext


@dataclass(frozen=True)
class Plain(Schedule):
    """Every neuron integrates and fires at every step from the first on; the answer takes T steps."""

    streamable: ClassVar[bool] = True
    prefix_consistent: ClassVar[bool] = True

    def emit(self, context: SiteContext) -> tuple[Tensor, Memory]:
        """Runs the neuron from where the last chunk left it; the memory is the membrane potential."""
        v = context.start() if context.memory is None else context.memory[0]
        events, v = context.run(context.drive, v)
        return events, (v,)

    def unsupported_function(self, neuron: Neuron) -> str | None:
        """None for neurons with negative spikes."""
        return None if neuron.events is EventKind.SIGNED else f"{neuron} sends no negative spikes"

    def follow(self, context: FunctionContext) -> tuple[Tensor, Memory]:
        """Signed spikes whose sum after t steps follows ``t f``, with f of the means so far; the memory is that sum."""
        low, high = context.bounds()
        values = torch.maximum(torch.minimum(context.values, high), low)
        steps = context.start + torch.arange(1, len(values) + 1, device=values.device)
        targets = values * steps.view(-1, *[1] * (values.dim() - 1)).to(values.dtype)
        sent = torch.zeros_like(values[0]) if context.memory is None else context.memory[0]
        events, sent = spikes_towards(targets, context.theta, sent)
        return events, (sent,)
