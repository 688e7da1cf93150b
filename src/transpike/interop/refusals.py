"""What a target cannot take of a network, collected before anything is written."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from transpike.errors import ExportError, UnsupportedOperator
from transpike.graph.capture import source_of
from transpike.graph.normalize import modules_of
from transpike.graph.operators import operator_name
from transpike.graph.plan import Kind, SitePlan
from transpike.graph.walk import reference_tensor
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Reset
from transpike.schedules import Schedule

_WHOLE = "(whole network)"


def quantised(target: str) -> UnsupportedOperator:
    """Why a quantised network has no place in a target."""
    reason = f"{target} has no form for the grids of its inputs and shortcuts"
    return UnsupportedOperator(
        "", "a quantised network", _WHOLE, reason, "export the network that it was made from, or to ONNX"
    )


class Refusals:
    """Collects the reasons why a network cannot be exported to something.

    Args:
        snn: the network.
        target: what it is to be written as, for the message.
    """

    def __init__(self, snn: SpikingNetwork, target: str) -> None:
        self.snn = snn
        self.target = target
        self.found: list[UnsupportedOperator] = []

    def add(self, name: str, reason: str, fix: str, source: str = _WHOLE, node: str = "") -> None:
        """Adds one reason."""
        self.found.append(UnsupportedOperator(node, name, source, reason, fix))

    def raise_if_any(self) -> None:
        """Raises what was found.

        Raises:
            ExportError: there is at least one reason.
        """
        if self.found:
            raise ExportError(self.found, self.target)

    def schedule(self, schedule: Schedule, kinds: tuple[type[Schedule], ...], fix: str) -> None:
        """Refuses all schedules but some."""
        if type(schedule) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            self.add(f"the schedule {schedule}", f"only {names} can be written", fix)

    def neuron(self, resets: Collection[Reset] = (Reset.SOFT,)) -> None:
        """Refuses all neurons but integrate-and-fire with these resets."""
        neuron = self.snn.neuron
        if type(neuron) is not IF or neuron.reset not in resets:
            words = " or ".join(reset.value for reset in resets)
            self.add(
                f"the neuron {neuron}",
                f"only integrate-and-fire with {words} reset can be written",
                "convert with neuron=tp.neurons.IF(), which is what conversion.neuron is by default",
            )

    def off_the_cpu(self) -> None:
        """Refuses networks on another device."""
        device = reference_tensor(self.snn.network).device
        if device.type != "cpu":
            self.add(f"the device {device}", "files are written and checked on the CPU", "call snn.cpu() first")

    def precision(self, kinds: Collection[torch.dtype]) -> None:
        """Refuses networks of another type than these."""
        dtype = reference_tensor(self.snn.network).dtype
        if dtype not in kinds:
            self.add(f"the type {dtype}", f"it is not among {', '.join(map(str, kinds))}", "call snn.float() first")

    def size(self, most: int) -> None:
        """Refuses networks with more bytes of weights."""
        tensors = (*self.snn.network.parameters(), *self.snn.network.buffers())
        size = sum(each.numel() * each.element_size() for each in tensors)
        if size > most:
            self.add("the weights", f"{size:,} bytes do not fit into one file", "write it with tp.to_torch")

    def function_sites(self) -> None:
        """Refuses sites that follow another function than ReLU."""
        for site in self.snn.plan.functions:
            self.site(site, "its neurons follow another function than ReLU", "write it with tp.to_onnx(form='step')")

    def potentials_of_samples(self) -> None:
        """Refuses initial potentials that differ from sample to sample."""
        for site in self.snn.sites:
            if is_per_sample(self.snn, site):
                self.site(
                    site,
                    "its initial potentials belong to the samples of one batch",
                    "set one per neuron: snn.site(name).set_initial_potential(...)",
                )

    def biases_of_steps(self) -> None:
        """Refuses biases that differ from step to step."""
        for site in self.snn.sites:
            if site not in self.snn.plan.functions and not self.snn.site(site.name).steady:
                self.site(site, "its bias differs from step to step", "convert without temporal biases")

    def analogue_readout(self) -> None:
        """Refuses operators behind the last neurons that are not linear, where answers are given step by step."""
        modules = modules_of(self.snn.network)
        plan = self.snn.plan
        for node in self.snn.network.graph.nodes:
            if node.op != "output" and plan.kinds[node.name] is Kind.MEAN and self._nonlinear(node):
                self.add(
                    operator_name(node, modules),
                    "it acts on the mean over time, and answers are given step by step",
                    "take it out of the model and apply it to the mean answer yourself",
                    source_of(node),
                    node.name,
                )

    def _nonlinear(self, node: fx.Node) -> bool:
        names = set(self.snn.plan.analogue)
        return node.name in names or str(node.target) in names

    def site(self, site: SitePlan, reason: str, fix: str) -> None:
        """Adds a reason that concerns a site."""
        self.add("a site", reason, fix, site.source, site.name)


def is_per_sample(snn: SpikingNetwork, site: SitePlan) -> bool:
    """Whether initial potentials are ``[N, C, *]``."""
    v_init: Tensor = snn.site(site.name).v_init
    return v_init.dim() > max(1, len(site.shape))
