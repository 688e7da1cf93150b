"""The quantised network that an accumulate network equals, as a module for ``torch.onnx.export``.

A site that sums the drive of rho steps before it sends k spikes sends ``k theta / rho`` on the average, with
``k = clip(floor((rho x + v_init) / theta), 0, rho)`` of the mean drive x: a uniform quantiser of rho levels. The
steps of max-pooled running sums add up to the maximum of the means. So the graph of the ANN, with a quantiser in the
place of each activation, gives the answer after rho steps.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.graph.normalize import modules_of
from transpike.graph.operators import MAX_POOL_MODULES, MaxPooling, operator_name
from transpike.graph.plan import Kind
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor
from transpike.interop.refusals import Refusals
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import AccumulateThenFire

MOST_LEVELS = 255
"""The largest rho whose counts fit into uint8."""


def refuse_quantised(refusals: Refusals, form: str) -> None:
    """Collects why a network is no quantised network."""
    snn = refusals.snn
    schedule = snn.schedule
    refusals.schedule(
        schedule,
        (AccumulateThenFire,),
        "convert with tp.methods['accumulate'](steps=T), or write form='step' of a network under Plain",
    )
    refusals.neuron()
    refusals.function_sites()
    refusals.potentials_of_samples()
    refusals.biases_of_steps()
    if form == "quantised" and isinstance(schedule, AccumulateThenFire) and schedule.probe_steps > MOST_LEVELS:
        refusals.add(
            f"the schedule {schedule}",
            f"counts up to {schedule.probe_steps} do not fit into uint8",
            f"take at most {MOST_LEVELS} steps, or form='staircase'",
        )
    if snn.capture.max_pooling is MaxPooling.PER_STEP:
        modules = modules_of(snn.network)
        for node in snn.network.graph.nodes:
            if (
                node.op == "call_module"
                and isinstance(modules[str(node.target)], MAX_POOL_MODULES)
                and snn.plan.kinds[node.name] is Kind.SEQUENCE
            ):
                refusals.add(
                    operator_name(node, modules),
                    "the maximum of each step's spikes is not the maximum of their counts",
                    "convert with max_pooling=MaxPooling.RUNNING, the default",
                    node=node.name,
                )
    if form == "quantised":
        for site in snn.sites:
            if snn.site(site.name).layout != (0, 1) and snn.site(site.name).theta.dim():
                refusals.site(site, "its thresholds belong to channels in another place", "write form='staircase'")


class QuantisedModule(nn.Module):
    """The graph of the ANN with quantisers.

    Args:
        snn: a network under `AccumulateThenFire`.
        form: ``quantised`` or ``staircase``.
    """

    def __init__(self, snn: SpikingNetwork, form: str) -> None:
        super().__init__()
        assert isinstance(snn.schedule, AccumulateThenFire)
        self.network = copy.deepcopy(snn.network)
        rho = snn.schedule.probe_steps
        kind = _Quantiser if form == "quantised" else _Staircase
        self.quantisers = nn.ModuleList(kind(snn.site(site.name), rho) for site in snn.sites)
        self.places = {site.name: place for place, site in enumerate(snn.sites)}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The answers."""

        def quantise(name: str, _: Any, args: tuple[Any, ...]) -> Any:
            return self.quantisers[self.places[name]](args[0])

        answer = NodeVisitor(self.network, on_site=quantise).run(*inputs)
        leaves = pytree.tree_leaves(answer)
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


class _Staircase(nn.Module):
    """``theta / rho * clip(floor((rho (x + b) + v_init) / theta), 0, rho)`` in the order of `expected_count`."""

    def __init__(self, site: Site, rho: int) -> None:
        super().__init__()
        self.site = site
        self.rho = rho

    def forward(self, x: Tensor) -> Tensor:
        site = self.site
        x = site.batch_first(x) if site.layout[0] else x
        x = x + site.bias[0] if site.bias.dim() else x
        count = torch.floor((self.rho * x + site.v_init) / site.theta).clamp(0, self.rho)
        value = (site.theta / self.rho) * count
        return site.batch_back(value) if site.layout[0] else value


class _Quantiser(nn.Module):
    """The same as QuantizeLinear and DequantizeLinear with scale ``theta / rho``.

    ``x + b + (v_init - theta / 2) / rho`` is clipped to [0, theta], so that counts end at rho, and rounded to the
    nearest level; by what the initial potential differs from theta / 2 is added in front.
    """

    theta: Tensor
    scale: Tensor
    zero: Tensor
    shift: Tensor | None

    def __init__(self, site: Site, rho: int) -> None:
        super().__init__()
        theta = site.theta.detach()
        shift = (site.v_init.detach() - theta / 2) / rho
        shift = shift if not site.bias.dim() else shift + site.bias.detach()[0]
        self.register_buffer("theta", theta.clone())
        self.register_buffer("scale", (theta / rho).flatten() if theta.dim() else theta / rho)
        self.register_buffer("zero", torch.zeros_like(self.scale, dtype=torch.uint8))
        self.register_buffer("shift", shift.clone() if bool(shift.any()) else None)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.shift is None else x + self.shift
        x = torch.minimum(x.clamp_min(0.0), self.theta)
        axis: dict[str, Any] = {"axis": 1} if self.scale.dim() else {}
        symbolic, numbers = torch.onnx.ops.symbolic, (self.scale, self.zero)
        counts = symbolic("QuantizeLinear", (x, *numbers), axis, dtype=torch.uint8, shape=x.shape, version=19)
        return symbolic("DequantizeLinear", (counts, *numbers), axis, dtype=x.dtype, shape=x.shape, version=19)
