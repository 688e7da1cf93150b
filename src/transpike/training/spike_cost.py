"""What spikes will cost, as part of a training loss: fewer spikes make a faster network that needs less energy.

The penalty is that of Sorbaro et al. ("Optimizing the energy consumption of spiking neural networks for neuromorphic
applications", Frontiers in Neuroscience 2020): the synaptic operations, counted on the ANN. Here a site's rate is its
activation over its threshold, which is what its neurons come to after many steps, and the sum is divided by what it
would be if every neuron fired at every step, so that it lies in [0, 1] for every network.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from transpike.activations import TrainedActivation
from transpike.errors import TrainingError
from transpike.graph.capture import evaluation_mode
from transpike.graph.operators import argument
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor

_GATHERING = {F.linear, F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d}
_SCATTERING = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}


class SpikeCost:
    """The expected share of synaptic operations at one step, from what passes the activations in training.

    Args:
        network: a tailored network.
        example: one batch ``[N, *]`` on the network's device.

    Raises:
        TrainingError: the network has no trained activation whose output reaches a layer with weights.
    """

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.fan_out = fan_out(network, example)
        total = sum(self.fan_out.values())
        self._rates: list[Tensor] = []
        self._hooks = [
            network.get_submodule(name).register_forward_hook(self._keep(operations / total))
            for name, operations in self.fan_out.items()
        ]

    def _keep(self, share: float) -> Any:
        def hook(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            assert isinstance(module, TrainedActivation)
            if module.training:
                self._rates.append(share * output.mean(dtype=torch.float32) / module.threshold)

        return hook

    def take(self) -> Tensor:
        """The share for the batch that went through last; differentiable."""
        rates, self._rates = self._rates, []
        return torch.stack(rates).sum()

    def remove(self) -> None:
        """Takes the hooks off the network."""
        for hook in self._hooks:
            hook.remove()


def fan_out(network: nn.Module, example: Tensor) -> dict[str, int]:
    """Synaptic operations per sample that each site's spikes ask for if all its neurons fire once.

    A spike costs one operation for every weight that it meets in the layers that its site's output reaches without
    another activation in between. Average pooling hands every spike on: behind one of 2 x 2, a layer costs four times
    its multiplications. Normalisation, pooling and sums themselves are not counted.

    Args:
        network: a tailored network.
        example: one batch ``[N, *]`` on the network's device.

    Returns:
        Operations by the name of the activation, without those that reach no weights.

    Raises:
        TrainingError: there is none.
    """
    found: dict[str, int] = {}
    if isinstance(network, fx.GraphModule):
        with torch.no_grad(), evaluation_mode(network):
            _Count(network, found).run(example)
    if not found:
        raise TrainingError(
            "spikes are penalised at trained activations in front of layers with weights, and there are none",
            where=type(network).__name__,
            fix="train what transpike.tailor returns, or leave spike_penalty at 0",
        )
    return found


class _Count(NodeVisitor):
    """Runs the network, and follows which activations each value is made of."""

    def __init__(self, network: fx.GraphModule, found: dict[str, int]) -> None:
        super().__init__(network, on_node=self._follow)
        self.operations = found
        self.sources: dict[fx.Node, frozenset[str]] = {}
        self.neurons: dict[str, int] = {}

    def _follow(self, n: fx.Node, result: Any) -> None:
        """Adds a layer's operations, if it has weights, to every activation that it reads."""
        sources = frozenset[str]().union(*(self.sources[node] for node in n.all_input_nodes))
        if n.op == "call_module" and isinstance(self.found[str(n.target)], TrainedActivation | Site):
            sources = frozenset([str(n.target)])
            self.neurons[str(n.target)] = result[0].numel()
        elif sources:
            products = self._multiplications(n, result)
            if products:
                values = self.env[n.all_input_nodes[0]][0].numel()
                for name in sorted(sources):  # a value may stand for many neurons, or for those of another site
                    self.operations[name] = self.operations.get(name, 0) + products * self.neurons[name] // values
                sources = frozenset()
        self.sources[n] = sources

    def _multiplications(self, n: fx.Node, result: Any) -> int:
        """Those of one sample, if the node is a layer with weights: one per weight and value that it is applied to."""
        module = self.found[str(n.target)] if n.op == "call_module" else None
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
            weight, scatters = module.weight, getattr(module, "transposed", False)
        elif n.op == "call_function" and n.target in _GATHERING | _SCATTERING:
            weight, scatters = self.env[argument(n, 1, "weight")], n.target in _SCATTERING
        else:
            return 0
        values = self.env[n.all_input_nodes[0]] if scatters else result
        return int(values[0].numel() * weight[0].numel())
