"""Spiking neurons as pure functions: parameters, state and step."""

from transpike.neurons.contract import EventKind, Neuron, SiteParameters
from transpike.neurons.integrate_fire import IF, Reset

__all__ = ["IF", "EventKind", "Neuron", "Reset", "SiteParameters"]
