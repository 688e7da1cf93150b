"""Initial potentials that make every neuron's mean output right (SNNC light, Li et al., ICML 2021)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from transpike.rules.contract import Correction, PerChannel, PerLayer, PerNeuron, StageView, average
from transpike.rules.corrections.correction import check_counts, correct


@dataclass(frozen=True)
class PotentialCorrection(Correction):
    """``v(0) += T (mean(ANN activation) - mean(SNN output))`` over samples, per neuron, stage by stage.

    Differs from SNNC light in that the step is repeated, and taken back and halved where it does not help
    (``iterations=1``: the paper's step, or none); and T is the number of steps that the site emits, which some
    schedules make longer than the run. Needs unlabelled data, no retraining; events stay as the neuron's. The potential
    that is found holds for about this T: it is spent once, whereas a bias comes at every step.

    Attributes:
        steps: T.
        iterations: how often to move the potentials of a stage.
        granularity: which neurons share their correction; few samples say little about one neuron.
    """

    steps: int
    iterations: int = 4
    granularity: PerNeuron | PerChannel | PerLayer = field(default_factory=PerNeuron)
    only_moves_potentials: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, iterations=self.iterations)

    def update(self, stage: StageView) -> None:
        """Moves the initial potentials of one site."""
        site, wanted = stage.module, average(stage.wanted)
        emitted = stage.emit(stage.currents[0]).shape[0]

        def error() -> Tensor:
            return self.granularity.mean(wanted - average(stage.mean_outputs()))

        correct(site.v_init, site.set_initial_potential, error, gain=emitted, iterations=self.iterations)
