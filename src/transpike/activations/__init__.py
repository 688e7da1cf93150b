"""Activations that a network is trained with, so that it converts well. One file per paper."""

from transpike.activations.contract import ActivationSettings, ThetaPercentile, TrainedActivation
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

__all__ = [
    "QCF",
    "QCFS",
    "ActivationSettings",
    "Gradient",
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
