"""What commands write: never their own input, and what cannot be written is said before the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transpike.cli import work
from transpike.errors import OutputError


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a command has begun its work."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(work, "open_data", refuse)
    monkeypatch.setattr(work, "data_for", refuse)


@pytest.mark.usefixtures("no_data")
@pytest.mark.parametrize(
    "words",
    [
        ("convert", "qcfs.safetensors", "-o", "qcfs.safetensors"),
        ("convert", "qcfs.safetensors", "-o", "./link.safetensors"),
        ("convert", "qcfs.safetensors", "--config", "how.toml", "-o", "how.toml"),
        ("convert", "model.py:net", "-o", "model.py"),
        ("convert", "digits-resnet", "--weights", "w.safetensors", "-o", "w.safetensors"),
        ("choose", "relu.safetensors", "-o", "relu.safetensors"),
        ("train", "relu.safetensors", "-o", "relu.safetensors"),
        ("evaluate", "snn.safetensors", "--cache", "snn.safetensors"),
        ("evaluate", "snn.safetensors", "--cache", "notes.json"),
        ("evaluate", "snn.safetensors", "--plot", "x.xyz"),
        ("evaluate", "snn.safetensors", "--plot", "plot"),
        ("evaluate", "snn.safetensors", "--plot", "/proc/x.png"),
        ("evaluate", "snn.safetensors", "--cache", "/proc/x.json"),
        ("convert", "qcfs.safetensors", "-o", ""),
        ("convert", "qcfs.safetensors", "-o", "."),
        ("convert", "qcfs.safetensors", "-o", "/dev/null"),
        ("convert", "qcfs.safetensors", "-o", f"{'n' * 300}.safetensors"),
        ("choose", "relu.safetensors", "-o", "/dev/full"),
        ("train", "digits-resnet", "-o", "/proc/x.safetensors"),
        ("compare", "schedules", "snn.safetensors", "-o", "notes.json"),
        ("compare", "methods", "relu.safetensors", "-o", "/dev/null"),
        ("bench", "snn.safetensors", "-o", "notes.json"),
        ("analyze", "offset", "snn.safetensors", "-o", "notes.json"),
    ],
    ids=" ".join,
)
def test_what_must_not_be_written_is_refused_before_the_work(transpike, networks: Path, words: tuple[str, ...]) -> None:
    (networks / "how.toml").write_text('threshold = "maximum"\n')
    (networks / "notes.json").write_text("{}")
    (networks / "model.py").write_text("from torch import nn\nnet = nn.Sequential(nn.Linear(2, 2), nn.ReLU())\n")
    (networks / "w.safetensors").write_bytes((networks / "relu.safetensors").read_bytes())
    (networks / "link.safetensors").symlink_to(networks / "qcfs.safetensors")
    before = {path: path.read_bytes() for path in networks.iterdir() if path.is_file()}
    code, out, err = transpike(*words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert "fix:" in err
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in networks.iterdir() if path.is_file()} == before


def test_markup_in_names_is_printed_as_it_is(transpike, networks: Path) -> None:
    for name in ("[red]x[/red].safetensors", "x[/].safetensors"):
        code, out, err = transpike("convert", "qcfs.safetensors", "-o", name, "--calibration-images", "32")
        assert (code, err) == (0, "")
        assert f"written: {name}" in out
        code, out, err = transpike("evaluate", name, "--steps", "2", "--images", "50", "--plot", "[b]p[/b].png")
        assert (code, err) == (0, "")
        assert "written: [b]p[/b].png" in out
    code, _, err = transpike("evaluate", "[red]none[/red].safetensors")
    assert code == 1
    assert "[red]none[/red].safetensors" in err


def test_train_does_not_answer_with_another_training(transpike, networks: Path) -> None:
    """The state of an interrupted training stops another one with the same output."""
    words = ("train", "relu.safetensors", "--activation", "qcfs", "--epochs", "1", "-o", "q.safetensors")
    assert transpike(*words, "--levels", "4")[0] == 0
    assert not (networks / "q.ckpt").exists()
    first = (networks / "q.safetensors").read_bytes()
    assert transpike(*words, "--levels", "2")[0] == 0
    assert (networks / "q.safetensors").read_bytes() != first
    import transpike as tp
    from transpike.data import load_data

    other = tp.load_ann(networks / "qcfs.safetensors")
    tp.fit(other, load_data("digits"), epochs=1, checkpoint=networks / "q.ckpt", device="cpu")
    second = (networks / "q.safetensors").read_bytes()
    code, _, err = transpike(*words, "--levels", "4")
    assert code == 1
    assert "another training" in err
    assert "q.ckpt" in err
    assert (networks / "q.safetensors").read_bytes() == second


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_training_with_130_and_says_how_to_go_on(networks: Path) -> None:
    words = ["train", "digits-resnet", "--epochs", "5000", "-o", "long.safetensors", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-m", "transpike.cli", *words], cwd=networks, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        end = time.monotonic() + 240
        while not (networks / "long.ckpt").exists() and program.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        program.send_signal(signal.SIGINT)
        _, err = program.communicate(timeout=120)
    assert program.returncode == 130, err.decode()
    assert "goes on when the same command is started again" in err.decode()
    assert not list(networks.glob("*.safetensors.*tmp"))
    assert (networks / "long.ckpt").is_file()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./mine:net", "converts"),
        ("mine:net", "converts"),
        (".mine:net", "mine:net"),
        ("..mine:net", "mine:net"),
        ("broken:net", "SyntaxError"),
        ("unknown:net", "NameError"),
        ("exits:net", "SystemExit"),
        ("./exits.py:net", "SystemExit"),
        ("mine:leaves", "SystemExit"),
    ],
)
def test_modules_of_the_users(transpike, tmp_path: Path, name: str, message: str) -> None:
    text = "import sys\nfrom torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Linear(4, 4), nn.ReLU())\n"
    (tmp_path / "mine.py").write_text(text + "\n\ndef leaves():\n    sys.exit(7)\n")
    (tmp_path / "broken.py").write_text("def net(:\n")
    (tmp_path / "unknown.py").write_text("net = nowhere\n")
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    for module in ("mine", "broken", "unknown", "exits"):
        sys.modules.pop(module, None)
    code, out, err = transpike("inspect", name, "--input-shape", "4")
    assert message in out + err
    assert code == (0 if message == "converts" else 1)
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "digits-resnet", "--input-shape", "1,1000000,1000000"),
        ("inspect", "digits-resnet", "--input-shape", f"1,{10**30},8"),
        ("evaluate", "snn.safetensors", "--steps", str(10**20)),
        ("compare", "schedules", "snn.safetensors", "--steps", str(10**20)),
        ("convert", "relu.safetensors", "--method", "accumulate", "--steps", str(10**20), "-o", "x.safetensors"),
        ("convert", "relu.safetensors", "--schedule", "cos", "--probe-steps", str(10**20), "-o", "x.safetensors"),
    ],
)
def test_numbers_beyond_every_machine(transpike, networks: Path, words: tuple[str, ...]) -> None:
    code, out, err = transpike(*words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert len(err) < 600


def test_a_file_that_is_not_there_yet_is_no_input(tmp_path: Path) -> None:
    work.check_output(tmp_path / "new.safetensors", "digits-resnet", None, tmp_path / "none.pt")
    (tmp_path / "new.safetensors").write_text("x")
    work.check_output(tmp_path / "new.safetensors", "digits-resnet", "a" * 400)
    with pytest.raises(OutputError, match="reads"):
        work.check_output(tmp_path / "new.safetensors", str(tmp_path / "new.safetensors") + ":net")
