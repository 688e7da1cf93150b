"""SlipReLU whose slope c and number of levels N are learned at every site (SlipReLU paper, section 6.4, appendix I).

The paper leaves that to future work; a grid over (c, N) trains one network for each pair, with the same pair at all
sites. Here one training serves several T: each batch is trained for one of them, with the c and the N that a site has
for this T. c is the sigmoid of a parameter. N is one of some candidates: the forward pass takes the one with the
largest weight, the backward pass the softmax of all weights (a straight-through choice). Both follow the labels, and
at every site eq. 5 of the paper:

    objective_penalty * ( w E|relu(z) - f(z)| + (1 - w) E|f(z) - Q_T(z)| ) / theta

Q_T is what T steps of constant drive send, eq. 7. Weights in front of a site follow the labels alone; its theta
follows both. As c falls, the activation goes from the ramp to the staircase, which with few levels hardly learns from
the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transpike.activations.contract import (
    ActivationSettings,
    ThetaPercentile,
    check_number,
    check_start,
)
from transpike.activations.slip import ThetaActivation, slip, slip_derivative
from transpike.functional import clip_floor, ramp

_MEASURED = 16
"""Samples of a batch from which eq. 5 is taken."""


@dataclass(frozen=True)
class LearnedSlipReLU(ActivationSettings):
    """Settings of SlipReLU activations that learn their slope and their number of levels.

    Attributes:
        steps: every T that the spiking network should be good at.
        objective_weight: w of eq. 5 in [0, 1]: 1 stays close to ReLU, 0 close to the spiking network.
        objective_penalty: how much eq. 5 adds to the loss, for each site.
        candidates: for N.
        slope_init: c at the start, between 0 and 1. N starts at the candidate closest to T.
        shift: delta in [-1/2, 1/2]; the neuron starts at ``v(0) = delta * theta``.
        theta_init: the initial threshold: a number or `ThetaPercentile`.
        decay_theta: whether weight decay acts on theta and on what decides c and N.
    """

    steps: tuple[int, ...] = (1, 2, 4)
    objective_weight: float = 0.1
    objective_penalty: float = 3.0
    candidates: tuple[int, ...] = (1, 2, 4, 8)
    slope_init: float = 0.5
    shift: float = 0.5
    theta_init: float | ThetaPercentile = 8.0
    decay_theta: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "candidates"):
            numbers = sorted(set(getattr(self, name)))
            if not numbers or numbers[0] < 1:
                raise ValueError(f"{name} must hold whole numbers of at least 1, got {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(numbers))
        if not 0.0 < self.slope_init < 1.0:
            raise ValueError(f"slope_init must lie between 0 and 1, got {self.slope_init!r}")
        for name, low, high in (("objective_weight", 0.0, 1.0), ("objective_penalty", 0.0, 1e6), ("shift", -0.5, 0.5)):
            object.__setattr__(self, name, check_number(name, getattr(self, name), low, high))
        object.__setattr__(self, "theta_init", check_start(self.theta_init))

    def build(self) -> LearnedSlipActivation:
        """Returns the trainable module; with `ThetaPercentile` its theta waits at 1 for the data."""
        return LearnedSlipActivation(self)


class LearnedSlipActivation(ThetaActivation):
    """One SlipReLU that learns theta, c and N; input and output have the same shape.

    In evaluation mode it is the activation of the largest T.

    Args:
        config: the settings, kept as `config` and stored in checkpoints.

    Attributes:
        steps: the T that the next batch is trained for, one of the settings'; `begin_batch` takes turns.
    """

    config: LearnedSlipReLU

    def __init__(self, config: LearnedSlipReLU) -> None:
        super().__init__(config)
        logit = math.log(config.slope_init / (1 - config.slope_init))
        self.slope_logits = nn.Parameter(torch.full((len(config.steps),), logit))
        near = [[abs(candidate - t) for candidate in config.candidates] for t in config.steps]
        own = [distances.index(min(distances)) for distances in near]
        self.level_logits = nn.Parameter(torch.eye(len(config.candidates))[own])
        self.steps = config.steps[-1]

    @property
    def learned(self) -> dict[int, tuple[int, float]]:
        """N and c by T."""
        slopes = torch.sigmoid(self.slope_logits.detach()).tolist()
        levels = [self.config.candidates[index] for index in self.level_logits.detach().argmax(1).tolist()]
        return dict(zip(self.config.steps, zip(levels, slopes, strict=True), strict=True))

    def begin_batch(self, index: int) -> None:
        """Takes the T of the settings in turn."""
        self.steps = self.config.steps[index % len(self.config.steps)]

    def forward(self, z: Tensor) -> Tensor:
        """Applies eq. 8 with the c and N of one T; in training mode, `objective` becomes eq. 5 of this batch."""
        row = self.config.steps.index(self.steps) if self.training else -1
        theta, slope = self.threshold, torch.sigmoid(self.slope_logits[row])
        chances = torch.softmax(self.level_logits[row], 0)
        if self.training:
            self.objective = self._objective(z.detach()[:_MEASURED], theta, slope, chances)
        return self._slip(z, theta, slope, chances)

    def _slip(self, z: Tensor, theta: Tensor, slope: Tensor, chances: Tensor) -> Tensor:
        return _LearnedSlip.apply(z, theta, slope, chances, self.config.candidates, self.config.shift)  # type: ignore[no-any-return]

    def _objective(self, z: Tensor, theta: Tensor, slope: Tensor, chances: Tensor) -> Tensor:
        own, w = self._slip(z, theta, slope, chances), self.config.objective_weight
        deviation = (z.clamp_min(0.0) - own).abs().mean(dtype=torch.float32)
        sent = slip(z, theta, self.steps, 0.0, self.config.shift)
        conversion = (own - sent).abs().mean(dtype=torch.float32)
        return self.config.objective_penalty * (w * deviation + (1 - w) * conversion) / theta.detach()

    def extra_repr(self) -> str:
        """What has been learned, for printing."""
        learned = "; ".join(f"T={t}: N={levels}, c={slope:.3g}" for t, (levels, slope) in self.learned.items())
        return f"{learned}; delta={self.shift:g}"


class _LearnedSlip(torch.autograd.Function):
    """Eq. 8 with the likeliest N forward; backward also for c and for the chances of all N."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, theta: Tensor, slope: Tensor, chances: Tensor, levels: tuple[int, ...], shift: float
    ) -> Tensor:
        ctx.save_for_backward(z, theta, slope, chances)
        ctx.settings = (levels, shift)
        x = z / theta
        return theta * torch.lerp(clip_floor(x, levels[int(chances.argmax())], shift), ramp(x), slope)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, theta, slope, chances = ctx.saved_tensors
        levels, shift = ctx.settings
        (grad,) = grads
        x = z / theta
        number = int(chances.argmax())
        stairs = [clip_floor(x, each, shift) for each in levels]
        sloped = ramp(x)
        passed = grad * torch.lerp(
            slip_derivative(x, levels[number], 0.0, shift), slip_derivative(x, levels[number], 1.0, shift), slope
        )
        value = torch.lerp(stairs[number], sloped, slope)
        grad_theta = (grad * value).sum() - (x * passed).sum()
        grad_slope = theta * (grad * (sloped - stairs[number])).sum()
        grad_chances = theta * (1 - slope) * torch.stack([(grad * stair).sum() for stair in stairs])
        return passed, grad_theta, grad_slope, grad_chances, None, None
