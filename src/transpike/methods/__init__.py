"""How thresholds and initial potentials are set. One file per method, one row in the table below."""

from transpike.methods.contract import (
    Granularity,
    Part,
    PerChannel,
    PerLayer,
    PotentialRule,
    Statistic,
    ThresholdRule,
)
from transpike.methods.maximum import Maximum
from transpike.methods.percentile import Percentile
from transpike.methods.potentials import HalfThreshold, ShiftedPotential, ZeroPotential

THRESHOLD_RULES: dict[str, type[ThresholdRule]] = {"maximum": Maximum, "percentile": Percentile}
POTENTIAL_RULES: dict[str, type[PotentialRule]] = {
    "zero": ZeroPotential,
    "half": HalfThreshold,
    "shifted": ShiftedPotential,
}

__all__ = [
    "POTENTIAL_RULES",
    "THRESHOLD_RULES",
    "Granularity",
    "HalfThreshold",
    "Maximum",
    "Part",
    "PerChannel",
    "PerLayer",
    "Percentile",
    "PotentialRule",
    "ShiftedPotential",
    "Statistic",
    "ThresholdRule",
    "ZeroPotential",
]
