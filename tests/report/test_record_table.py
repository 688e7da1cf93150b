"""The table of a record: ours, published, difference."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from transpike.experiments.recipe import Recipe, RecipeRow, Run, Training
from transpike.experiments.runner import run_recipe
from transpike.report import record_table
from transpike.rules import Conversion, Percentile


def test_published_numbers_and_differences_stand_beneath_ours(tmp_path: Path) -> None:
    runs = (Run(Conversion(Percentile()), (1, 2)),)
    rows = (
        RecipeRow("both", "relu", runs, "20", published={2: 12.5, 4: 40.0}, published_in="here", published_ann=50.0),
        RecipeRow("ours", "relu", runs, "20"),
        RecipeRow("theirs", "", (), published={4: 33.25}, published_in="there"),
    )
    recipe = Recipe("tiny", "", "digits-resnet", "digits", 0, 32, None, (Training("relu", 1, 0.05),), rows)
    record = run_recipe(recipe, tmp_path, training_images=64, device="cpu")
    ours = record.rows[0].report
    assert record.rows[0].differences == {2: pytest.approx(ours.row(2).top1 - 12.5)}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(record_table(record))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["published", "50.00", "-", "12.50", "40.00"] in lines
    assert ["difference", f"{ours.ann_top1 - 50:+.2f}", f"{ours.row(2).top1 - 12.5:+.2f}"] in lines
    assert ["theirs", "published", "-", "-", "-", "33.25"] in lines
    assert ["ours", "20", f"{ours.ann_top1:.2f}", f"{ours.row(1).top1:.2f}", f"{ours.row(2).top1:.2f}", "-"] in lines
