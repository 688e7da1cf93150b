"""Converted networks for other simulators, and back.

`to_nir` and `from_nir` exchange networks by NIR, the Neuromorphic Intermediate Representation. `NIR_TARGETS` says what
each simulator makes of its neurons; `compare_with_target` runs an export by the rule of its target.
"""

from transpike.interop.compare_target import TargetReport, compare_with_target
from transpike.interop.nir_files import nir_samples, samples_path, write_nir
from transpike.interop.nir_graph import to_nir
from transpike.interop.read_nir import from_nir
from transpike.interop.simulate_nir import NirRun, simulate_nir
from transpike.interop.targets import NIR_TARGETS, FiringRule, NirReset, NirTarget, Start, Topology

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
    "write_nir",
]
