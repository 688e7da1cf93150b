"""CIFAR-10 and CIFAR-100 through torchvision, prepared as each paper's released code did it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from transpike.data.contract import Data, mixed, split_indices
from transpike.data.folders import folder_of_images
from transpike.errors import DataError, needs_extra
from transpike.serialization.model_info import InputSpec


class Preparation(Enum):
    """Normalisation and augmentation; all crop at random (padding 4) and flip.

    ``STANDARD``: nothing else, the ImageNet statistics that the public CIFAR-10 ResNets were trained with.
    ``SLIPRELU``: AutoAugment for CIFAR-10 but not for CIFAR-100 (whatever the paper says), Cutout 16.
    ``COS``: AutoAugment for both, Cutout 16 for CIFAR-10 and 8 for CIFAR-100, as in QCFS.
    """

    STANDARD = "standard"
    SLIPRELU = "sliprelu"
    COS = "cos"


@dataclass(frozen=True)
class _Settings:
    mean: tuple[float, ...]
    std: tuple[float, ...]
    auto_augment: bool = False
    cutout: int = 0


_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR100 = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_CIFAR100_COS = ((129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SETTINGS: Mapping[tuple[str, Preparation], _Settings] = {
    ("cifar10", Preparation.STANDARD): _Settings(*_IMAGENET),
    ("cifar10", Preparation.SLIPRELU): _Settings(*_CIFAR10, auto_augment=True, cutout=16),
    ("cifar10", Preparation.COS): _Settings(*_CIFAR10, auto_augment=True, cutout=16),
    ("cifar100", Preparation.STANDARD): _Settings(*_CIFAR100),
    ("cifar100", Preparation.SLIPRELU): _Settings(*_CIFAR100, cutout=16),
    ("cifar100", Preparation.COS): _Settings(*_CIFAR100_COS, auto_augment=True, cutout=8),
}


class Cutout(nn.Module):
    """Zeroes a square around a random pixel; what lies outside the image is cut off (DeVries & Taylor 2017).

    Args:
        length: side of the square, in pixels.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        self.length = length

    def forward(self, image: Tensor) -> Tensor:
        """``[C, H, W]``, normalised, so that zero is the mean."""
        height, width = image.shape[-2:]
        row, column = (int(torch.randint(size, ())) for size in (height, width))
        half = self.length // 2
        rows = slice(max(row - half, 0), min(row - half + self.length, height))
        columns = slice(max(column - half, 0), min(column - half + self.length, width))
        image = image.clone()
        image[..., rows, columns] = 0.0
        return image


def cifar10(
    root: Path,
    *,
    seed: int = 0,
    preparation: Preparation = Preparation.STANDARD,
    like: InputSpec | None = None,
) -> Data:
    """Opens CIFAR-10; nothing is downloaded. A tenth of each class of the training set is held back for validation.

    Args:
        root: the folder that holds ``cifar-10-batches-py``, or ``cifar10/train/CLASS/*.png`` and ``cifar10/test``;
            then test images come in an order drawn once for all.
        seed: of the split into training and validation part.
        preparation: normalisation and augmentation.
        like: a network's own input, whose normalisation then replaces that of the preparation.

    Raises:
        DataError: the files are missing or damaged.
    """
    with needs_extra("vision", "CIFAR-10"):
        from torchvision.datasets import CIFAR10

    return _open("cifar10", CIFAR10, root, seed, preparation, like)


def cifar100(
    root: Path,
    *,
    seed: int = 0,
    preparation: Preparation = Preparation.STANDARD,
    like: InputSpec | None = None,
) -> Data:
    """Opens CIFAR-100 in ``cifar-100-python`` or ``cifar100``; everything else as `cifar10`."""
    with needs_extra("vision", "CIFAR-100"):
        from torchvision.datasets import CIFAR100

    return _open("cifar100", CIFAR100, root, seed, preparation, like)


def _open(name: str, dataset: Any, root: Path, seed: int, preparation: Preparation, like: InputSpec | None) -> Data:
    from torchvision.transforms import v2

    settings = SETTINGS[name, preparation]
    if like is not None and like.mean:
        settings = replace(settings, mean=like.mean, std=like.std)
    tail: list[Any] = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(settings.mean, settings.std)]
    augment: list[Any] = [v2.ToImage(), v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()]
    if settings.auto_augment:
        augment.append(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))
    augment += tail
    if settings.cutout:
        augment.append(Cutout(settings.cutout))
    plain = v2.Compose([v2.ToImage(), *tail])
    training, calibration, test = _parts(name, dataset, Path(root), v2.Compose(augment), plain)
    large, small = split_indices(training.targets, 0.1, seed)
    inputs = InputSpec((3, 32, 32), settings.mean, settings.std, tuple(training.classes), name)
    return Data(inputs, Subset(training, large), Subset(calibration, large), Subset(calibration, small), test)


def _parts(name: str, dataset: Any, root: Path, augment: Any, plain: Any) -> tuple[Any, Any, Any]:
    """Training images, augmented and not, and test images: torchvision's, or those of a folder of images."""
    folder = root / name
    if not (root / dataset.base_folder).exists() and (folder / "train").is_dir():
        from torchvision.transforms import v2

        augment, plain = (v2.Compose([_checked, each]) for each in (augment, plain))
        training, calibration = (folder_of_images(folder / "train", each) for each in (augment, plain))
        test = folder_of_images(folder / "test", plain)
        classes = int(name.removeprefix("cifar"))
        if training.classes != test.classes or len(training.classes) != classes:
            raise DataError(
                f"there are {len(training.classes)} classes to train and {len(test.classes)} to test, "
                f"{name} has {classes}",
                where=str(folder),
                fix="give both parts one folder per class, with the names of the classes",
            )
        return training, calibration, mixed(test)
    try:
        training, calibration = (dataset(root, train=True, transform=each) for each in (augment, plain))
        return training, calibration, dataset(root, train=False, transform=plain)
    except (RuntimeError, OSError, EOFError) as error:
        raise DataError(
            f"{name} cannot be read: {error}",
            where=str(root),
            fix=f"the folder must hold {dataset.base_folder}, as torchvision's download=True makes it, or "
            f"{name}/train/CLASS/*.png and {name}/test/CLASS/*.png",
        ) from error


def _checked(image: Any) -> Any:
    if image.size != (32, 32):
        width, height = image.size
        raise DataError(
            f"an image has {width} x {height} pixels, CIFAR's have 32 x 32",
            fix="open it as a data set of its own, with dataset 'folder'",
        )
    return image
