"""The training loop with the papers' settings."""

from transpike.errors import TrainingError
from transpike.training.devices import torch_device
from transpike.training.fit import Epoch, fit

__all__ = ["Epoch", "TrainingError", "fit", "torch_device"]
