"""Activations that a network is trained with, so that it converts well. One file per paper."""

from collections.abc import Callable, Mapping

from transpike.activations.contract import ActivationSettings, ThetaPercentile, TrainedActivation
from transpike.activations.learned_slip import LearnedSlipActivation, LearnedSlipReLU
from transpike.activations.rate_norm import RateNorm, RateNormActivation
from transpike.activations.slip import (
    QCF,
    QCFS,
    Gradient,
    ShiftThresholdReLU,
    SlipActivation,
    SlipReLU,
    SlipReLUMode0,
    SlipReLUMode1,
    ThresholdReLU,
)

ACTIVATIONS: Mapping[str, Callable[..., ActivationSettings]] = {
    "slip": SlipReLU,
    "qcfs": QCFS,
    "qcf": QCF,
    "threshold-relu": ThresholdReLU,
    "shift-threshold-relu": ShiftThresholdReLU,
    "rate-norm": RateNorm,
    "learned-slip": LearnedSlipReLU,
}
"""Settings of activations by the name they have on the command line."""

__all__ = [
    "ACTIVATIONS",
    "QCF",
    "QCFS",
    "ActivationSettings",
    "Gradient",
    "LearnedSlipActivation",
    "LearnedSlipReLU",
    "RateNorm",
    "RateNormActivation",
    "ShiftThresholdReLU",
    "SlipActivation",
    "SlipReLU",
    "SlipReLUMode0",
    "SlipReLUMode1",
    "ThetaPercentile",
    "ThresholdReLU",
    "TrainedActivation",
]
