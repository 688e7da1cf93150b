"""How thresholds and initial potentials are set. One file per method, one row in the table below."""

from transpike.methods.contract import (
    BlockCalibration,
    BlockView,
    Calibration,
    Granularity,
    Part,
    PerChannel,
    PerLayer,
    Population,
    PotentialRule,
    SpikingThresholdRule,
    StageView,
    Statistic,
    ThresholdRule,
)
from transpike.methods.maximum import Maximum
from transpike.methods.minimum_mse import MinimumMSE
from transpike.methods.percentile import Percentile
from transpike.methods.potentials import HalfThreshold, RandomPotential, ShiftedPotential, ZeroPotential
from transpike.methods.reconstruction import BlockReconstruction

THRESHOLD_RULES: dict[str, type[ThresholdRule]] = {
    "maximum": Maximum,
    "percentile": Percentile,
    "minimum-mse": MinimumMSE,
}
POTENTIAL_RULES: dict[str, type[PotentialRule]] = {
    "zero": ZeroPotential,
    "half": HalfThreshold,
    "shifted": ShiftedPotential,
    "random": RandomPotential,
}

__all__ = [
    "POTENTIAL_RULES",
    "THRESHOLD_RULES",
    "BlockCalibration",
    "BlockReconstruction",
    "BlockView",
    "Calibration",
    "Granularity",
    "HalfThreshold",
    "Maximum",
    "MinimumMSE",
    "Part",
    "PerChannel",
    "PerLayer",
    "Percentile",
    "Population",
    "PotentialRule",
    "RandomPotential",
    "ShiftedPotential",
    "SpikingThresholdRule",
    "StageView",
    "Statistic",
    "ThresholdRule",
    "ZeroPotential",
]
