"""Inputs that differ from step to step. A plain tensor ``[N, *]`` is a constant current."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from transpike.errors import InputError


class Encoding(ABC):
    """Gives one frame per time-step."""

    @abstractmethod
    def frames(self, steps: int) -> Tensor:
        """The first ``steps`` frames, ``[steps, N, *]``."""


@dataclass(frozen=True, eq=False)
class FrameSequence(Encoding):
    """Frames that are there already, for example from an event camera.

    Attributes:
        values: ``[T, N, *]``, time first.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.values, Tensor) or self.values.dim() < 2:
            raise InputError(
                "a sequence is one tensor [T, N, *]", where="FrameSequence", fix="put time first: x.transpose(0, 1)"
            )

    def frames(self, steps: int) -> Tensor:
        """The first ``steps`` frames.

        Raises:
            InputError: there are fewer.
        """
        if self.values.shape[0] < steps:
            raise InputError(
                f"the sequence has {self.values.shape[0]} frames, the run needs {steps}",
                where="FrameSequence",
                fix="give more frames or fewer steps",
            )
        return self.values[:steps]


@dataclass(frozen=True, eq=False)
class Poisson(Encoding):
    """Rate coding: at each step a value is its sample's largest magnitude m, with its sign, with probability |x| / m.

    The mean over time tends to the values themselves, negative ones included.

    Attributes:
        values: ``[N, *]``.
        seed: of the first sample's random numbers; the next one has the next seed, so that a sample's spikes depend on
            nothing but its own seed and the number of steps.
    """

    values: Tensor
    seed: int = 0

    def frames(self, steps: int) -> Tensor:
        """Random frames."""
        generator = torch.Generator(self.values.device)
        size = self.values.abs()
        largest = size.flatten(1).amax(1).view(-1, *[1] * (size.dim() - 1)).clamp_min(torch.finfo(size.dtype).tiny)
        options: dict[str, Any] = {"device": size.device, "dtype": torch.float32}
        seeds = range(self.seed, self.seed + len(size))
        rows = [torch.rand(steps, *size.shape[1:], generator=generator.manual_seed(seed), **options) for seed in seeds]
        draws = torch.stack(rows, 1)
        return (draws < size / largest).to(size.dtype) * largest * self.values.sign()


class Coding(Enum):
    """How an image becomes an input in time, by name."""

    CONSTANT = "constant"
    POISSON = "poisson"

    def encode(self, values: Tensor, seed: int = 0) -> Tensor | Encoding:
        """What to give to a network for a batch of images ``[N, *]``."""
        return Poisson(values, seed) if self is Coding.POISSON else values
