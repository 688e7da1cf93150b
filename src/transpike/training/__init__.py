"""The training loop with the papers' settings."""

from transpike.training.fit import Epoch, TrainingError, fit

__all__ = ["Epoch", "TrainingError", "fit"]
