"""Whether a network's weights, thresholds and potentials still are what they were when they were packed."""

from __future__ import annotations

from operator import is_
from typing import Any

from torch import Tensor, nn

from transpike.graph.site import Site


class WeightSnapshot:
    """Parameters and buffers of a network, where their numbers lie and how often these changed in place.

    Those of the source network's activations, which no spiking run reads, are left out. A snapshot is compared before
    every run, when other data have taken its place in the caches of the CPU: it looks at as little as it can.

    Attributes:
        tensors: the parameters and buffers.
    """

    def __init__(self, network: nn.Module) -> None:
        sites = [module for module in network.modules() if isinstance(module, Site)]
        unread = {part for site in sites for part in site.activation.modules()}
        modules = [module for module in network.modules() if module not in unread]
        holders = [holder for module in modules for holder in (module._parameters, module._buffers, module._modules)]
        self._network = network
        self._holders = [holder for holder in holders if holder]
        self._empty = [holder for holder in holders if not holder]
        self._held = self._hold()
        self.tensors = [value for value in self._held if isinstance(value, Tensor)]
        self._storages = [tensor.untyped_storage() for tensor in self.tensors]  # held, so that no other takes its place
        self._places, self._versions = self._look()

    def is_current(self, network: nn.Module) -> bool:
        """Whether the network is the same, and as it was; changes through ``.data`` without new memory are not seen."""
        if network is not self._network or any(self._empty):
            return False
        held = self._hold()
        return (
            len(held) == len(self._held)
            and all(map(is_, held, self._held))
            and self._look() == (self._places, self._versions)
        )

    def _hold(self) -> list[Any]:
        held: list[Any] = []
        for holder in self._holders:
            held.extend(holder.values())
        return held

    def _look(self) -> tuple[list[int], list[int]]:
        places = [tensor.data_ptr() for tensor in self.tensors]
        try:
            return places, [tensor._version for tensor in self.tensors]
        except RuntimeError:  # tensors of inference mode do not count changes
            return places, [0 if tensor.is_inference() else tensor._version for tensor in self.tensors]
