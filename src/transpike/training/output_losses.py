"""Losses on the answers of a run in time, and distillation from an ANN."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from transpike.serialization.fields import check_fields


class OutputLoss(ABC):
    """How the outputs of T steps become one loss; a frozen record."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def of(self, answers: Tensor, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The loss.

        Args:
            answers: running means ``[T, N, classes]``, as a spiking network returns them.
            criterion: the loss of logits ``[N, classes]``, a mean over samples.
        """


@dataclass(frozen=True)
class MeanLoss(OutputLoss):
    """The criterion on the mean output of all T steps, which is what the network answers."""

    def of(self, answers: Tensor, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The criterion of the last row."""
        return criterion(answers[-1])


@dataclass(frozen=True)
class TETLoss(OutputLoss):
    """Temporal efficient training (Deng et al., ICLR 2022): the criterion on every step's output, averaged over steps.

    Attributes:
        regulariser: lambda in [0, 1]: the loss is ``(1 - lambda) criterion + lambda (output - target)^2``, both
            averaged over steps; 0 leaves the second part out.
        target: phi, the value that outputs are drawn to.
    """

    regulariser: float = 0.0
    target: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.regulariser <= 1 or not math.isfinite(self.target):
            raise ValueError(f"regulariser must lie in [0, 1] and target be finite, got {self}")

    def of(self, answers: Tensor, criterion: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean over steps."""
        outputs = outputs_of(answers)
        loss = torch.stack([criterion(output) for output in outputs]).mean()
        if not self.regulariser:
            return loss
        return (1 - self.regulariser) * loss + self.regulariser * (outputs - self.target).square().mean()


def outputs_of(answers: Tensor) -> Tensor:
    """What each step put out, ``[T, N, *]``, from the running means of the same shape."""
    count = torch.arange(1, len(answers) + 1, device=answers.device, dtype=answers.dtype)
    sums = answers * count.view(-1, *[1] * (answers.dim() - 1))
    return torch.cat([sums[:1], sums[1:] - sums[:-1]])


def distilled(logits: Tensor, labels: Tensor, teacher: Tensor, temperature: float, share: float) -> Tensor:
    """``(1 - a) CE(z, y) + a tau^2 KL(softmax(q / tau) || softmax(z / tau))`` (Hinton et al., 2015), mean over samples.

    Args:
        logits: z, ``[N, classes]``.
        labels: y, ``[N]``.
        teacher: q, ``[N, classes]``.
        temperature: tau.
        share: a in [0, 1].
    """
    soft = [F.log_softmax(values / temperature, 1) for values in (logits, teacher)]
    divergence = F.kl_div(soft[0], soft[1], reduction="batchmean", log_target=True)
    return (1 - share) * F.cross_entropy(logits, labels) + share * temperature**2 * divergence
