"""Saves and loads networks."""
