"""Files that are written: whole or not at all, and never over what is no file."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.errors import DataError, OutputError
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.json_records import check_writable, write_atomically, write_json

CHECKS: list[Callable[[Path], None]] = [check_writable, lambda path: write_json(path, {"a": 1})]
posix = pytest.mark.skipif(os.name != "posix", reason="devices and pipes of POSIX")


@pytest.mark.parametrize("check", CHECKS, ids=["before", "writing"])
@pytest.mark.parametrize("name", ["", ".", "folder", "a/folder", "n" * 300, "file/below", "a\0b"])
def test_what_is_no_place_for_a_file(
    tmp_path: Path, name: str, check: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a" / "folder").mkdir(parents=True)
    (tmp_path / "file").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        check(Path(name))
    assert sorted(tmp_path.rglob("*")) == before


@posix
@pytest.mark.parametrize("check", CHECKS, ids=["before", "writing"])
def test_a_device_and_a_pipe_are_left_as_they_are(tmp_path: Path, check: Callable[[Path], None]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        kind = path.stat().st_mode
        with pytest.raises(OutputError, match="device or pipe"):
            check(path)
        assert path.stat().st_mode == kind


@posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "far" / "target.json", tmp_path / "link.json"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    write_json(link, {"a": 1})
    assert link.is_symlink()
    assert target.read_text() == '{\n "a": 1\n}\n'
    device = tmp_path / "null"
    device.symlink_to("/dev/null")
    with pytest.raises(OutputError):
        write_json(device, {})


@posix
def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, alive = int(killed.stdout), os.getppid()
    here = f"{zlib.crc32(platform.node().encode()):08x}"
    left = {
        tmp_path / f".out.json.abc.{here}-{dead}.tmp": False,
        tmp_path / f".out.json.abc.{here}-{alive}.tmp": True,
        tmp_path / f".out.json.abc.00000000-{dead}.tmp": True,  # of another machine
        tmp_path / f".other.json.abc.{here}-{dead}.tmp": True,
        tmp_path / ".out.json.oldname.tmp": True,
        tmp_path / "out.json.tmp": True,
    }
    for file in left:
        file.write_text("half")
    ancient = tmp_path / ".out.json.ancient.tmp"
    ancient.write_text("half")
    os.utime(ancient, (time.time() - 10**6,) * 2)
    write_json(path, {})
    assert {file: file.exists() for file in left} == left
    assert not ancient.exists()


@posix
def test_a_full_disk_is_an_error_of_ours_and_the_old_file_stays(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    program = """
import resource, signal, sys
import torch, transpike as tp
from pathlib import Path
from torch import nn
from transpike.errors import OutputError
from transpike.serialization.json_records import write_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
large = nn.Linear(100, 100)
for write in (lambda: tp.save(large, Path("n.safetensors")), lambda: write_json(Path("n.json"), "x" * 30_000)):
    try:
        write()
    except OutputError as error:
        print("ours:", error.what)
"""
    tp.save(nn.Linear(2, 2), tmp_path / "n.safetensors")
    write_json(tmp_path / "n.json", 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count("ours: the output cannot be written") == 2, done
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_error_of_the_writer_is_its_own(tmp_path: Path) -> None:
    def fail(_: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["notes", "[" * 100_000, '{"kind": "transpike cache"}', "", "\xff"])
def test_a_file_that_is_no_cache_is_left(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="no cache"):
        read_cache(path, "key")
    assert path.read_text(encoding="latin-1") == text


@posix
def test_a_pipe_is_no_cache(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError):
        read_cache(tmp_path / "pipe", "key")
    write_cache(tmp_path / "c.json", "key", [1])
    assert read_cache(tmp_path / "c.json", "key") == [1]
    assert read_cache(tmp_path / "c.json", "other") is None


def test_evaluate_says_before_the_work_that_its_cache_cannot_be_written(tmp_path: Path) -> None:
    x = torch.rand(4, 3)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    snn = tp.convert(net, example_inputs=x, calibration=x)
    looked: list[int] = []

    class Batches:
        def __iter__(self):
            looked.append(1)
            return iter([(x, torch.zeros(4, dtype=torch.long))])

    for bad in (tmp_path, tmp_path / ("n" * 300)):
        with pytest.raises(OutputError):
            tp.evaluate(snn, Batches(), steps=2, cache=bad)
    assert looked == []
