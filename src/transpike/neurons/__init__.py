"""Spiking neurons as pure functions: parameters, state and step."""

from transpike.neurons.burst import Burst
from transpike.neurons.contract import EventKind, Neuron, SiteParameters
from transpike.neurons.integrate_fire import IF, Reset
from transpike.neurons.signed import SignedIF

NEURONS: dict[str, type[Neuron]] = {"if": IF, "signed": SignedIF, "burst": Burst}
"""Neurons by the name they have on the command line."""

__all__ = ["IF", "NEURONS", "Burst", "EventKind", "Neuron", "Reset", "SignedIF", "SiteParameters"]
