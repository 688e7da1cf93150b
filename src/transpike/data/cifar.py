"""CIFAR-10 through torchvision."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import Subset

from transpike.card import InputSpec
from transpike.data.contract import Data, split_indices
from transpike.errors import DataError

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def cifar10(root: Path, *, seed: int = 0, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Data:
    """Opens CIFAR-10; nothing is downloaded.

    Training images are cropped at random (padding 4) and flipped. A tenth of each class of the training set is held
    back for validation.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        seed: of the split into training and validation part.
        mean: per channel; the default is what the public CIFAR ResNets were trained with.
        std: per channel.

    Raises:
        DataError: the files are missing or damaged.
    """
    from torchvision.datasets import CIFAR10
    from torchvision.transforms import v2

    plain = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    augment = [v2.ToImage(), v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *plain[1:]]
    try:
        training = CIFAR10(root, train=True, transform=v2.Compose(augment))
        calibration = CIFAR10(root, train=True, transform=v2.Compose(plain))
        test = CIFAR10(root, train=False, transform=v2.Compose(plain))
    except (RuntimeError, OSError, EOFError) as error:
        raise DataError(
            f"CIFAR-10 cannot be read: {error}",
            where=str(root),
            fix="the folder must hold cifar-10-batches-py, as CIFAR10(..., download=True) of torchvision makes it",
        ) from error
    large, small = split_indices(training.targets, 0.1, seed)
    inputs = InputSpec((3, 32, 32), mean, std, tuple(test.classes), "cifar10")
    return Data(inputs, Subset(training, large), Subset(calibration, large), Subset(calibration, small), test)
