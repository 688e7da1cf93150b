"""Trains, converts and evaluates what a table needs: recipes, comparisons and sweeps."""

from transpike.experiments.recipe import Training
from transpike.experiments.sweep import Search, Sweep
from transpike.experiments.sweep_record import SweepRecord, read_sweep
from transpike.experiments.sweep_runner import run_sweep

__all__ = ["Search", "Sweep", "SweepRecord", "Training", "read_sweep", "run_sweep"]
