from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transpike.errors import CheckpointError
from transpike.serialization.container import pack, read_container, unpack, write_container


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    write_container(path, {"a": torch.arange(6.0).view(2, 3), "n": torch.tensor(7)}, {"kind": "test", "x": [1, "y"]})
    return path


def test_round_trip(file: Path) -> None:
    tensors, header = read_container(file)
    assert header == {"kind": "test", "x": [1, "y"]}
    assert torch.equal(tensors["a"], torch.arange(6.0).view(2, 3))
    assert tensors["n"].item() == 7
    assert tensors["n"].dtype == torch.int64


def test_shared_memory_is_stored_apart(tmp_path: Path) -> None:
    base = torch.arange(4.0)
    write_container(tmp_path / "f", {"whole": base, "part": base[1:3]}, {})
    tensors, _ = read_container(tmp_path / "f")
    assert tensors["part"].tolist() == [1.0, 2.0]


def test_no_pickle_in_the_file(file: Path) -> None:
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + size])["a"]["dtype"] == "F32"  # plain safetensors: JSON, then raw numbers
    assert len(content) == 8 + size + 6 * 4 + 8


@pytest.mark.parametrize("keep", [0, 4, 30, -1, -9])
def test_truncated_file_says_so(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged"):
        read_container(file)


def test_changed_number_is_found(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_container(file)


def test_changed_header_is_found(file: Path) -> None:
    content = file.read_bytes()
    changed = content.replace(rb"\"kind\": \"test\"", rb"\"kind\": \"fest\"")
    assert changed != content
    file.write_bytes(changed)
    with pytest.raises(CheckpointError, match="changed after it was written"):
        read_container(file)


def test_foreign_files(tmp_path: Path) -> None:
    foreign = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, str(foreign))
    with pytest.raises(CheckpointError, match="not written by transpike"):
        read_container(foreign)
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no safetensors file"):
        read_container(tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="no such file"):
        read_container(tmp_path / "absent")


def test_pack_keeps_structure() -> None:
    value = {"a": (1, [2.5, None], "x"), 3: {"t": torch.ones(2)}, "empty": {}, "flag": True}
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(pack(value, tensors))
    found = unpack(json.loads(text), tensors)
    assert found["a"] == (1, [2.5, None], "x")
    assert torch.equal(found[3]["t"], torch.ones(2))
    assert found["empty"] == {}
    assert found["flag"] is True
    with pytest.raises(TypeError, match="without pickle"):
        pack(object(), {})
