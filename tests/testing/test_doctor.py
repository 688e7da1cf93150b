"""The doctor finds what is there, says what is not, and its self test notices a single wrong spike."""

from __future__ import annotations

import types
from pathlib import Path

import numpy
import pytest
import torch

import transpike
from transpike.engine.stage import Chain
from transpike.kernels import native
from transpike.testing import doctor
from transpike.testing.doctor import Diagnosis, Finding, Status, diagnose, self_test


def by_name(diagnosis: Diagnosis) -> dict[str, Finding]:
    found = {finding.name: finding for finding in diagnosis.findings}
    assert len(found) == len(diagnosis.findings)
    return found


@pytest.fixture
def no_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second, and has tests of its own."""
    monkeypatch.setattr(doctor, "self_test", lambda: Finding("self test", "self test", Status.OK, "passed"))


@pytest.fixture
def no_native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: (None, "no compiler was found"))


def test_a_healthy_machine() -> None:
    diagnosis = diagnose()
    found = by_name(diagnosis)
    assert diagnosis.healthy
    assert found["transpike"].value == transpike.__version__
    assert found["torch"].value.split("+")[0] == torch.__version__.split("+")[0]
    assert found["numpy"].value == numpy.__version__
    assert found["module"].value == native.module().__file__
    assert found["instruction set"].value.startswith(native.module().instruction_set())
    assert found["threads of torch"].value == str(torch.get_num_threads())
    assert found["native against reference"].status is Status.OK
    assert diagnosis.findings[-1] == found["native against reference"]


def test_the_kernels_take_the_threads_of_torch() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert native.module().threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("no_native")
def test_missing_kernels_are_said_with_the_command_that_builds_them() -> None:
    diagnosis = diagnose()
    found = by_name(diagnosis)
    assert diagnosis.healthy  # PyTorch's operators run instead
    assert found["module"].status is Status.ABSENT
    assert "no compiler was found" in found["module"].value
    assert "pip install --no-cache-dir" in found["module"].fix
    assert found["native against reference"].status is Status.ABSENT
    assert found["torch"].status is Status.OK


@pytest.mark.usefixtures("no_self_test")
def test_kernels_of_another_version_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    old = types.ModuleType("_native")
    old.__file__ = "old.so"
    monkeypatch.setattr(native, "load", lambda: (old, ""))
    diagnosis = diagnose()
    assert not diagnosis.healthy
    assert "of another version" in by_name(diagnosis)["build"].value


@pytest.mark.usefixtures("no_self_test")
def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"timm", "lightning", "safetensors"}
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in absent else "1.2.3")
    diagnosis = diagnose()
    found = by_name(diagnosis)
    assert (found["timm"].status, found["timm"].fix) == (Status.ABSENT, "pip install 'timm'")
    assert (found["onnxruntime"].status, found["onnxruntime"].value) == (Status.OK, "1.2.3")
    assert (found["lightning"].status, found["lightning"].fix) == (Status.ABSENT, "pip install 'transpike[train]'")
    assert (found["safetensors"].status, found["safetensors"].fix) == (Status.BROKEN, "pip install 'safetensors'")
    assert not diagnosis.healthy  # safetensors is needed, the others are not


@pytest.mark.usefixtures("no_self_test")
def test_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRANSPIKE_DATA", raising=False)
    monkeypatch.setenv("TRANSPIKE_PRETRAINED", str(tmp_path / "nowhere"))
    diagnosis = diagnose()
    found = by_name(diagnosis)
    assert found["TRANSPIKE_DATA"].value == "not set"
    assert "is no folder" in found["TRANSPIKE_PRETRAINED"].value
    assert diagnosis.healthy
    monkeypatch.setenv("TRANSPIKE_DATA", str(tmp_path))
    monkeypatch.setenv("TRANSPIKE_PRETRAINED", str(tmp_path))
    (tmp_path / "notes.txt").touch()
    found = by_name(diagnose())
    assert found["TRANSPIKE_DATA"].value == f"{tmp_path} holds no data sets"
    assert found["TRANSPIKE_PRETRAINED"].value == f"{tmp_path} holds no pretrained weights"
    (tmp_path / "cifar-100-python").mkdir()
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "weights.pt").touch()
    found = by_name(diagnose())
    assert (found["TRANSPIKE_DATA"].status, found["TRANSPIKE_DATA"].value) == (
        Status.OK,
        f"{tmp_path}: cifar10, cifar100",
    )
    assert found["TRANSPIKE_PRETRAINED"].value == f"{tmp_path}: weights.pt"


def test_the_self_test_notices_one_wrong_event_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = native.module()

    def wrong(drive, theta, inner, soft_reset, v, events):
        compiled.integrate_fire(drive, theta, inner, soft_reset, v, events)
        events[-1, -1] = 1 - events[-1, -1]

    flawed = types.SimpleNamespace(integrate_fire=wrong, offset_potential=compiled.offset_potential)
    monkeypatch.setattr(native, "module", lambda: flawed)
    finding = self_test()
    assert finding.status is Status.BROKEN
    assert ": 1 of 512 events differ" in finding.value  # 8 steps, 4 samples, 16 neurons
    assert "mlp under" in finding.value


def test_the_self_test_notices_one_wrong_spike_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Chain.run

    def wrong(*arguments, **settings):
        maps, counts = right(*arguments, **settings)
        next(iter(counts.values()))[0] += 1
        return maps, counts

    monkeypatch.setattr(Chain, "run", wrong)
    finding = self_test()
    assert finding.status is Status.BROKEN
    assert "the event-driven engine sends" in finding.value


def test_a_self_test_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(*arguments, **settings):
        raise AttributeError("no such kernel")

    monkeypatch.setattr(Chain, "run", old)
    finding = self_test()
    assert (finding.status, finding.value) == (Status.BROKEN, "AttributeError: no such kernel")
    assert "pip install" in finding.fix


def test_findings_are_validated() -> None:
    with pytest.raises(ValueError, match="needs a fix"):
        Finding("a", "b", Status.BROKEN, "c")
    with pytest.raises(ValueError, match="must not be empty"):
        Finding("a", "b", Status.OK, "")
