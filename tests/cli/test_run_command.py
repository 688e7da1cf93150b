"""``transpike run`` on families of the papers' tables, with made-up images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import transpike as tp
from transpike.experiments.record import read_record


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10 and CIFAR-100 as folders: noise around a brightness that differs between classes."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for classes in (10, 100):
        for part, count in (("train", 6), ("test", 1)):
            for label in range(classes):
                folder = root / f"cifar{classes}" / part / f"class{label:02d}"
                folder.mkdir(parents=True)
                for index in range(count):
                    image = rng.integers(0, 100, (32, 32, 3)) + 155 * label // classes
                    Image.fromarray(image.astype(np.uint8)).save(folder / f"{index}.png")
    return root


ROWS = [
    ("sliprelu-cifar10", "ResNet-20, SlipReLU (N=1*"),
    ("cos-cifar10", "VGG-16, QCFS"),
    ("sliprelu-cifar100", "ResNet-20, SlipReLU (N=1*"),
    ("cos-cifar100", "VGG-16, QCFS"),
]


@pytest.mark.parametrize(("family", "row"), ROWS)
def test_a_row_of_a_family_at_smoke_size(transpike, made_up: Path, family: str, row: str) -> None:
    small = ("--epochs", "1", "--limit", "12", "--images", "2", "--data", str(made_up), "--device", "cpu")
    code, shown, error = transpike("run", family, "--only", row, *small, "-o", "out")
    assert code == 0, error
    record = read_record(Path("out/result.json"))
    (first, *_) = record.rows
    assert first.label.startswith(row.rstrip("*"))
    assert {result.network for result in record.rows} == {each.name for each in record.trainings}
    assert [each.epochs for each in record.trainings] == [1]
    assert (record.training_images, record.calibration_images, record.preparation.value) == (
        12,
        12,
        family.split("-")[0],
    )
    assert first.report.images == 2
    top1 = {each.steps: each.top1 for each in first.report.rows}
    assert first.differences == {t: top1[t] - value for t, value in first.published.items()}
    assert set(first.differences) == set(first.published)
    assert "published" in shown
    assert "difference" in shown
    network = tp.load_ann(Path("out") / f"{first.network}.safetensors")
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, int(family.partition("cifar")[2]))
    if (family, row) == ROWS[2]:
        assert (first.published[1], first.published_ann) == (48.12, 50.79)
        assert "48.12" in shown


def test_rows_that_are_only_published_need_no_training(transpike, made_up: Path) -> None:
    code, shown, error = transpike("run", "sliprelu-cifar10", "--only", "TSSL", "--data", str(made_up), "-o", "out")
    assert code == 0, error
    assert "91.41" in shown
    record = read_record(Path("out/result.json"))
    assert [(row.label, row.runs, row.published) for row in record.rows] == [("CIFARNet, TSSL", (), {5: 91.41})]
    assert record.trainings == ()


def test_what_run_refuses(transpike, made_up: Path) -> None:
    code, _, error = transpike("run", "cos-cifar10", "--only", "transformer", "--data", str(made_up))
    assert code != 0
    assert "no row has 'transformer' in its label or its network" in error
    assert "VGG-16, COS (rho=4)" in error
    for option, value in (("--epochs", "0"), ("--images", "some"), ("--limit", "0"), ("--seed", "-1")):
        code, _, error = transpike("run", "cos-cifar10", option, value, "--data", str(made_up), "-o", "out")
        assert code != 0, option
        assert "Traceback" not in error
        assert not Path("out/result.json").exists()


def test_a_given_network_is_not_trained(transpike, made_up: Path) -> None:
    torch.manual_seed(0)
    network = tp.tailor(tp.zoo.build("cifar-resnet20-conv").eval(), tp.activations.QCFS(4))
    tp.save(network, "given.safetensors")
    words = ("run", "cos-cifar10", "--only", "ResNet-20, QCFS", "--data", str(made_up), "--images", "2", "-o", "out")
    small = ("--limit", "12", "--device", "cpu")
    code, shown, error = transpike(*words, *small, "--network", "resnet20-qcfs=given.safetensors")
    assert code == 0, error
    assert "training" not in shown
    record = read_record(Path("out/result.json"))
    assert record.trainings == ()
    assert [(each.name, each.source) for each in record.given] == [("resnet20-qcfs", "given.safetensors")]
    label = "ResNet-20, QCFS"
    code, _, error = transpike(*words, *small, "--network", f"{label}=given.safetensors")
    assert code == 0, error
    again = read_record(Path("out/result.json"))
    assert again.rows[0].report.rows == record.rows[0].report.rows
    assert again.given[0].name == label
    assert again.given[0].digest == record.given[0].digest
    for wrong in ("resnet20-qcfs", "=given.safetensors", "vgg16-qcfs=given.safetensors"):
        code, _, error = transpike(*words, *small, "--network", wrong)
        assert code == 1
        assert "Traceback" not in error


def test_several_seeds(transpike) -> None:
    small = ("--epochs", "1", "--limit", "48", "--images", "10", "--device", "cpu", "-o", "out")
    code, shown, error = transpike("run", "digits", "--only", "slip", *small, "--seeds", "1,2")
    assert code == 0, error
    assert "standard deviation over seeds" in shown
    assert "±" in shown
    record = read_record(Path("out/result.json"))
    assert [each.seed for each in record.trainings if "-seed" in each.name] == [1, 2]
    assert all(len(row.repeats) == 1 for row in record.rows)
    for wrong in ("one", "1,1"):
        code, _, error = transpike("run", "digits", *small, "--seeds", wrong)
        assert code == 1
        assert "Traceback" not in error
