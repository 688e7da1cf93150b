"""The last resort: torch.export, whose ATen operators are written as the functions and methods they came from."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, fx, nn

from transpike.graph.value_tracer import Guard, UnfollowedError


def export_graph(
    model: nn.Module, leaves: Collection[str], examples: Sequence[Tensor]
) -> tuple[fx.Graph, tuple[Guard, ...]]:
    raise UnfollowedError("not yet")
