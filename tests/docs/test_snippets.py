"""Every ``python`` block of README, the get-started page and the guides runs as it is printed.

The blocks of a page run in order in one fresh namespace and in an empty folder. A block behind the
comment ``<!-- not run: REASON -->`` is compiled only. Every ``transpike`` line of ``sh`` blocks must parse.
"""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    *sorted((ROOT / "docs").glob("get-started*.md")),
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]
NEEDS = {"export-onnx.md": ("onnxscript", "onnxruntime")}
"""Libraries without which a page is skipped, where the development extra does not bring them."""

_FENCE = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n+)?^(?P<ticks>```+)(?P<kind>python|sh)[^\n]*\n(?P<code>.*?)^(?P=ticks)[ ]*$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its code, the line it begins in, and whether it runs."""

    kind: str
    code: str
    line: int
    runs: bool


def blocks(page: Path, kind: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(kind, found["code"], text.count("\n", 0, found.start("code")) + 1, found["skip"] is None)
        for found in _FENCE.finditer(text)
        if found["kind"] == kind
    ]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_pages_have_blocks():
    assert len(PAGES) >= 10
    assert sum(len(blocks(page, "python")) for page in PAGES) >= 15


def run(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs the blocks of a page in a folder, and returns their namespace."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    namespace: dict[str, Any] = {"__name__": "page"}
    monkeypatch.setitem(sys.modules, "page", ModuleType("page"))  # where dataclasses look their module up
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block in blocks(page, "python"):
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            if block.runs:
                exec(code, namespace)
    return namespace


@pytest.mark.parametrize("page", [page for page in PAGES[1:] if blocks(page, "python")], ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for library in NEEDS.get(page.name, ()):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(tmp_path)  # pages may import what they have written
    run(page, tmp_path, monkeypatch)


def test_readme_shows_one_network_in_python_and_in_the_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    readme = PAGES[0]
    report = run(readme, tmp_path, monkeypatch)["report"]
    top1 = [row.top1 for row in report.rows]
    shown = re.search(r"^# \[([\d., ]+)\] ([\d.]+): top-1", readme.read_text(encoding="utf-8"), re.MULTILINE)
    assert shown is not None
    assert top1 == pytest.approx(
        [float(value) for value in shown[1].split(",")], abs=10
    )  # another machine, other weights
    assert report.ann_top1 == pytest.approx(float(shown[2]), abs=3)

    line = next(line for page, line in commands() if page == name(readme) and "digits.safetensors" in line)
    monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        _program()
    assert not stop.value.code
    printed = capsys.readouterr().out
    rows = {int(found[1]): float(found[2]) for found in re.finditer(r"^ +(\d+) +([\d.]+)  ", printed, re.MULTILINE)}
    assert set(rows) == {1, 2, 4}
    assert rows == {t: pytest.approx(top1[t - 1], abs=0.006) for t in rows}
    assert f"ANN {report.ann_top1:.2f} %" in printed


def commands() -> list[tuple[str, str]]:
    """Pages and the ``transpike`` lines of their ``sh`` blocks."""
    pages = [
        *PAGES,
        *sorted((ROOT / "docs").rglob("*.md")),
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
    ]
    found = []
    for page in dict.fromkeys(path for path in pages if "_build" not in path.parts and "_generated" not in path.parts):
        for block in blocks(page, "sh"):
            text = block.code.replace("\\\n", " ")
            found += [(name(page), line.strip()) for line in text.splitlines() if line.strip().startswith("transpike ")]
    return found


def _program() -> None:
    """What ``transpike`` runs; a normal end is an exit, too."""
    from transpike.cli.main import main

    main()
    sys.exit(0)


def _app() -> Any:
    typer = pytest.importorskip("typer")
    from transpike.cli import commands  # registers them
    from transpike.cli.main import app

    assert commands
    return typer.main.get_command(app)


@pytest.mark.parametrize(("page", "line"), commands())
def test_shell_lines_parse(page: str, line: str):
    words = shlex.split(line, comments=True)[1:]
    command = _app()
    while words and (inner := getattr(command, "commands", {}).get(words[0])) is not None:
        command, words = inner, words[1:]
    assert not getattr(command, "commands", {}), f"{page}: no such command in {line!r}"
    with command.make_context(command.name, list(words), resilient_parsing=False):
        pass
