"""Biases that make the mean output of every channel right (SNNC light, Li et al., ICML 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from transpike.rules.contract import Correction, PerChannel, StageView, average
from transpike.rules.corrections.correction import check_counts, correct


class Compare(Enum):
    """Whose means a bias makes equal.

    ``OUTPUTS``: the ANN's activation and the neurons' mean output (SNNC light); this also makes up for what clipping
    and rounding lose. ``CURRENTS``: the ANN's pre-activation and the mean drive (bias correction of quantised networks,
    Nagel et al., ICCV 2019); it makes up for the errors of the stages before only, and is exact at once.
    """

    OUTPUTS = "outputs"
    CURRENTS = "currents"


@dataclass(frozen=True)
class BiasCorrection(Correction):
    """Per channel, ``bias += mean(ANN activation) - mean(SNN output)`` over samples and positions, stage by stage.

    The bias is added to the drive at every step. Differs from SNNC light in that the step is repeated, and taken back
    and halved where it does not help (``iterations=1``: the paper's step, or none). Needs unlabelled data, no
    retraining; events stay as the neuron's. Works for every schedule of one pass and goes on from biases set before.

    Attributes:
        steps: for how many time-steps to calibrate.
        iterations: how often to move the bias of a stage.
        compare: which means become equal.
    """

    steps: int
    iterations: int = 4
    compare: Compare = Compare.OUTPUTS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, iterations=self.iterations)

    def update(self, stage: StageView) -> None:
        """Moves the bias of one site."""
        site, outputs = stage.module, self.compare is Compare.OUTPUTS
        wanted = average(stage.wanted if outputs else stage.source)

        def error() -> Tensor:
            return PerChannel().mean(wanted - average(stage.mean_outputs() if outputs else stage.mean_drives()))

        correct(site.bias, site.set_bias, error, gain=1.0, iterations=self.iterations)
