"""Runs a network event by event with compiled kernels."""
