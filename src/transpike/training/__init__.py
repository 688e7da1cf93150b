"""The training loops: ANNs with the papers' settings, and converted networks through time."""

from transpike.errors import TrainingError
from transpike.training.devices import torch_device
from transpike.training.fit import Epoch, fit
from transpike.training.fit_snn import fit_snn
from transpike.training.optimizers import Optimizer
from transpike.training.output_losses import MeanLoss, TETLoss

__all__ = ["Epoch", "MeanLoss", "Optimizer", "TETLoss", "TrainingError", "fit", "fit_snn", "torch_device"]
