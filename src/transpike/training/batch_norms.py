"""BatchNorm over time-steps and samples, behind the layers of a converted network while it is trained."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from transpike.errors import TrainingError
from transpike.evaluation.processes import rank_and_number
from transpike.graph.fold import fuse
from transpike.graph.normalize import modules_of
from transpike.graph.operators import FixedBatchNorm
from transpike.graph.plan import ancestors_of_sites
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import Plain

_MOMENTUM = 0.1
_Layer = nn.Linear | nn.modules.conv._ConvNd


class ThresholdNorms(nn.ModuleDict):
    """Threshold-dependent BatchNorm (tdBN, Zheng et al., AAAI 2021): statistics over all steps and samples of a batch.

    It stands behind convolutions, and linear layers on ``[N, C]``, whose output reaches a site. Left out are layers
    that have no bias, are called several times, share their weights with another layer, or are grouped transposed
    convolutions: BatchNorm could not be folded into them. Scale and shift start as standard deviation and mean of what
    the layer gives in the converted network, where the paper starts at a multiple of the threshold and 0: so the
    network starts as what it is. `attach` and `fold` change between a network that is trained and one that is as a
    user gets it.

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
                "tdBN can stand behind none of the layers in front of the neurons: it takes convolutions, and linear "
                "layers on [N, C], with a bias and weights of their own, called once",
                where="fit_snn, batch_norm",
                fix="leave batch_norm at 'folded'",
                shell_fix="leave --batch-norm at folded",
            )
        self._unfolded: list[tuple[Tensor, Tensor]] = []
        self._hooks: list[RemovableHandle] = []
        self._rows = [rows for _, _, rows in statistics.values()]
        for name, (var, mean, _) in statistics.items():
            norm = FixedBatchNorm(len(mean)).to(mean)
            state = {"running_mean": mean, "running_var": var, "weight": (var + norm.eps).sqrt(), "bias": mean}
            norm.load_state_dict(state, strict=False)
            self[name.replace(".", "/")] = norm  # a module's name has no dots
            _bias(self._layers[name]).requires_grad_(False)

    def attach(self) -> None:
        """Puts BatchNorm behind the layers, which get their unfolded weights back."""
        if self._hooks:
            return
        if self._unfolded:
            for layer, (weight, bias) in zip(self._layers.values(), self._unfolded, strict=True):
                _assign(layer, weight, bias)
            self._unfolded.clear()
        _, processes = rank_and_number()
        for layer, norm, rows in zip(self._layers.values(), self.norms(), self._rows, strict=True):
            self._hooks.append(layer.register_forward_hook(partial(_normalise, norm, rows / processes)))

    def share(self) -> None:
        """Gives every process the running statistics of the first one, so that all fold the same."""
        if rank_and_number()[1] > 1:
            for statistics in self.buffers():
                distributed.broadcast(statistics, 0)

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
        return [norm for norm in self.values() if isinstance(norm, FixedBatchNorm)]


def _normalise(norm: FixedBatchNorm, rows: float, _: nn.Module, __: Any, value: Tensor) -> Tensor:
    """A hook: the value normalised.

    A batch smaller than usual counts for less in the running statistics; one number per channel has no variance, and
    is normalised by them.
    """
    return F.batch_norm(
        value,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        training=norm.training and value.numel() > value.shape[1],
        momentum=_MOMENTUM * min(1.0, value.shape[0] / rows),
        eps=norm.eps,
    )


def _candidates(snn: SpikingNetwork) -> dict[str, _Layer]:
    """By name the layers with a bias and weights of their own, called once, from which a site is reached."""
    modules, graph = modules_of(snn.network), snn.network.graph
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    before = ancestors_of_sites(snn.network, modules)
    owners = Counter(id(p) for module in snn.network.modules() for p in module.parameters(recurse=False))
    found = {}
    for node in graph.nodes:
        layer = modules.get(str(node.target)) if node.op == "call_module" and node in before else None
        if not isinstance(layer, _Layer) or calls[str(node.target)] > 1 or layer.bias is None:
            continue
        if max(owners[id(parameter)] for parameter in layer.parameters()) > 1:
            continue
        if not isinstance(layer, nn.modules.conv._ConvNd) or not layer.transposed or layer.groups == 1:
            found[str(node.target)] = layer  # the others `fuse` cannot fold
    return found


def _statistics(
    snn: SpikingNetwork, layers: dict[str, _Layer], images: Tensor, steps: int
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Variance and mean per channel of what the layers give in T steps, where channels are dimension 1, and rows."""
    found: dict[str, tuple[Tensor, Tensor, int]] = {}

    def watch(name: str) -> Any:
        def hook(layer: _Layer, _: Any, value: Tensor) -> None:
            if value.dim() == (2 if isinstance(layer, nn.Linear) else layer.weight.dim()):
                others = [dim for dim in range(value.dim()) if dim != 1]
                found[name] = (*torch.var_mean(value, others, correction=0), len(value))

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
