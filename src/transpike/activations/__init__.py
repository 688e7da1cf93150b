"""Activations that a network is trained with, so that it converts well. One file per paper."""

from transpike.activations.slip import (
    QCF,
    QCFS,
    Gradient,
    ShiftThresholdReLU,
    SlipActivation,
    SlipReLU,
    SlipReLUMode0,
    SlipReLUMode1,
    ThetaPercentile,
    ThresholdReLU,
)

__all__ = [
    "QCF",
    "QCFS",
    "Gradient",
    "ShiftThresholdReLU",
    "SlipActivation",
    "SlipReLU",
    "SlipReLUMode0",
    "SlipReLUMode1",
    "ThetaPercentile",
    "ThresholdReLU",
]
