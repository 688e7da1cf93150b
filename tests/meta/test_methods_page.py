"""The page that `make methods` writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from transpike.conversion.methods import METHODS
from transpike.experiments.compare import MethodResult, MethodRow
from transpike.schedules import Latency
from transpike.serialization.json_records import to_json, write_json

FILE = Path(__file__).parents[2] / "docs" / "make_methods.py"


def page(results: Path) -> str:
    text: str = runpy.run_path(str(FILE))["page"](results)
    return text


def test_the_page_holds_what_was_measured(tmp_path: Path):
    def row(steps: int, top1: float, pipeline: int) -> MethodRow:
        return MethodRow(steps, 2000, 91.5, top1, 1234.4, Latency(steps, steps, pipeline, steps), 7.2)

    found = [
        MethodResult("accumulate", "", (), (row(1, 40.0, 20), row(8, 88.25, 160))),
        MethodResult("maximum", "", (), (row(1, 10.0, 1),)),
        MethodResult("burst", "", (), (), "no room"),
    ]
    for result in found:
        write_json(tmp_path / "net" / f"{result.method}.json", to_json(result))
    write_json(tmp_path / "net" / "evaluations" / "maximum-1.json", {})
    text = page(tmp_path)
    assert "| accumulate | 40.00 [20] | 88.25 [160] | 1,234 | 7 |" in text
    assert "| maximum | 10.00 [1] | - | - | - |" in text
    assert text.index("| maximum | 10") < text.index("| accumulate | 40")
    assert "burst was refused: no room." in text
    assert "Test images: 2,000 (ANN 91.50) at T = 1, 8." in text
    assert all(f"\n| {name} | " in text for name in METHODS)


def test_without_results_it_says_how_to_make_them(tmp_path: Path):
    with pytest.raises(SystemExit, match="compare NETWORK --methods all"):
        page(tmp_path)
