"""A user's own images: one folder per class, or ImageNet in that layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

from transpike.data.contract import Data, mixed, split_indices
from transpike.errors import DataError, needs_extra
from transpike.serialization.model_info import InputSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def open_image(path: str) -> Any:
    """Reads an image as RGB, with Pillow.

    Raises:
        DataError: the file is damaged or no image; the error names it.
    """
    with needs_extra("vision", "a folder of images"):
        from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(
            f"the image cannot be read: {error}", where=path, fix="replace it or take it out of the folder"
        ) from error


def image_folder(
    root: Path,
    *,
    size: int = 224,
    resize: int = 256,
    classes: int | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    validation: float = 0.1,
    seed: int = 0,
    like: InputSpec | None = None,
) -> Data:
    """Opens ``root/train/CLASS/*.jpg`` and ``root/val/CLASS/*.jpg`` (or ``root/test``), as ImageNet is laid out.

    Training images are cropped at random and flipped; others are resized and cropped in the middle. Test images come in
    an order drawn once for all.

    Args:
        root: the folder with ``train`` and ``val`` (or ``test``).
        size: height and width after cropping.
        resize: the shorter side before the central crop.
        classes: how many classes there must be; None accepts any number.
        mean: per channel.
        std: per channel.
        validation: share of the training images held back for choices.
        seed: of that split.
        like: a network's own input: its size, normalisation and classes then replace the arguments.

    Raises:
        DataError: a folder is missing or empty, the two parts have different classes, or too many or too few.
    """
    with needs_extra("vision", "a folder of images"):
        from torchvision.transforms import v2

    root = Path(root)
    if like is not None:
        size, resize = like.shape[-1], round(like.shape[-1] * resize / size)
        mean, std = (like.mean, like.std) if like.mean else (mean, std)
    tail: list[Callable[..., Any]] = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    augment = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *tail])
    plain = v2.Compose([v2.Resize(resize), v2.CenterCrop(size), *tail])
    train_folder = root / "train"
    test_folder = next((root / name for name in ("val", "test") if (root / name).is_dir()), root / "val")
    training = folder_of_images(train_folder, augment)
    calibration = folder_of_images(train_folder, plain)
    test = folder_of_images(test_folder, plain)
    names = tuple(training.classes)
    if tuple(test.classes) != names:
        strange = sorted(set(names) ^ set(test.classes))
        raise DataError(
            f"the two parts have different classes: {', '.join(strange[:5])}",
            where=f"{train_folder} and {test_folder}",
            fix="give both parts one folder per class, with the same names",
        )
    if like is not None and like.classes and like.classes != names:
        raise DataError(
            f"the network knows the classes {', '.join(like.classes[:5])}, the folder holds {', '.join(names[:5])}",
            where=str(root),
            fix="name the folders as in training",
        )
    if classes is not None and len(names) != classes:
        raise DataError(
            f"there are {len(names)} classes, {classes} are expected",
            where=str(train_folder),
            fix="check the folders, or the number of outputs of the network",
        )
    large, small = split_indices(training.targets, validation, seed)
    inputs = InputSpec((3, size, size), mean, std, names, "folder")
    return Data(inputs, Subset(training, large), Subset(calibration, large), Subset(calibration, small), mixed(test))


def folder_of_images(path: Path, transform: Callable[..., Any]) -> Any:
    """``path/CLASS/*.jpg`` as torchvision reads it.

    Raises:
        DataError: no such folder, or no images in it; on reading, a damaged image.
    """
    with needs_extra("vision", "a folder of images"):
        from torchvision.datasets import ImageFolder

    if not path.is_dir():
        raise DataError(
            "there is no such folder",
            where=str(path),
            fix="lay the images out as train/CLASS/*.jpg and val/CLASS/*.jpg",
        )
    try:
        return ImageFolder(str(path), transform, loader=open_image)
    except FileNotFoundError as error:
        raise DataError(
            f"no images found: {error}", where=str(path), fix="put the images into one folder per class"
        ) from error


def imagenet(root: Path, *, seed: int = 0, like: InputSpec | None = None) -> Data:
    """ImageNet-1k in folders, at 224x224; the 50,000 validation images are the test set, as in the papers."""
    data = image_folder(root, classes=1000, validation=0.02, seed=seed, like=like)
    return replace(data, inputs=replace(data.inputs, dataset="imagenet"))
