"""How thresholds and initial potentials are set. One file per method, one row in the table below."""

from typing import Any

from transpike.rules.contract import (
    BlockCorrection,
    BlockView,
    Correction,
    Granularity,
    Part,
    PerChannel,
    PerLayer,
    PerNeuron,
    Population,
    PotentialRule,
    SpikingThresholdRule,
    StageView,
    Statistic,
    ThresholdRule,
    average,
)
from transpike.rules.conversion import BatchNormMode, Conversion, ThroughTime
from transpike.rules.corrections.bias import BiasCorrection, Compare
from transpike.rules.corrections.optimal_potential import OptimalPotential
from transpike.rules.corrections.potential import PotentialCorrection
from transpike.rules.corrections.reconstruction import BlockReconstruction
from transpike.rules.corrections.temporal_bias import Replay, TemporalBiasCorrection
from transpike.rules.potentials.fixed import HalfThreshold, RandomPotential, ShiftedPotential, ZeroPotential
from transpike.rules.quantisation import Quantisation
from transpike.rules.thresholds.answer_thresholds import AnswerThresholds
from transpike.rules.thresholds.gaussian import GaussianMSE
from transpike.rules.thresholds.local_balancing import LocalThresholdBalancing
from transpike.rules.thresholds.maximum import Maximum
from transpike.rules.thresholds.minimum_mse import MinimumMSE
from transpike.rules.thresholds.percentile import Percentile
from transpike.rules.thresholds.spike_norm import SpikeNorm

THRESHOLD_RULES: dict[str, type[ThresholdRule] | type[SpikingThresholdRule]] = {
    "maximum": Maximum,
    "percentile": Percentile,
    "minimum-mse": MinimumMSE,
    "gaussian-mse": GaussianMSE,
    "local-balancing": LocalThresholdBalancing,
    "spike-norm": SpikeNorm,
}
POTENTIAL_RULES: dict[str, type[PotentialRule]] = {
    "zero": ZeroPotential,
    "half": HalfThreshold,
    "shifted": ShiftedPotential,
    "random": RandomPotential,
}
CORRECTIONS: dict[str, type[Any]] = {
    "bias": BiasCorrection,
    "potential": PotentialCorrection,
    "optimal-potential": OptimalPotential,
    "temporal-bias": TemporalBiasCorrection,
    "reconstruction": BlockReconstruction,
    "answer-thresholds": AnswerThresholds,
}

__all__ = [
    "CORRECTIONS",
    "POTENTIAL_RULES",
    "THRESHOLD_RULES",
    "AnswerThresholds",
    "BatchNormMode",
    "BiasCorrection",
    "BlockCorrection",
    "BlockReconstruction",
    "BlockView",
    "Compare",
    "Conversion",
    "Correction",
    "GaussianMSE",
    "Granularity",
    "HalfThreshold",
    "LocalThresholdBalancing",
    "Maximum",
    "MinimumMSE",
    "OptimalPotential",
    "Part",
    "PerChannel",
    "PerLayer",
    "PerNeuron",
    "Percentile",
    "Population",
    "PotentialCorrection",
    "PotentialRule",
    "Quantisation",
    "RandomPotential",
    "Replay",
    "ShiftedPotential",
    "SpikeNorm",
    "SpikingThresholdRule",
    "StageView",
    "Statistic",
    "TemporalBiasCorrection",
    "ThresholdRule",
    "ThroughTime",
    "ZeroPotential",
    "average",
]
