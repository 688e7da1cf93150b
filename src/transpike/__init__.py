"""transpike: trained neural networks become spiking ones that answer after a few time-steps."""

from transpike.activations import (
    QCF,
    QCFS,
    Gradient,
    ShiftThresholdReLU,
    SlipReLU,
    SlipReLUMode0,
    SlipReLUMode1,
    ThetaPercentile,
    ThresholdReLU,
)
from transpike.convert import Inspection, convert, inspect
from transpike.errors import TranspikeError
from transpike.kernels import KernelPreference, Surrogate
from transpike.methods import (
    HalfThreshold,
    Maximum,
    Percentile,
    PerChannel,
    PerLayer,
    ShiftedPotential,
    ZeroPotential,
)
from transpike.network import SpikingNetwork, State
from transpike.neurons import IF, Reset
from transpike.schedules import Plain, Schedule
from transpike.tailor import Tailoring, tailor, tailoring

__all__ = [
    "IF",
    "QCF",
    "QCFS",
    "Gradient",
    "HalfThreshold",
    "Inspection",
    "KernelPreference",
    "Maximum",
    "PerChannel",
    "PerLayer",
    "Percentile",
    "Plain",
    "Reset",
    "Schedule",
    "ShiftThresholdReLU",
    "ShiftedPotential",
    "SlipReLU",
    "SlipReLUMode0",
    "SlipReLUMode1",
    "SpikingNetwork",
    "State",
    "Surrogate",
    "Tailoring",
    "ThetaPercentile",
    "ThresholdReLU",
    "TranspikeError",
    "ZeroPotential",
    "convert",
    "inspect",
    "tailor",
    "tailoring",
]
