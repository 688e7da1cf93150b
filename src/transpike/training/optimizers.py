"""Optimizers, and what each parameter gets from them."""

from __future__ import annotations

from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from transpike.activations import TrainedActivation
from transpike.graph.site import Site


class Optimizer(Enum):
    """How the weights of an ANN learn.

    ``SGD``: with momentum, as in the papers. ``ADAM``: in steps in proportion to each parameter's size, as in
    `fit_snn`, with weight decay apart from the gradient (AdamW).
    """

    SGD = "sgd"
    ADAM = "adam"


LEARNING_RATES = {Optimizer.SGD: 0.1, Optimizer.ADAM: 0.003}
"""At the start, if none is given."""


def make_optimizer(
    kind: Optimizer, network: nn.Module, learning_rate: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """The optimizer of an ANN; see `transpike.training.fit`."""
    if kind is Optimizer.SGD:
        return torch.optim.SGD(parameter_groups(network, weight_decay), lr=learning_rate, momentum=momentum)
    exempt = _without_decay(network)
    groups = groups_by_size(network, learning_rate)
    for group in groups:  # a step takes lr * weight_decay off a parameter, and lr has its size in it
        (parameter,) = group["params"]
        group["weight_decay"] = 0.0 if id(parameter) in exempt else weight_decay * learning_rate / group["lr"]
    return torch.optim.AdamW(groups, betas=(momentum, 0.999))


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """All trainable parameters with weight decay, except thresholds whose activation says ``decay_theta=False``."""
    exempt = _without_decay(network)
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if id(p) not in exempt], "weight_decay": weight_decay},
        {"params": [p for p in trainable if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _without_decay(network: nn.Module) -> set[int]:
    """Identities of thresholds whose activation says ``decay_theta=False``."""
    return {
        id(parameter)
        for module in network.modules()
        if isinstance(module, TrainedActivation) and not module.config.decay_theta
        for parameter in module.parameters()
    }


def groups_by_size(network: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Every parameter that learns, with a learning rate in proportion to its size: the root mean square at the start.

    Folding BatchNorm leaves layers whose gradients differ a hundredfold in relation to their weights; steps of Adam do
    not depend on the gradient's size. What belongs to a neuron goes by its threshold, zeros by what else is in their
    layer.
    """
    groups: dict[int, dict[str, Any]] = {}
    for module in network.modules():
        sizes = [root_mean_square(parameter) for parameter in module.parameters(recurse=False)]
        for parameter, own in zip(module.parameters(recurse=False), sizes, strict=True):
            size = root_mean_square(module.theta) if isinstance(module, Site) else own or max(sizes) or 1.0
            if parameter.requires_grad:
                groups[id(parameter)] = {"params": [parameter], "lr": learning_rate * size}
    return list(groups.values())


def root_mean_square(values: Tensor) -> float:
    """Size of a parameter."""
    return float(values.detach().square().mean().sqrt())
