"""How thresholds and initial potentials are set. One file per method, one row in the table below."""

from transpike.methods.answer_thresholds import AnswerThresholds
from transpike.methods.bias_correction import BiasCorrection, Compare
from transpike.methods.contract import (
    BlockCalibration,
    BlockView,
    Calibration,
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
from transpike.methods.gaussian import GaussianMSE
from transpike.methods.local_balancing import LocalThresholdBalancing
from transpike.methods.maximum import Maximum
from transpike.methods.minimum_mse import MinimumMSE
from transpike.methods.optimal_potential import OptimalPotential
from transpike.methods.percentile import Percentile
from transpike.methods.potential_correction import PotentialCorrection
from transpike.methods.potentials import HalfThreshold, RandomPotential, ShiftedPotential, ZeroPotential
from transpike.methods.reconstruction import BlockReconstruction
from transpike.methods.spike_norm import SpikeNorm
from transpike.methods.temporal_bias import Replay, TemporalBiasCorrection

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
CALIBRATIONS: dict[
    str,
    type[BiasCorrection]
    | type[PotentialCorrection]
    | type[OptimalPotential]
    | type[TemporalBiasCorrection]
    | type[BlockReconstruction],
] = {
    "bias": BiasCorrection,
    "potential": PotentialCorrection,
    "optimal-potential": OptimalPotential,
    "temporal-bias": TemporalBiasCorrection,
    "reconstruction": BlockReconstruction,
}

__all__ = [
    "CALIBRATIONS",
    "POTENTIAL_RULES",
    "THRESHOLD_RULES",
    "AnswerThresholds",
    "BiasCorrection",
    "BlockCalibration",
    "BlockReconstruction",
    "BlockView",
    "Calibration",
    "Compare",
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
    "RandomPotential",
    "Replay",
    "ShiftedPotential",
    "SpikeNorm",
    "SpikingThresholdRule",
    "StageView",
    "Statistic",
    "TemporalBiasCorrection",
    "ThresholdRule",
    "ZeroPotential",
    "average",
]
