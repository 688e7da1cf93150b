"""What an activation that a network is trained with must provide."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from transpike.serialization.fields import check_fields
from transpike.serialization.words import in_words

THETA_FLOOR = 2.0**-10
"""The smallest threshold the forward pass uses, whatever the optimiser did to the parameter."""


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float in [low, high]; neither NaN nor a truth value passes."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number in [{low:g}, {high:g}], got {value!r}")
    return float(value)


@dataclass(frozen=True)
class ThetaPercentile:
    """Start each threshold at a percentile of the activations that calibration data causes at its site."""

    percentile: float = 99.9

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0.0 < self.percentile <= 100.0:
            raise ValueError(f"percentile must lie in (0, 100], got {self.percentile}")


def check_start(value: float | ThetaPercentile) -> float | ThetaPercentile:
    """A legal ``theta_init``."""
    if isinstance(value, ThetaPercentile):
        return value
    return check_number("theta_init", value, THETA_FLOOR, sys.float_info.max)


class ActivationSettings(ABC):
    """Settings of a trained activation: a frozen record that `transpike.tailor` takes and checkpoints store.

    Attributes:
        theta_init: where the threshold starts.
        decay_theta: whether weight decay acts on what sets the threshold.
    """

    theta_init: float | ThetaPercentile
    decay_theta: bool

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        from transpike.activations import ACTIVATIONS  # the table knows this module

        return in_words(self, ACTIVATIONS)

    @abstractmethod
    def build(self) -> TrainedActivation:
        """Returns the trainable module; with `ThetaPercentile` its threshold waits for the data."""


class TrainedActivation(nn.Module, ABC):
    """A clipped activation with a threshold that is trained; input and output have the same shape.

    `transpike.convert` takes ``theta`` and ``v(0) = shift theta`` from it.

    Args:
        config: the settings, kept as `config` and stored in checkpoints.

    Attributes:
        objective: what it adds to the loss of the batch that went through last, a scalar; None adds nothing.
    """

    config: ActivationSettings
    objective: Tensor | None = None

    def begin_batch(self, index: int) -> None:
        """Says which batch of an epoch comes next, from 0; for activations that do not treat all alike."""
        return

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; the objective of the last batch goes with training."""
        if not mode:
            self.objective = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes over: not the objective, which hangs on the graph of its batch."""
        return self.__dict__ | {"objective": None}

    @property
    @abstractmethod
    def threshold(self) -> Tensor:
        """The threshold that forward uses, above `THETA_FLOOR`."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """Where the neuron starts, in thresholds."""

    @abstractmethod
    def start_at(self, theta: float) -> None:
        """Starts at a threshold that data has shown."""


def keep_positive(theta: Tensor) -> Tensor:
    """``max(theta, THETA_FLOOR)`` whose derivative is one everywhere, so that a threshold can come back."""
    return _KeepPositive.apply(theta)  # type: ignore[no-any-return]


class _KeepPositive(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, theta: Tensor) -> Tensor:
        return theta.clamp_min(THETA_FLOOR)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]
