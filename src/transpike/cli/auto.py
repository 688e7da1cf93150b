"""What ``transpike convert --auto`` prints."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from torch import nn

    from transpike.graph.operators import MaxPooling
    from transpike.network.spiking import SpikingNetwork


def choose_network(
    out: Console,
    model: nn.Module,
    batches: list[Any],
    *,
    budget: int,
    latency: str,
    methods: str,
    any_events: bool,
    seed: int,
    leave: Collection[str],
    max_pooling: MaxPooling,
) -> SpikingNetwork:
    """The network converted by the best method; prints what was tried, and how to run it."""
    from transpike.conversion.methods import find_methods
    from transpike.neurons import EventKind
    from transpike.report import choice_table
    from transpike.selection.choose import LatencyKind, choose

    choice = choose(
        model,
        batches,
        budget,
        latency=LatencyKind(latency),
        methods=find_methods(methods),
        events=tuple(EventKind) if any_events else (EventKind.BINARY,),
        seed=seed,
        leave=leave,
        max_pooling=max_pooling,
        progress=True,
    )
    out.print(choice_table(choice))
    schedule = choice.network.schedule
    out.print(f"chosen: {choice.ranking[0].method}; run it for T = {choice.steps} under {schedule}", markup=False)
    return choice.network
