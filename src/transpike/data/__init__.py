"""Data sets, each split once and for all: nothing is ever chosen on the test set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from transpike.data.cifar import Preparation, cifar10, cifar100
from transpike.data.contract import Data, augmented_views, fixed_test_indices, loader, random_subset, test_images
from transpike.data.digits import digits
from transpike.data.folders import image_folder, imagenet
from transpike.errors import DataError, known_words
from transpike.serialization.model_info import InputSpec

__all__ = [
    "DATA",
    "ROOT_VARIABLE",
    "Data",
    "Preparation",
    "augmented_views",
    "cifar10",
    "cifar100",
    "digits",
    "fixed_test_indices",
    "image_folder",
    "imagenet",
    "load_data",
    "loader",
    "random_subset",
    "test_images",
]

ROOT_VARIABLE = "TRANSPIKE_DATA"
"""Environment variable that names the folder with downloaded data sets."""

DATA: Mapping[str, Callable[..., Data]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "imagenet": imagenet,
    "folder": image_folder,
}


def load_data(
    name: str,
    root: Path | None = None,
    *,
    seed: int = 0,
    preparation: Preparation = Preparation.STANDARD,
    like: InputSpec | None = None,
) -> Data:
    """Opens a data set by name.

    Args:
        name: a key of `DATA`; ``"folder"`` is a folder of the user's own images, see `image_folder`.
        root: folder that holds it; None reads the environment variable TRANSPIKE_DATA. The digits need none.
        seed: seed of the split into training and validation part.
        preparation: normalisation and augmentation of the CIFAR sets.
        like: the input of a trained network, whose size and normalisation are then used.

    Raises:
        DataError: unknown name, or the files are not there.
    """
    if name not in DATA:
        raise DataError(f"there is no data set {name!r}", fix=known_words(name, DATA))
    if name == "digits":
        return digits(seed=seed)
    folder = root or (Path(os.environ[ROOT_VARIABLE]) if os.environ.get(ROOT_VARIABLE) else None)
    if folder is None and name == "folder":
        layout = "the folder with train/CLASS/*.jpg and val/CLASS/*.jpg"
        raise DataError(
            "the folder of images is not named", fix=f"pass root=DIR, {layout}", shell_fix=f"pass --data DIR, {layout}"
        )
    if folder is None:
        raise DataError(
            f"the folder with {name} is not known",
            fix=f"pass root=FOLDER, or set {ROOT_VARIABLE} to the folder that {name} is in",
            shell_fix=f"pass --data FOLDER, or set {ROOT_VARIABLE} to the folder that {name} is in",
        )
    settings = {"preparation": preparation} if name.startswith("cifar") else {}
    return DATA[name](folder, seed=seed, like=like, **settings)
