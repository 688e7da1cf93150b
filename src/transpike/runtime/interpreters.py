"""Runs a graph node by node and reports what happens at its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from transpike.errors import RangeError
from transpike.graph.function_site import FunctionSite
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor
from transpike.runtime.runners import SiteRunner

Observer = Callable[[str, Tensor, Tensor], None]
"""Called per site and chunk with its name, drive ``[S, N, *]`` and events ``[S, N, *]``."""

Count = Callable[[str, Tensor], None]
"""Called once per site and pass, passes in order, with its name and the spikes of each step: whole numbers ``[S]``,
all samples together."""


def refuse_overflow(site: str, drive: Tensor, events: Tensor) -> None:
    """An observer that finds where numbers left their range.

    Raises:
        RangeError: a drive is infinite or NaN.
    """
    if not bool(torch.isfinite(drive).all()):
        raise RangeError(
            f"a drive is NaN or infinite in {drive.dtype}, although weights and inputs are finite",
            where=f"site {site}",
            fix="scale the inputs or the weights down"
            + (", or run the network in float32" if drive.dtype == torch.float16 else ""),
        )


def observing(body: fx.GraphModule, observe: Observer) -> Callable[..., Any]:
    """Runs a lowered body like itself and reports every site."""

    def run(name: str, runner: SiteRunner, args: tuple[Any, ...]) -> Any:
        return runner.run(lambda drive, events: observe(runner.name, drive, events), *args)

    return NodeVisitor(body, on_site=run, kind=SiteRunner).run


def run_clipped(
    network: fx.GraphModule,
    inputs: tuple[Tensor, ...],
    most_events: int,
    observe: Callable[[str, Tensor], None] | None = None,
) -> Any:
    """Runs the ANN graph with ``clip(z, 0, most_events * theta)`` at every site, which is reported."""

    def clip(name: str, site: Site, args: tuple[Any, ...]) -> Tensor:
        drive = site(*args) if isinstance(site, FunctionSite) else args[0]
        value = site.clipped(drive, most_events)
        if observe is not None:
            observe(name, value)
        return value

    return NodeVisitor(network, on_site=clip).run(*inputs)
