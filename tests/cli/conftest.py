"""The program as a user calls it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from transpike.cli.main import main


@pytest.fixture
def transpike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the program in an empty folder; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["transpike", *words])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return int(code or 0), found.out, found.err

    return call
