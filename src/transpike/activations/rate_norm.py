"""The rate norm layer (RNL; Ding et al., IJCAI 2021): a clip at a trained share of the largest activation.

    y = clip(z, 0, theta),    theta = sigmoid(w) m

m follows the largest activation of each training batch, ``m <- (1 - momentum) m + momentum max(relu(z))``, without
a gradient; w is trained, by ``d theta / d w = m sigmoid(w) (1 - sigmoid(w))`` where z is clipped. The spiking network
takes ``V_th = theta`` and, as in the paper, ``v(0) = 0``.

Where it differs: the released code divides the output by theta, ours keeps the units of the ReLU network it came from,
which the next layer's weights make up for. The released code adds 1e-6 to theta, ours holds it above `THETA_FLOOR`. The
paper's second part, training against the rate inference loss, is not here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from transpike.activations.contract import (
    ActivationSettings,
    ThetaPercentile,
    TrainedActivation,
    check_number,
    check_start,
    keep_positive,
)


@dataclass(frozen=True)
class RateNorm(ActivationSettings):
    """Settings of a rate norm layer; `tailor` puts one with its own w and running maximum at every ReLU call.

    Attributes:
        momentum: weight in (0, 1] of a batch's maximum in the running one (0.1 in the released code).
        weight_init: the initial w (10 in the released code, a share of 0.99995; the sigmoid's derivative there is
            4.5e-5, so w moves slowly).
        theta_init: the initial running maximum: a number (1 in the released code), or `ThetaPercentile`, of which 100
            is the largest activation of the calibration data.
        decay_theta: whether weight decay acts on w, as in the released code; it draws the share to one half.
    """

    momentum: float = 0.1
    weight_init: float = 10.0
    theta_init: float | ThetaPercentile = 1.0
    decay_theta: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "momentum", check_number("momentum", self.momentum, sys.float_info.min, 1.0))
        object.__setattr__(self, "weight_init", check_number("weight_init", self.weight_init, -30.0, 30.0))
        object.__setattr__(self, "theta_init", check_start(self.theta_init))

    def build(self) -> RateNormActivation:
        """Returns the trainable module; with `ThetaPercentile` its maximum waits at 1 for the data."""
        return RateNormActivation(self)


class RateNormActivation(TrainedActivation):
    """One rate norm layer; input and output have the same shape.

    Args:
        config: the settings, kept as `config` and stored in checkpoints.
    """

    maximum: Tensor

    def __init__(self, config: RateNorm) -> None:
        super().__init__()
        self.config: RateNorm = config
        start = 1.0 if isinstance(config.theta_init, ThetaPercentile) else config.theta_init
        self.weight = nn.Parameter(torch.tensor(config.weight_init))
        self.register_buffer("maximum", torch.tensor(start))

    @property
    def threshold(self) -> Tensor:
        """``sigmoid(w) m``."""
        return keep_positive(self.maximum * torch.sigmoid(self.weight))

    @property
    def shift(self) -> float:
        """Zero: neurons start empty."""
        return 0.0

    def start_at(self, theta: float) -> None:
        """Starts the running maximum there."""
        self.maximum.fill_(theta)

    def forward(self, z: Tensor) -> Tensor:
        """Clips; in training mode the running maximum moves first."""
        if self.training:  # a new tensor: one that changed in place would spoil the backward of an earlier batch
            largest = z.detach().amax().clamp_min(0.0).to(self.maximum)
            self.maximum = torch.lerp(self.maximum, largest, self.config.momentum)
        return torch.minimum(z.relu(), self.threshold)

    def extra_repr(self) -> str:
        """The numbers, for printing."""
        share = torch.sigmoid(self.weight.detach()).item()
        return f"share={share:.4g}, maximum={self.maximum.item():.4g}, momentum={self.config.momentum:g}"
