from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from transpike.data import DATA, digits, fixed_test_indices, load_data, loader, random_subset
from transpike.data.contract import split_indices
from transpike.errors import DataError


def contents(dataset) -> set[bytes]:
    return {hashlib.sha256(image.numpy().tobytes()).digest() for image, _ in dataset}


def test_digits_are_split_without_overlap() -> None:
    data = digits()
    sizes = [len(part) for part in (data.train, data.validation, data.test)]
    assert sum(sizes) == 1797
    parts = [set(part.indices) for part in (data.train, data.validation, data.test)]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    image, label = data.train[0]
    assert image.shape == data.inputs.shape
    assert float(image.min()) >= 0.0
    assert float(image.max()) <= 1.0
    assert data.inputs.classes[label] in "0123456789"


def test_digits_test_set_does_not_depend_on_the_seed() -> None:
    one, two = digits(seed=0), digits(seed=1)
    assert one.test.indices == two.test.indices
    assert one.validation.indices != two.validation.indices


def test_split_keeps_class_proportions() -> None:
    labels = [0] * 50 + [1] * 30 + [2] * 20
    large, small = split_indices(labels, 0.1, seed=3)
    assert sorted(large + small) == list(range(100))
    assert [sum(labels[index] == value for index in small) for value in range(3)] == [5, 3, 2]
    with pytest.raises(ValueError, match="fraction"):
        split_indices(labels, 1.0, seed=0)


def test_fixed_list_has_2000_different_test_images() -> None:
    indices = fixed_test_indices("cifar10")
    assert len(set(indices)) == 2000
    assert min(indices) >= 0
    assert max(indices) < 10_000
    with pytest.raises(DataError, match="no fixed list"):
        fixed_test_indices("digits")


def test_random_subset_and_loader() -> None:
    dataset = TensorDataset(torch.arange(10.0))
    subset = random_subset(dataset, 4, seed=1)
    assert len(set(subset.indices)) == 4
    assert subset.indices == random_subset(dataset, 4, seed=1).indices
    assert [len(batch[0]) for batch in loader(dataset, 4)] == [4, 4, 2]
    assert torch.cat([batch[0] for batch in loader(dataset, 4, limit=5)]).tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="between 1 and 10"):
        random_subset(dataset, 11)
    with pytest.raises(ValueError, match="limit"):
        loader(dataset, limit=0)


def test_missing_data_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRANSPIKE_DATA", raising=False)
    with pytest.raises(DataError, match="TRANSPIKE_DATA"):
        load_data("cifar10")
    with pytest.raises(DataError, match="cifar-10-batches-py"):
        load_data("cifar10", tmp_path)
    with pytest.raises(DataError, match="known: digits, cifar10, cifar100, imagenet, folder"):
        load_data("mnist")
    assert set(DATA) == {"digits", "cifar10", "cifar100", "imagenet", "folder"}


def test_cifar10_on_real_files(data_root: Path) -> None:
    data = load_data("cifar10", data_root)
    assert [len(part) for part in (data.train, data.calibration, data.validation, data.test)] == [
        45_000,
        45_000,
        5_000,
        10_000,
    ]
    assert data.train.indices == data.calibration.indices
    assert not set(data.train.indices) & set(data.validation.indices)
    image, label = data.test[0]
    assert image.shape == (3, 32, 32)
    assert data.inputs.classes[label] == "cat"  # the first test image of CIFAR-10
    raw = torch.from_numpy(data.test.data[0]).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.inputs.mean, data.inputs.std))
    assert torch.allclose(image, (raw - mean) / std, atol=1e-6)
    assert torch.equal(data.calibration[5][0], data.calibration[5][0])
    torch.manual_seed(0)
    views = [data.train[5][0] for _ in range(4)]
    assert any(not torch.equal(views[0], view) for view in views[1:])  # augmented
