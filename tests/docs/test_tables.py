"""Tables that are made from the code and from records."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from transpike.conversion.methods import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    specification = importlib.util.spec_from_file_location("docs_tables", ROOT / "docs" / "tables.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["docs_tables"] = module
    specification.loader.exec_module(module)
    return module


def test_committed_tables_are_those_of_records_and_recipes(tables: ModuleType):
    held: list[str] = []
    for name in ("README.md", "docs/results/papers.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        held += re.findall(r"<!-- begin: (\w+) -->", text)
        assert tables.fill(text) == text, f"stale: python docs/tables.py --write {name}"
    assert sorted(held) == sorted(tables.BLOCKS)


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140


def test_a_changed_cell_is_stale(tables: ModuleType):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cell = re.search(r"\| (\d\d\.\d\d) \|\n", text)
    assert cell is not None
    changed = text.replace(cell[1], "12.34")
    assert changed != text
    assert tables.fill(changed) == text


def test_every_fragment_is_a_table(tables: ModuleType):
    for make in tables.FRAGMENTS:
        rows = [line for line in make().splitlines() if line.startswith("|")]
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert rows, make.__name__
        assert make.__name__ in ("method_results", "speed_resnet20", "speed_vgg16") or len(widths) == 1, make.__name__


def test_every_method_has_a_row(tables: ModuleType):
    text = tables.methods()
    assert all(f"| `{name}` |" in text for name in METHODS)
