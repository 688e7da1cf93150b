"""The SlipReLU family (Jiang et al., ICML 2023, eq. 8) with a trainable threshold.

    theta * [ c clip(z/theta + delta1, 0, 1) + (1-c) clip(floor(N z/theta + delta)/N, 0, 1) ]

The floor has no useful derivative, so training uses a surrogate: `Gradient.RELEASED` is what the released code
does (and what made the published numbers), `Gradient.PAPER` is the rule of section 4.3 with its second interval
corrected. Both treat the activation as ``theta * g(z / theta)``, hence ``d/dtheta = g(x) - x g'(x)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

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
from transpike.functional import blend, slip_relu


class Gradient(Enum):
    """Surrogate derivative ``g'(x)`` of the normalised activation, ``x = z / theta``.

    ``RELEASED``: c on ``0 <= x + delta1 <= 1`` plus (1-c) where the staircase before clipping lies in [0, 1]:
    autograd through the clips, with a floor of derivative one. On the margins outside the ramp it is 1 - c. The clips
    have derivative one at 0 and 1 too, as in the torch of the released code and in 2.8; 2.14 has zero there, with which
    that code learns nothing at N = 1, c = 0, and on a third of the range at N = 2.

    ``PAPER``: 1 on ``D1 | D2``, with ``D1 = [-delta1, 1 - delta1]`` and ``D2 = [-delta/N, 1 + (1-delta)/N)``
    in units of theta. Section 4.3 prints ``D2 = [-delta, 1 - delta]``, which forgets that the floor's argument
    is ``N x + delta``.
    """

    RELEASED = "released"
    PAPER = "paper"


@dataclass(frozen=True)
class SlipReLU(ActivationSettings):
    """Settings of a SlipReLU activation; `tailor` puts one activation with its own theta at every ReLU call.

    Attributes:
        levels: N, steps of the staircase (the paper's quasi-latency), at least 1.
        slope: c in [0, 1], weight of the ramp; the spiking network does not use it.
        shift: delta in [-1/2, 1/2]; the neuron starts at ``v(0) = delta * theta``.
        ramp_shift: delta1 in [-1, 1], in units of theta (the released code's ``--shift1`` is ``delta1 * N``).
        gradient: which surrogate derivative training uses.
        theta_init: the initial threshold: a number (8.0 in the released code) or `ThetaPercentile`.
        decay_theta: whether weight decay acts on theta, as in the released code.
    """

    levels: int
    slope: float
    shift: float = 0.5
    ramp_shift: float = 0.0
    gradient: Gradient = Gradient.RELEASED
    theta_init: float | ThetaPercentile = 8.0
    decay_theta: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1:
            raise ValueError(f"levels (N) must be a whole number of at least 1, got {self.levels!r}")
        for name, low, high in (("slope", 0.0, 1.0), ("shift", -0.5, 0.5), ("ramp_shift", -1.0, 1.0)):
            object.__setattr__(self, name, check_number(name, getattr(self, name), low, high))
        object.__setattr__(self, "theta_init", check_start(self.theta_init))

    def build(self) -> SlipActivation:
        """Returns the trainable module; with `ThetaPercentile` its theta waits at 1 for the data."""
        return SlipActivation(self)


def ThresholdReLU(**settings: Any) -> SlipReLU:  # noqa: N802 - a named constructor of a record
    """Threshold ReLU, a trainable clip: ``c = 1, delta1 = 0`` (TCL, Ho & Chang 2021; Deng & Gu 2021).

    Deng & Gu train this and shift the spiking network: ``theta / (2T)`` is added to every layer's drive in each step.
    Over T steps that is ``theta / 2``, so ``convert(ann, HalfThreshold(), ...)`` gives the same count after T steps of
    a constant drive, for every T at once, and never a spike later. `ShiftThresholdReLU` shifts the ANN instead.
    """
    return SlipReLU(**{"levels": 1, "slope": 1.0, "shift": 0.0, "ramp_shift": 0.0, **settings})


def ShiftThresholdReLU(levels: int, **settings: Any) -> SlipReLU:  # noqa: N802
    """Shift-threshold ReLU (RTS): ``c = 1, delta1 = -1/(2N)``, delta = 0, as the SlipReLU paper writes Deng & Gu's.

    The ANN is trained with the shift that a spiking network without shift has at T = N on average: of a constant drive
    it loses ``theta / (2N)``. It converts with ``v(0) = 0``.
    """
    ramp_shift = -0.5 / levels if isinstance(levels, int) and levels > 0 else 0.0  # SlipReLU refuses other levels
    return SlipReLU(levels=levels, **{"slope": 1.0, "shift": 0.0, "ramp_shift": ramp_shift, **settings})


def QCF(levels: int, **settings: Any) -> SlipReLU:  # noqa: N802
    """Quantisation clip-floor: ``c = 0, delta = 0`` (Bu et al. 2022)."""
    return SlipReLU(levels=levels, **{"slope": 0.0, "shift": 0.0, **settings})


def QCFS(levels: int, **settings: Any) -> SlipReLU:  # noqa: N802
    """Quantisation clip-floor-shift: ``c = 0, delta = 1/2`` (Bu et al. 2022)."""
    return SlipReLU(levels=levels, **{"slope": 0.0, "shift": 0.5, **settings})


def SlipReLUMode0(levels: int, slope: float, **settings: Any) -> SlipReLU:  # noqa: N802
    """SlipReLU without shifts, ``delta1 = delta = 0`` (appendix B.2)."""
    return SlipReLU(levels=levels, slope=slope, **{"shift": 0.0, "ramp_shift": 0.0, **settings})


def SlipReLUMode1(levels: int, slope: float, **settings: Any) -> SlipReLU:  # noqa: N802
    """SlipReLU-shift, ``delta1 = 0, delta = 1/2`` (appendix B.2), the setting of all the paper's tables."""
    return SlipReLU(levels=levels, slope=slope, **{"shift": 0.5, "ramp_shift": 0.0, **settings})


class ThetaActivation(TrainedActivation):
    """An activation whose threshold is a parameter, theta.

    Args:
        config: the settings, with ``theta_init`` and ``shift``.
    """

    config: Any

    def __init__(self, config: ActivationSettings) -> None:
        super().__init__()
        self.config = config
        start = config.theta_init if isinstance(config.theta_init, int | float) else 1.0
        self.theta = nn.Parameter(torch.tensor(float(start)))

    @property
    def threshold(self) -> Tensor:
        """The threshold that forward uses: theta, held above `THETA_FLOOR`; its gradient still reaches theta."""
        return keep_positive(self.theta)

    @property
    def shift(self) -> float:
        """Delta."""
        return float(self.config.shift)

    def start_at(self, theta: float) -> None:
        """Sets theta."""
        self.theta.data.fill_(theta)


class SlipActivation(ThetaActivation):
    """One SlipReLU with a trainable threshold; input and output have the same shape.

    Args:
        config: the settings, kept as `config` and stored in checkpoints.
    """

    config: SlipReLU

    def forward(self, z: Tensor) -> Tensor:
        """Applies eq. 8."""
        c = self.config
        return slip(z, self.threshold, c.levels, c.slope, c.shift, c.ramp_shift, c.gradient)

    def extra_repr(self) -> str:
        """The settings, for printing."""
        c = self.config
        return f"N={c.levels}, c={c.slope:g}, delta={c.shift:g}, delta1={c.ramp_shift:g}"


def slip(
    z: Tensor,
    theta: Tensor,
    levels: int,
    slope: float,
    shift: float,
    ramp_shift: float = 0.0,
    gradient: Gradient = Gradient.RELEASED,
) -> Tensor:
    """`transpike.functional.slip_relu` with a surrogate derivative, for training."""
    paper = gradient is Gradient.PAPER
    return _Slip.apply(z, theta, levels, slope, shift, ramp_shift, paper)  # type: ignore[no-any-return]


class _Slip(torch.autograd.Function):
    """Eq. 8 forward, a surrogate backward; saves only its inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        theta: Tensor,
        levels: int,
        slope: float,
        shift: float,
        ramp_shift: float,
        paper: bool,
    ) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.settings = (levels, slope, shift, ramp_shift, paper)
        return slip_relu(z, theta, levels, slope, shift, ramp_shift)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        z, theta = ctx.saved_tensors
        levels, slope, shift, ramp_shift, paper = ctx.settings
        (grad,) = grads
        x = z / theta
        passed = grad * slip_derivative(x, levels, slope, shift, ramp_shift, paper)
        grad_theta = None
        if ctx.needs_input_grad[1]:
            through_value = (grad * blend(x, levels, slope, shift, ramp_shift)).sum_to_size(theta.shape)
            grad_theta = through_value - x.mul_(passed).sum_to_size(theta.shape)
        grad_z = passed if ctx.needs_input_grad[0] else None
        return grad_z, grad_theta, None, None, None, None, None


def slip_derivative(
    x: Tensor, levels: int, slope: float, shift: float, ramp_shift: float = 0.0, paper: bool = False
) -> Tensor:
    """``g'(x)`` of `Gradient`; a side without weight is not computed."""
    sides = []
    if paper or slope > 0.0:
        shifted = x + ramp_shift
        sides.append((shifted >= 0) & (shifted <= 1))
    if paper or slope < 1.0:
        stair = (levels * x).add_(shift).floor_()
        sides.append((stair >= 0) & (stair <= levels))
    if paper:
        return (sides[0] | sides[1]).to(x.dtype)
    if len(sides) == 1:
        return sides[0].to(x.dtype)
    return slope * sides[0].to(x.dtype) + (1.0 - slope) * sides[1].to(x.dtype)
