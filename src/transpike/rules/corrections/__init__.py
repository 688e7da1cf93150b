"""Corrections that run through a network stage by stage, or block by block."""
