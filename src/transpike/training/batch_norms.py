"""BatchNorm over time-steps and samples, behind the layers of a converted network while it is trained."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from transpike.errors import TrainingError
from transpike.graph.fold import fuse
from transpike.graph.normalize import modules_of
from transpike.graph.operators import FixedBatchNorm
from transpike.graph.plan import ancestors_of_sites
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import Plain

_Layer = nn.Linear | nn.modules.conv._ConvNd


class ThresholdNorms(nn.ModuleDict):
    """Threshold-dependent BatchNorm (tdBN, Zheng et al., AAAI 2021): statistics over all steps and samples of a batch.

    It stands behind every convolution or linear layer with a bias whose output reaches a site. Scale and shift start
    as standard deviation and mean of what the layer gives in the converted network, where the paper starts at a
    multiple of the threshold and 0: so the network starts as what it is. `attach` and `fold` change between a network
    that is trained and one that is as a user gets it.

    Args:
        snn: the converted network. The layers' own biases, which BatchNorm takes off again, stop learning.
        images: ``[N, *]``, the batch whose statistics are taken at the start.
        steps: T.

    Raises:
        TrainingError: there is no such layer.
    """

    def __init__(self, snn: SpikingNetwork, images: Tensor, steps: int) -> None:
        super().__init__()
        layers = _candidates(snn)
        statistics = _statistics(snn, layers, images, steps)
        self._layers = {name: layers[name] for name in statistics}
        if not self._layers:
            raise TrainingError(
                "there is no convolution or linear layer with a bias in front of the neurons",
                where="fit_snn, batch_norm",
                fix="leave batch_norm at 'folded'",
                shell_fix="leave --batch-norm at folded",
            )
        self._unfolded: list[tuple[Tensor, Tensor]] = []
        self._hooks: list[RemovableHandle] = []
        for name, (var, mean) in statistics.items():
            norm = FixedBatchNorm(len(mean)).to(mean)
            state = {"running_mean": mean, "running_var": var, "weight": (var + norm.eps).sqrt(), "bias": mean}
            norm.load_state_dict(state, strict=False)
            self[name.replace(".", "/")] = norm  # a module's name has no dots
            _bias(self._layers[name]).requires_grad_(False)

    def attach(self) -> None:
        """Puts BatchNorm behind the layers, which get their unfolded weights back."""
        if self._hooks:
            return
        for layer, (weight, bias) in zip(self._layers.values(), self._unfolded, strict=False):
            _assign(layer, weight, bias)
        self._unfolded.clear()
        for layer, norm in zip(self._layers.values(), self.norms(), strict=True):
            self._hooks.append(layer.register_forward_hook(lambda _, __, value, norm=norm: _normalise(norm, value)))

    def fold(self) -> None:
        """Takes BatchNorm off and folds it into the weights; a network that it is not attached to stays as it is."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        for layer, norm in zip(self._layers.values(), self.norms(), strict=True):
            self._unfolded.append((layer.weight.detach().clone(), _bias(layer).detach().clone()))
            folded: Any = fuse(layer, norm)
            _assign(layer, folded.weight, folded.bias)

    def norms(self) -> list[FixedBatchNorm]:
        """One for each layer, in execution order."""
        return list(self.values())  # type: ignore[arg-type]


def _normalise(norm: FixedBatchNorm, value: Tensor) -> Tensor:
    """The value normalised; by the running statistics where there is one number per channel, which has no variance."""
    if norm.training and value.numel() == value.shape[1]:
        return F.batch_norm(value, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(value)  # type: ignore[no-any-return]


def _candidates(snn: SpikingNetwork) -> dict[str, _Layer]:
    """By name the layers with a bias that are called once, and from which a site is reached."""
    modules, graph = modules_of(snn.network), snn.network.graph
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    before = ancestors_of_sites(snn.network, modules)
    found = {}
    for node in graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" and node in before else None
        if not isinstance(layer, _Layer) or calls[str(node.target)] > 1 or layer.bias is None:
            continue
        if not isinstance(layer, nn.modules.conv._ConvNd) or not layer.transposed or layer.groups == 1:
            found[str(node.target)] = layer  # the others `fuse` cannot fold
    return found


def _statistics(
    snn: SpikingNetwork, layers: dict[str, _Layer], images: Tensor, steps: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Variance and mean per channel of what the layers give in T steps, where channels are dimension 1."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(layer: _Layer, _: Any, value: Tensor) -> None:
            if value.dim() == (2 if isinstance(layer, nn.Linear) else layer.weight.dim()):
                found[name] = torch.var_mean(value, [dim for dim in range(value.dim()) if dim != 1], correction=0)

        return hook

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():  # watched, so that no layer runs in the engine and all steps go through at once
            snn(images, steps=steps, schedule=Plain(), observe=lambda *_: None)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _bias(layer: _Layer) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def _assign(layer: _Layer, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        _bias(layer).copy_(bias)
