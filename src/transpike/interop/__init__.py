"""Converted networks for other simulators, and back."""
