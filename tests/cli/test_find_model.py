"""How networks are named on the command line, and what a wrong name or a user's own mistake leads to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

OWN = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, width=4):
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
class Bad(nn.Module):
    def forward(self, x):
        return x.flatten(1) @ x.no_such_thing
def failing():
    raise KeyError("mine")
def number():
    return 3
"""


@pytest.fixture
def own(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A module of the user's; one name per test, since Python imports a name once."""
    name = f"own_{request.node.name.split('[')[0]}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_models(transpike) -> None:
    code, out, _ = transpike("models")
    assert code == 0
    for word in ("digits-resnet", "3x224x224", "torchvision:resnet18", "timm:", "file.py:factory"):
        assert word in out


def test_inspect(transpike) -> None:
    code, out, _ = transpike("inspect", "digits-resnet")
    assert code == 0
    assert "19 sites" in out
    assert out.count("converts") == 1
    assert "type: ignore" not in out
    code, out, _ = transpike("inspect", "torchvision.models:efficientnet_b0", "--input-shape", "3,32,32")
    assert code == 0
    assert "converts, 81 sites (65 pointwise, 16 product)" in out
    assert "torchvision/" in out
    assert "--method digits --steps 6" in out


def test_inspect_names_a_tailored_network(transpike, networks) -> None:
    code, out, _ = transpike("inspect", "qcfs.safetensors")
    assert code == 0
    assert "digits-resnet: converts, 7 sites" in out


def test_libraries_know_their_input(transpike) -> None:
    for name in ("torchvision:resnet18", "torchvision.models:resnet18", "timm:resnet18"):
        code, out, _ = transpike("inspect", name)
        assert code == 0, name
        assert "64x56x56" in out, name


def test_own_networks(transpike, own: str) -> None:
    shape = ("--input-shape", "1x8x8")
    for name in (f"{own}:Net", f"{own}.py:Net", f"./{own}.py:Net", f"./{own}:Net"):
        code, out, _ = transpike("inspect", name, *shape, "--option", "width=6")
        assert code == 0, name
        assert " 6 " in out
    code, _, err = transpike("convert", f"{own}:Net", "-o", "own.safetensors")
    assert code == 1
    assert "pass --dataset NAME" in err
    assert "--dataset folder --data DIR" in err
    code, out, err = transpike("convert", f"{own}:Net", "--dataset", "digits", "-o", "own.safetensors")
    assert code == 0
    assert "random weights" in err
    code, out, _ = transpike("evaluate", "own.safetensors", "--model", f"{own}.py:Net", "-T", "2", "--images", "10")
    assert code == 0
    assert "10 images" in out
    code, _, err = transpike("evaluate", "own.safetensors")
    assert code == 1
    assert "--model package.module:factory" in err
    words = ("--model", f"{own}:Net", "--dataset", "digits", "-o")
    code, _, err = transpike("train", f"{own}:Net", "--epochs", "1", *words[2:], "trained.safetensors")
    assert (code, err) == (0, "")
    qcfs = ("--activation", "qcfs", "--epochs", "1", *words, "q.safetensors")
    code, _, err = transpike("train", "trained.safetensors", *qcfs)
    assert (code, err) == (0, "")
    code, out, err = transpike("convert", "q.safetensors", *words, "q-snn.safetensors")
    assert (code, err) == (0, "")
    assert "1 site, " in out
    following = next(line for line in out.splitlines() if line.startswith("next: ")).split()[1:]
    assert following[:3] == ["transpike", "evaluate", "q-snn.safetensors"]
    assert transpike(*following[1:], "-T", "1", "--images", "10")[0] == 0


def test_weights_of_the_users_own(transpike, own: str, tmp_path: Path) -> None:
    from transpike.cli.find_model import find_model

    torch.save(find_model(f"{own}.py:Net").network.state_dict(), tmp_path / "state.pth")
    code, _, err = transpike("convert", "state.pth", "-o", "x.safetensors")
    assert code == 1
    assert "pass --weights state.pth" in err
    torch.save(find_model(f"{own}.py:Net").network, tmp_path / "whole.pt")
    code, _, err = transpike("inspect", "whole.pt")
    assert "if it holds a whole pickled model, save model.state_dict() first" in err
    code, _, err = transpike("inspect", f"{own}.py:Net", "--weights", "whole.pt")
    assert code == 1
    assert "a whole pickled model?" in err
    assert len(err.splitlines()) == 3
    assert "\x1b" not in err
    words = ("--weights", "state.pth", "--dataset", "digits", "--calibration-images", "5000", "-o", "x.safetensors")
    code, _, err = transpike("convert", f"{own}.py:Net", *words)
    assert code == 0
    assert "random" not in err
    assert "fewer than 5,000: all are taken" in err


def test_own_images(transpike, networks, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TRANSPIKE_DATA", raising=False)
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in "ab":
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for index in range(6):
                pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    words = ("--dataset", "folder", "--data", "images")
    for only in (words, words[2:]):  # DIR/train says that it is a folder of images
        code, _, err = transpike("evaluate", "snn.safetensors", *only, "-T", "1")
        assert code == 1
        assert "the network knows the classes" in err
    code, _, err = transpike("evaluate", "snn.safetensors", *words[:2], "-T", "1")
    assert code == 1
    assert "pass --data DIR, the folder with train/CLASS/*.jpg" in err
    code, _, err = transpike("convert", "digits-resnet", *words, "-o", "x.safetensors")
    assert code == 1
    assert "the network takes inputs of 1x8x8, folder has 3x8x8" in err
    small = ("--input-shape", "3,16,16", "-o", "x.safetensors")
    code, _, err = transpike("convert", "cifar-resnet20", *words, *small)
    assert code == 0
    assert "all are taken" in err
    assert "the network has 10 outputs, the data has 2 classes: enough to calibrate" in err
    for command in (("evaluate", "x.safetensors", "-T", "1"), ("compare", "schedules", "x.safetensors", "-T", "1")):
        code, _, err = transpike(*command, *words[2:])
        assert code == 1, command
        assert "the network has 10 outputs, the data has 2 classes" in err
        assert "where: folder: a, b" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("inspect", "lenet"), "neither a built-in network, a file nor package.module:factory"),
        (("inspect", "resnet18"), "did you mean torchvision:resnet18?"),
        (("inspect", "resnet81"), "did you mean torchvision:resnet18"),
        (("inspect", "digits-resnt"), "did you mean digits-resnet?"),
        (("inspect", "torchvison:resnet18"), "did you mean torchvision:resnet18?"),
        (("inspect", "torchvision:resnet81"), "did you mean torchvision:resnet18"),
        (("inspect", "torchvision:raft_small"), "--input-shape"),
        (("inspect", "torchvision:resnet18", "--input-shape", "3,x"), "is no shape"),
        (("inspect", "digits-resnet", "--option", "width"), "--option name=value"),
        (("inspect", "digits-resnet", "--option", "depth=2"), "refuses its options"),
        (("inspect", "digits-resnet", "--leave", "softmax"), "leave names no operator"),
        (("inspect", "digits-resnet", "--input-shape", "3,8,8"), "fails on an input of shape 3,8,8"),
        (("inspect", "absent.py:net"), "there is no such file"),
        (("inspect", "not_there:net"), "cannot import not_there"),
        (("evaluate", "absent.safetensors"), "no such file"),
        (("train", "digits-resnet", "-o", "/proc/nowhere/x.safetensors"), "the output cannot be written"),
        (("run", "nothing"), "digits, digits-learned, "),
        (("train", "digits-resnet", "-o", "x.safetensors", "--dataset", "cifar10"), "TRANSPIKE_DATA"),
        (("train", "digits-resnet", "-o", "x.safetensors", "--dataset", "cifar11"), "did you mean cifar10"),
    ],
)
def test_an_error_is_one_message(transpike, monkeypatch: pytest.MonkeyPatch, words, message: str) -> None:
    monkeypatch.delenv("TRANSPIKE_DATA", raising=False)
    code, _, err = transpike(*words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert err.startswith("error:")
    assert "Traceback" in transpike("--debug", *words)[2]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("word", ["gpu", "cuda"])
def test_a_gpu_that_is_not_there(transpike, word: str) -> None:
    code, _, err = transpike("train", "digits-resnet", "--device", word, "-o", "x.safetensors")
    assert code == 1
    assert "torch finds no GPU" in err


def test_a_users_own_mistake_is_shown_by_its_line(transpike, own: str, tmp_path: Path) -> None:
    (tmp_path / "broken_import.py").write_text("import torch\nx = 1 / 0\n")
    (tmp_path / "broken_syntax.py").write_text("def f(:\n")
    for name, message in (
        (f"{own}:Bad", f"{own}.py:8: return x.flatten(1) @ x.no_such_thing"),
        (f"{own}:failing", f"{own}.py:10: raise KeyError"),
        (f"{own}:Nett", "did you mean Net?"),
        (f"{own}.py", f"write {own}.py:NAME; it has Net, Bad, failing, number"),
        (f"{own}:number", "returned a int"),
        ("broken_import:net", "broken_import.py:2: x = 1 / 0"),
        ("broken_import.py:net", "broken_import.py:2: x = 1 / 0"),
        ("broken_syntax.py:net", "broken_syntax.py:1: def f(:"),
    ):
        code, _, err = transpike("inspect", name, "--input-shape", "1,8,8")
        assert code == 1
        assert message in err
        assert len(err.splitlines()) <= 3
