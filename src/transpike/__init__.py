"""transpike: trained neural networks become spiking ones that answer after a few time-steps.

>>> import transpike as tp
>>> snn = tp.convert(model, tp.METHODS["accumulate"](steps=8), calibration=batches, example_inputs=x)
>>> logits = snn(x, steps=8)  # [T, N, classes]; row t-1 is the answer after t steps
"""

from importlib.metadata import version as _version

__version__ = _version("transpike")

from transpike import data, zoo
from transpike.activations import (
    QCF,
    QCFS,
    Gradient,
    RateNorm,
    ShiftThresholdReLU,
    SlipReLU,
    SlipReLUMode0,
    SlipReLUMode1,
    ThetaPercentile,
    ThresholdReLU,
)
from transpike.conversion.convert import convert
from transpike.conversion.inspect import Inspection, inspect
from transpike.conversion.methods import METHODS, Method
from transpike.conversion.tailor import Tailoring, tailor, tailoring
from transpike.errors import TranspikeError
from transpike.evaluation.delayed_readout import delayed_readout, readout_delay
from transpike.evaluation.early_exit import answer_early, choose_confidence, evaluate_early
from transpike.evaluation.evaluate import evaluate
from transpike.evaluation.report import Report
from transpike.graph.operators import MaxPooling
from transpike.kernels import KernelPreference, Surrogate
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Burst, Reset, SignedIF
from transpike.rules import (
    AnswerThresholds,
    BiasCorrection,
    BlockReconstruction,
    Compare,
    Conversion,
    GaussianMSE,
    HalfThreshold,
    LocalThresholdBalancing,
    Maximum,
    MinimumMSE,
    OptimalPotential,
    Percentile,
    PerChannel,
    PerLayer,
    PerNeuron,
    PotentialCorrection,
    RandomPotential,
    Replay,
    ShiftedPotential,
    SpikeNorm,
    TemporalBiasCorrection,
    ZeroPotential,
)
from transpike.runtime.encoding import Coding, Encoding, Poisson, Sequence
from transpike.runtime.step import State
from transpike.schedules import Plain, Schedule
from transpike.selection.choose import Choice, LatencyKind, choose
from transpike.selection.lags import LagSearch, search_lags
from transpike.serialization.model_info import Card, InputSpec, card_of
from transpike.storage.checkpoint import describe, load, save
from transpike.training import fit

__all__ = [
    "IF",
    "METHODS",
    "QCF",
    "QCFS",
    "AnswerThresholds",
    "BiasCorrection",
    "BlockReconstruction",
    "Burst",
    "Card",
    "Choice",
    "Coding",
    "Compare",
    "Conversion",
    "Encoding",
    "GaussianMSE",
    "Gradient",
    "HalfThreshold",
    "InputSpec",
    "Inspection",
    "KernelPreference",
    "LagSearch",
    "LatencyKind",
    "LocalThresholdBalancing",
    "MaxPooling",
    "Maximum",
    "Method",
    "MinimumMSE",
    "OptimalPotential",
    "PerChannel",
    "PerLayer",
    "PerNeuron",
    "Percentile",
    "Plain",
    "Poisson",
    "PotentialCorrection",
    "RandomPotential",
    "RateNorm",
    "Replay",
    "Report",
    "Reset",
    "Schedule",
    "Sequence",
    "ShiftThresholdReLU",
    "ShiftedPotential",
    "SignedIF",
    "SlipReLU",
    "SlipReLUMode0",
    "SlipReLUMode1",
    "SpikeNorm",
    "SpikingNetwork",
    "State",
    "Surrogate",
    "Tailoring",
    "TemporalBiasCorrection",
    "ThetaPercentile",
    "ThresholdReLU",
    "TranspikeError",
    "ZeroPotential",
    "answer_early",
    "card_of",
    "choose",
    "choose_confidence",
    "convert",
    "data",
    "delayed_readout",
    "describe",
    "evaluate",
    "evaluate_early",
    "fit",
    "inspect",
    "load",
    "readout_delay",
    "save",
    "search_lags",
    "tailor",
    "tailoring",
    "zoo",
]
