"""Measures converted networks."""
