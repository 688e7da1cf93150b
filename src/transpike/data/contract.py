"""A data set with its fixed splits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from transpike.errors import DataError
from transpike.serialization.model_info import InputSpec

_SHIFT = 4  # pixels


@dataclass(frozen=True)
class Data:
    """A labelled data set; every element is ``(image, class index)``.

    Attributes:
        inputs: shape, normalisation and class names.
        train: for training, with augmentation where the data set has one.
        calibration: the same samples without augmentation.
        validation: a part of the training set held back for every choice.
        test: looked at only to report.
    """

    inputs: InputSpec
    train: Dataset[Any]
    calibration: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]

    def __str__(self) -> str:
        sizes = ", ".join(f"{len(getattr(self, part)):,} {part}" for part in ("train", "validation", "test"))
        shape = "x".join(map(str, self.inputs.shape))
        return f"{self.inputs.dataset or 'data'}: {sizes} images of {shape}, {len(self.inputs.classes)} classes"


def split_indices(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Splits sample indices into a larger and a smaller part with equal class proportions.

    Args:
        labels: class of every sample.
        fraction: share of the smaller part, in (0, 1).
        seed: of the permutation.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    generator = np.random.default_rng(seed)
    classes = np.asarray(labels)
    large: list[int] = []
    small: list[int] = []
    for value in np.unique(classes):
        members = generator.permutation(np.flatnonzero(classes == value))
        cut = round(fraction * len(members))
        small += members[:cut].tolist()
        large += members[cut:].tolist()
    return sorted(large), sorted(small)


def mixed(dataset: Dataset[Any]) -> Subset[Any]:
    """The samples in an order drawn once for all: folders come class by class, and the first so many shall be fair."""
    return Subset(dataset, np.random.default_rng(0).permutation(len(dataset)).tolist())  # type: ignore[arg-type]


def fixed_test_indices(dataset: str) -> list[int]:
    """The committed list of 2,000 test indices for rows that are too long for the whole test set.

    Raises:
        DataError: there is no such list for this data set.
    """
    if dataset not in ("cifar10", "cifar100"):
        raise DataError(
            f"there is no fixed list of test images for {dataset!r}", fix="use all images, or the first so many"
        )
    indices = json.loads((files("transpike.data") / "cifar_test_2000.json").read_text())
    return [int(index) for index in indices]


def test_images(data: Data, images: str) -> Dataset[Any]:
    """The test images that a word names.

    Args:
        data: the data set.
        images: ``"all"``, ``"fixed"`` (the committed list of 2,000) or a number (the first so many).

    Raises:
        DataError: another word, or there is no fixed list for this data set.
    """
    check_images_word(images)
    if images == "all":
        return data.test
    if images == "fixed":
        return Subset(data.test, fixed_test_indices(data.inputs.dataset))
    return Subset(data.test, range(min(int(images), len(data.test))))  # type: ignore[arg-type]


def check_images_word(images: str) -> None:
    """Checks a word for `test_images`.

    Raises:
        DataError: it is none.
    """
    if images not in ("all", "fixed") and not (images.isdecimal() and int(images) > 0):
        raise DataError(f"images must be 'all', 'fixed' or a number, not {images!r}", fix="for example 500")


def augmented_views(batches: Sequence[Tensor], count: int, seed: int = 0) -> list[Tensor]:
    """The batches, and ``count`` randomly shifted and mirrored copies of every image behind these.

    Images are shifted by up to four pixels, as CIFAR networks are trained, with edges mirrored.

    Args:
        batches: images ``[N, C, H, W]``.
        count: views of every image; 0 gives the batches alone.
        seed: of shifts and mirrors.
    """
    generator = torch.Generator().manual_seed(seed)
    found = list(batches)
    for images in [*batches] * count:
        padded = nn.functional.pad(images, (_SHIFT,) * 4, mode="reflect")
        places = torch.randint(2 * _SHIFT + 1, (len(images), 2), generator=generator).tolist()
        height, width = images.shape[-2:]
        cut = [padded[n, :, y : y + height, x : x + width] for n, (y, x) in enumerate(places)]
        mirrored = (torch.rand(len(images), generator=generator) < 0.5).tolist()
        found.append(torch.stack([v.flip(-1) if flip else v for v, flip in zip(cut, mirrored, strict=True)]))
    return found


def random_subset(dataset: Dataset[Any], count: int, seed: int = 0) -> Subset[Any]:
    """``count`` samples drawn without replacement, for calibration.

    Raises:
        ValueError: count is below 1 or exceeds the data set.
    """
    size = len(dataset)  # type: ignore[arg-type]
    if not 1 <= count <= size:
        raise ValueError(f"count must lie between 1 and {size}, got {count}")
    return Subset(dataset, np.random.default_rng(seed).permutation(size)[:count].tolist())


def loader(dataset: Dataset[Any], batch_size: int = 100, limit: int | None = None) -> DataLoader[Any]:
    """Batches in the data set's own order, for calibration and evaluation.

    Args:
        dataset: any map-style data set.
        batch_size: samples per batch.
        limit: only the first so many samples.
    """
    if limit is not None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        dataset = Subset(dataset, range(min(limit, len(dataset))))  # type: ignore[arg-type]
    return DataLoader(dataset, batch_size=batch_size, shuffle=False)
