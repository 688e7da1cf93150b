"""Rules for initial potentials."""
