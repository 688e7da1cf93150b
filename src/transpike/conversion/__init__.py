"""Turns trained networks into spiking ones."""
