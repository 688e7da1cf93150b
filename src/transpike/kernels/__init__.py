"""Loops over time: the reference that specifies each neuron, and faster kernels tested against it."""

from transpike.kernels.ops import KernelPreference, Surrogate, integrate_fire, runs_native
from transpike.kernels.scan import scan

__all__ = ["KernelPreference", "Surrogate", "integrate_fire", "runs_native", "scan"]
