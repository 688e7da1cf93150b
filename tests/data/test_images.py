"""CIFAR-100, preparations, and folders of images that users bring."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import transpike as tp
from transpike.data import Preparation, cifar100, image_folder, load_data, loader
from transpike.data.cifar import SETTINGS, Cutout
from transpike.errors import DataError
from transpike.serialization.model_info import InputSpec


@pytest.fixture
def cifar100_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in CIFAR-100's format: 200 + 100 random images of 100 classes."""
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 2000), ("test", 100)):
        images = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = (np.arange(count) % 100).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": images, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [f"class{i}" for i in range(100)]}))
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return tmp_path


def test_cifar100(cifar100_root: Path) -> None:
    data = cifar100(cifar100_root, preparation=Preparation.COS)
    assert [len(p) for p in (data.train, data.calibration, data.validation, data.test)] == [1800, 1800, 200, 100]
    assert data.inputs.classes[3] == "class3"
    assert data.inputs.dataset == "cifar100"
    raw = torch.from_numpy(data.test.data[7]).permute(2, 0, 1).double()
    mean = torch.tensor([129.3, 124.1, 112.4]).view(3, 1, 1)
    std = torch.tensor([68.2, 65.4, 70.4]).view(3, 1, 1)
    assert torch.allclose(data.test[7][0].double(), (raw - mean) / std, atol=1e-4)
    torch.manual_seed(0)
    assert data.train[0][0].shape == (3, 32, 32)
    like = InputSpec((3, 32, 32), (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    own = load_data("cifar100", cifar100_root, like=like)
    assert (own.inputs.mean, own.inputs.std) == (like.mean, like.std)
    with pytest.raises(DataError, match="cifar-100-python"):
        cifar100(cifar100_root / "elsewhere")


def test_each_paper_prepares_as_its_code_did() -> None:
    found = {key: (s.auto_augment, s.cutout) for key, s in SETTINGS.items()}
    assert found == {
        ("cifar10", Preparation.STANDARD): (False, 0),
        ("cifar10", Preparation.SLIPRELU): (True, 16),
        ("cifar10", Preparation.COS): (True, 16),
        ("cifar100", Preparation.STANDARD): (False, 0),
        ("cifar100", Preparation.SLIPRELU): (False, 16),
        ("cifar100", Preparation.COS): (True, 8),
    }


def test_cutout_zeroes_one_square() -> None:
    torch.manual_seed(0)
    image = torch.ones(3, 32, 32)
    areas = []
    for _ in range(300):
        found = Cutout(8)(image)
        hole = found[0] == 0
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        assert hole.sum() == len(rows) * len(columns)
        assert rows[-1] - rows[0] + 1 == len(rows) <= 8
        assert torch.equal(found[0], found[2])
        areas.append(int(hole.sum()))
    assert max(areas) == 64  # whole where it fits
    assert min(areas) < 64  # cut off at the border
    assert bool((image == 1).all())
    with pytest.raises(ValueError, match="length"):
        Cutout(0)


def make_cifar_folder(root: Path, name: str, size: int = 32) -> list[str]:
    """Images of one grey each, ten of every class to train and two to test; returns the classes."""
    classes = sorted(f"class{i}" for i in range(int(name.removeprefix("cifar"))))
    for index, title in enumerate(classes):
        for part, count in (("train", 10), ("test", 2)):
            folder = root / name / part / title
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (size, size), (2 * index, number, 9)).save(folder / f"{number}.png")
    return classes


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_as_a_folder_of_images(tmp_path: Path, name: str) -> None:
    classes = make_cifar_folder(tmp_path, name)
    data = load_data(name, tmp_path, preparation=Preparation.SLIPRELU)
    count = len(classes)
    assert data.inputs == InputSpec((3, 32, 32), *data_statistics(name), tuple(classes), name)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [9 * count, count, 2 * count]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in data_statistics(name))
    for part in (data.calibration, data.validation, data.test):
        for image, label in part:
            pixels = ((image * std + mean) * 255).round()
            assert bool((pixels[0] == 2 * label).all())
    assert len({label for _, label in (data.test[i] for i in range(count // 2))}) > count // 4
    augmented = torch.stack([image for image, _ in data.train])
    assert (augmented == 0).any((2, 3)).all()  # Cutout


def data_statistics(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    found = SETTINGS[name, Preparation.SLIPRELU]
    return found.mean, found.std


def test_what_is_no_cifar_in_a_folder(tmp_path: Path) -> None:
    make_cifar_folder(tmp_path / "large", "cifar10", 40)
    data = load_data("cifar10", tmp_path / "large")
    with pytest.raises(DataError, match="40 x 40 pixels"):
        _ = data.test[0]
    make_cifar_folder(tmp_path / "few", "cifar10")
    (tmp_path / "few" / "cifar10").rename(tmp_path / "few" / "cifar100")
    with pytest.raises(DataError, match="10 classes to train and 10 to test, cifar100 has 100"):
        load_data("cifar100", tmp_path / "few")
    with pytest.raises(DataError, match=r"cifar10/train/CLASS/\*\.png"):
        load_data("cifar10", tmp_path)


def make_folder(root: Path, parts: dict[str, tuple[str, ...]], count: int = 4) -> Path:
    rng = np.random.default_rng(0)
    for part, classes in parts.items():
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def test_own_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "birds", {"train": ("owl", "wren"), "val": ("owl", "wren")})
    data = image_folder(root, size=32, resize=36, validation=0.25)
    assert data.inputs.classes == ("owl", "wren")
    assert data.inputs.shape == (3, 32, 32)
    assert [len(p) for p in (data.train, data.validation, data.test)] == [6, 2, 8]
    images, labels = next(iter(loader(data.test, 8)))
    assert images.shape == (8, 3, 32, 32)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4
    assert set(labels[:4].tolist()) == {0, 1}  # not class by class
    again = image_folder(root, size=32, resize=36, validation=0.25, seed=7).test
    assert [again[i][1] for i in range(8)] == labels.tolist()  # in one order for ever
    middle = Image.open(root / "val" / "owl" / "0.png").resize((45, 36), Image.Resampling.BILINEAR).crop((6, 2, 38, 34))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.inputs.mean, data.inputs.std))
    (first,) = (image for image, index in zip(images, data.test.indices, strict=True) if index == 0)
    pixels = (first * std + mean) * 255
    expected = torch.from_numpy(np.asarray(middle).copy()).permute(2, 0, 1)
    assert float((pixels - expected).abs().mean()) < 12  # another resampling and half a pixel, the same picture
    like = load_data("folder", root, like=InputSpec((3, 24, 24), (0.5,) * 3, (0.5,) * 3, ("owl", "wren")))
    assert like.inputs.shape == (3, 24, 24)
    assert like.test[0][0].shape == (3, 24, 24)


def test_the_card_carries_classes_and_preprocessing(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "birds", {"train": ("owl", "wren"), "test": ("owl", "wren")})
    data = image_folder(root, size=32, resize=36)
    model = tp.zoo.build("cifar-resnet20", classes=2)
    tp.save(model, tmp_path / "m.safetensors", inputs=data.inputs)
    assert tp.describe(tmp_path / "m.safetensors").info.inputs == data.inputs


def test_broken_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/CLASS/\*\.jpg"):
        image_folder(tmp_path)
    root = make_folder(tmp_path / "birds", {"train": ("owl", "wren"), "val": ("owl", "kite")})
    with pytest.raises(DataError, match="different classes: kite, wren"):
        image_folder(root)
    (root / "val" / "kite").rename(root / "val" / "wren")
    with pytest.raises(DataError, match="there are 2 classes, 5 are expected"):
        image_folder(root, classes=5)
    with pytest.raises(DataError, match="the network knows the classes owl, jay"):
        image_folder(root, like=InputSpec((3, 32, 32), classes=("owl", "jay")))
    with pytest.raises(DataError, match="1000 are expected"):
        load_data("imagenet", root)
    bad = root / "val" / "owl" / "2.png"
    bad.write_bytes(bad.read_bytes()[:200])
    data = image_folder(root, size=32, resize=36)
    with pytest.raises(DataError, match=r"owl/2\.png"):
        list(loader(data.test))
    bad.write_bytes(b"not an image")
    with pytest.raises(DataError, match="cannot be read"):
        _ = data.test[data.test.indices.index(2)]
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no images found"):
        image_folder(empty)
