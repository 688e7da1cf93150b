"""Initial potentials by search: the fraction of theta that brings the mean outputs nearest to the ANN's activations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from transpike.rules.contract import Correction, Granularity, PerChannel, StageView, average
from transpike.rules.corrections.correction import check_counts


@dataclass(frozen=True)
class OptimalPotential(Correction):
    """``v(0) = f theta``, f from a grid: least ``sum (ANN activation - SNN mean output)^2`` after T steps.

    Ours: theta/2 is the best in expectation for residues that are uniform (OPI, Bu et al. 2022), which they are not
    when T is small and most pre-activations lie near zero. Stage by stage; what was set before stays where no fraction
    is better. Needs unlabelled data, no retraining; events stay as the neuron's.

    Attributes:
        steps: T.
        candidates: how many fractions are tried: 0, 1/candidates, ... below 1; an even number includes 1/2.
        granularity: one fraction per layer or per channel.
    """

    steps: int
    candidates: int = 16
    granularity: Granularity = field(default_factory=PerChannel)
    only_moves_potentials: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, candidates=self.candidates)

    def update(self, stage: StageView) -> None:
        """Sets the initial potentials of one site."""
        site = stage.module
        kept, least = site.v_init.detach(), self._loss(stage)
        for number in range(self.candidates):
            tried = number / self.candidates * site.theta
            site.set_initial_potential(tried)
            loss = self._loss(stage)
            better = loss < least
            kept, least = torch.where(better, tried, kept), torch.where(better, loss, least)
        site.set_initial_potential(kept)

    def _loss(self, stage: StageView) -> Tensor:
        """Mean squared error of the mean outputs as they are now, one per layer or per channel."""
        pairs = zip(stage.wanted, stage.mean_outputs(), strict=True)
        return self.granularity.mean(average((wanted - found) ** 2 for wanted, found in pairs))
