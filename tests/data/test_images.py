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
    assert labels.tolist() == [0] * 4 + [1] * 4
    middle = Image.open(root / "val" / "owl" / "0.png").resize((45, 36), Image.Resampling.BILINEAR).crop((6, 2, 38, 34))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (data.inputs.mean, data.inputs.std))
    pixels = (data.test[0][0] * std + mean) * 255
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
        _ = data.test[2]
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    with pytest.raises(DataError, match="no images found"):
        image_folder(empty)
