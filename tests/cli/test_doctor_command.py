"""``transpike doctor`` as a user runs it."""

from __future__ import annotations

import pytest

import transpike as tp
from transpike.kernels import native


def test_all_is_well(transpike, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSPIKE_DATA", "[/bold]nowhere")  # text that is no markup
    code, out, err = transpike("doctor")
    assert (code, err) == (0, "")
    assert tp.__version__ in out
    assert native.module().instruction_set() in out
    assert "answers" in out
    assert "[/bold]nowhere is no folder" in out
    assert "BROKEN" not in out


def test_without_native_kernels(transpike, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "load", lambda: (None, "no compiler was found"))
    code, out, err = transpike("doctor")
    assert (code, err) == (0, "")
    assert "no compiler was found" in out
    assert "fix: install a C++17 compiler" in out


def test_the_help_has_an_example(transpike) -> None:
    code, out, _ = transpike("doctor", "--help")
    assert code == 0
    assert "Example" in out
    assert "transpike doctor" in out
