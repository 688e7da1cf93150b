"""The 1,797 handwritten digits that scikit-learn ships: real data without a download."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset

from transpike.data.contract import Data, split_indices
from transpike.errors import needs_extra
from transpike.serialization.model_info import InputSpec


def digits(*, seed: int = 0) -> Data:
    """Loads the digits: 8x8 grey values scaled to [0, 1].

    The test set is a fifth of each class, the same for every ``seed``; a sixth of the rest is for validation. In the
    original order all digits of a writer follow one another, hence the permutation.

    Args:
        seed: of the split into training and validation part.
    """
    with needs_extra("vision", "the digits data set"):
        from sklearn.datasets import load_digits

    raw = load_digits()
    images = torch.from_numpy(np.asarray(raw.images, dtype=np.float32) / 16.0).unsqueeze(1)
    labels = torch.from_numpy(np.asarray(raw.target, dtype=np.int64))
    whole = TensorDataset(images, labels)
    rest, test = split_indices(labels.tolist(), 0.2, seed=20260101)
    inner, held = split_indices(labels[rest].tolist(), 1 / 6, seed=seed)
    train = Subset(whole, [rest[index] for index in inner])
    validation = Subset(whole, [rest[index] for index in held])
    inputs = InputSpec((1, 8, 8), (0.0,), (1.0,), tuple(str(digit) for digit in range(10)), "digits")
    return Data(inputs, train, train, validation, Subset(whole, test))
