"""Thresholds from the largest drive that spikes cause (Spike-Norm, Sengupta et al. 2019; RMP, Han et al. 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from transpike.rules.contract import (
    Granularity,
    PerLayer,
    SpikingThresholdRule,
    StageView,
    rows_of,
    set_thresholds,
)


@dataclass(frozen=True)
class SpikeNorm(SpikingThresholdRule):
    """``theta = fraction * max`` over samples and steps of a layer's drive, with the layers before it spiking already.

    Layer by layer (Sengupta et al., Algorithm 1). What spikes bring in one step may be far more than the source's
    activation, so thresholds are high and answers need many steps. RMP (Han et al.) therefore takes a fraction of that
    maximum, with soft reset and an initial potential of 0: ``[SpikeNorm(steps, 0.8), ZeroPotential()]``. Needs data, no
    labels, no retraining; binary events.

    Differs from the papers in that inputs are constant currents, not Poisson spikes, so that the first layer's largest
    drive is the largest activation; and in that a spike carries theta instead of 1, which scales all layers alike.

    Attributes:
        steps: how many steps of the drive are looked at; the papers take 2500.
        fraction: of the largest drive, in (0, 1]; 1 is Spike-Norm.
        granularity: one threshold per layer, as in the papers, or per channel.
    """

    steps: int
    fraction: float = 1.0
    granularity: Granularity = field(default_factory=PerLayer)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if not 0.0 < self.fraction <= 1.0:
            raise ValueError(f"fraction must lie in (0, 1], got {self.fraction}")

    def update(self, stage: StageView) -> None:
        """Sets the threshold of the stage's site."""
        largest = [rows_of(self.granularity, currents.flatten(0, 1), stage.site).amax(1) for currents in stage.currents]
        values = self.fraction * torch.stack(largest).amax(0)
        set_thresholds(stage.module, values.clamp_min(0.0), self.granularity, stage.currents[0].dim() - 1)
