"""Converted networks for other simulators and formats, and back.

`to_nir` and `from_nir` exchange networks by NIR, the Neuromorphic Intermediate Representation. `NIR_TARGETS` says what
each simulator makes of its neurons; `compare_with_target` runs an export by the rule of its target. `to_onnx`,
`to_spikingjelly` and `to_torch` write a network for ONNX Runtime, SpikingJelly and plain PyTorch.
"""

from transpike.interop.compare_target import TargetReport, compare_with_target
from transpike.interop.nir_files import nir_samples, samples_path, write_nir
from transpike.interop.nir_graph import to_nir
from transpike.interop.onnx_export import to_onnx
from transpike.interop.read_nir import from_nir
from transpike.interop.simulate_nir import NirRun, simulate_nir
from transpike.interop.spikingjelly_export import to_spikingjelly
from transpike.interop.targets import NIR_TARGETS, FiringRule, NirReset, NirTarget, Start, Topology
from transpike.interop.torch_export import to_torch

__all__ = [
    "NIR_TARGETS",
    "FiringRule",
    "NirReset",
    "NirRun",
    "NirTarget",
    "Start",
    "TargetReport",
    "Topology",
    "compare_with_target",
    "from_nir",
    "nir_samples",
    "samples_path",
    "simulate_nir",
    "to_nir",
    "to_onnx",
    "to_spikingjelly",
    "to_torch",
    "write_nir",
]
