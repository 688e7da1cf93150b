"""Prints a spiking network as a table of its sites."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from transpike.engine.layout import StageReport
from transpike.graph.plan import Plan, kinds_of_sites
from transpike.graph.site import Site


def summary(
    plan: Plan, sites: Mapping[str, Site], neuron: str, stages: Mapping[str, StageReport], reason: str | None
) -> str:
    """A table of the sites: population, drive, thresholds, initial potentials, biases; how stages run.

    Args:
        plan: the plan of the network.
        sites: the modules of the sites by name.
        neuron: what stands in the first line.
        stages: how each stage runs on a CPU, if any runs event by event.
        reason: why none does; else None.
    """
    head = f"{'site':<28} {'kind':<10} {'population':<16} {'drive':<9} {'theta':<22} {'v_init/theta':<14} bias/theta"
    lines = [
        f"{kinds_of_sites(plan)}, {sum(site.neurons for site in plan.sites):,} neurons, {neuron}",
        head,
        "-" * len(head),
    ]
    for site in plan.sites:
        module = sites[site.name]
        ratio = _range(module.v_init / module.theta)
        drive = "constant" if site.constant_drive else "spikes"
        shape = "x".join(str(size) for size in site.shape)
        bias = _range(module.bias / module.theta)
        kind = site.kind.value
        lines.append(f"{site.name:<28} {kind:<10} {shape:<16} {drive:<9} {_range(module.theta):<22} {ratio:<14} {bias}")
    if reason is not None:
        lines.append(f"runs dense: {reason}")
    else:
        lines.append(f"stages that run event by event: {sum(stage.events for stage in stages.values())}")
        lines += [f"  {name} runs dense: {stage.reason}" for name, stage in stages.items() if not stage.events]
    if plan.pools:
        lines.append(f"max-pooling as temporal operator: {', '.join(plan.pools)}")
    if plan.analogue:
        lines.append(f"kept analogue: {', '.join(plan.analogue)}")
    return "\n".join(lines)


def _range(values: Tensor) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g}" if low == high else f"{low:.4g} .. {high:.4g}"
