"""Ramps for staircases, while it is found out whether two computations are the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from transpike.activations import TrainedActivation


@contextmanager
def ramps(*networks: nn.Module) -> Iterator[None]:
    """Every trained activation of the networks clips at zero and at its threshold, and has no stairs.

    Sums over another batch size, or with folded weights, are rounded otherwise; in front of a step of a staircase that
    changes the value by a whole level, which looks as if the networks differed or samples were mixed.
    """
    activations = {
        module for network in networks for module in network.modules() if isinstance(module, TrainedActivation)
    }
    own = {each: each.__dict__["forward"] for each in activations if "forward" in each.__dict__}  # wrappers that watch
    for activation in activations:
        activation.__dict__["forward"] = partial(_clip, activation)
    try:
        yield
    finally:
        for activation in activations:
            del activation.__dict__["forward"]
            if activation in own:
                activation.__dict__["forward"] = own[activation]


def _clip(activation: TrainedActivation, z: Tensor) -> Tensor:
    return torch.minimum(z.clamp_min(0.0), activation.threshold)
