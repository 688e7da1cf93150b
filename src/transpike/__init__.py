"""transpike: trained neural networks become spiking ones that answer after a few time-steps.

>>> import transpike as tp
>>> snn = tp.convert(model, tp.methods["accumulate"](steps=8), calibration=batches, example_inputs=x)
>>> logits = snn(x, steps=8)  # [T, N, classes]; row t-1 is the answer after t steps
"""

from importlib.metadata import PackageNotFoundError as _PackageNotFoundError
from importlib.metadata import version as _version

try:
    __version__ = _version("transpike")
except _PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

from transpike import activations, data, errors, interop, neurons, rules, schedules, zoo
from transpike.conversion.convert import convert
from transpike.conversion.inspect import Inspection, inspect
from transpike.conversion.methods import METHODS as methods
from transpike.conversion.quantise import quantise
from transpike.conversion.tailor import tailor
from transpike.evaluation.causes import error_causes
from transpike.evaluation.delayed_readout import delayed_readout, readout_delay
from transpike.evaluation.early_exit import answer_early, evaluate_early
from transpike.evaluation.evaluate import evaluate
from transpike.evaluation.report import Report
from transpike.graph.onnx_import import load_onnx
from transpike.graph.operators import MaxPooling
from transpike.interop.nir_graph import to_nir
from transpike.interop.onnx_export import to_onnx
from transpike.interop.read_nir import from_nir
from transpike.interop.spikingjelly_export import to_spikingjelly
from transpike.interop.torch_export import to_torch
from transpike.network.spiking import SpikingNetwork
from transpike.rules import Conversion, PerChannel, PerLayer, Quantisation
from transpike.runtime.encoding import FrameSequence, Poisson
from transpike.runtime.step import State
from transpike.selection.choose import choose
from transpike.selection.confidence import choose_confidence
from transpike.selection.lags import search_lags
from transpike.serialization.model_info import InputSpec
from transpike.storage.checkpoint import describe, load, load_ann, save
from transpike.training import fit, fit_snn

__all__ = [
    "Conversion",
    "FrameSequence",
    "InputSpec",
    "Inspection",
    "MaxPooling",
    "PerChannel",
    "PerLayer",
    "Poisson",
    "Quantisation",
    "Report",
    "SpikingNetwork",
    "State",
    "activations",
    "answer_early",
    "choose",
    "choose_confidence",
    "convert",
    "data",
    "delayed_readout",
    "describe",
    "error_causes",
    "errors",
    "evaluate",
    "evaluate_early",
    "fit",
    "fit_snn",
    "from_nir",
    "inspect",
    "interop",
    "load",
    "load_ann",
    "load_onnx",
    "methods",
    "neurons",
    "quantise",
    "readout_delay",
    "rules",
    "save",
    "schedules",
    "search_lags",
    "tailor",
    "to_nir",
    "to_onnx",
    "to_spikingjelly",
    "to_torch",
    "zoo",
]
