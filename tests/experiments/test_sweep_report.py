import math
from pathlib import Path

import pytest
from rich.console import Console
from sweeps import ended, made_up, small_sweep

from transpike.experiments.sweep_record import Scores, TrialState, read_sweep
from transpike.report import plot_criterion, plot_slopes, plot_sweep, sweep_notes, sweep_tables


def _scores(trial) -> Scores:
    a = trial.setting.activation
    ann = 90 + 5 * a.slope + trial.seed
    return Scores(240, 97.0, ann, {1: ann - 10 * a.slope * a.levels, 4: ann - 1})


@pytest.fixture
def record():
    return made_up(small_sweep(seeds=(0, 1)), _scores, _scores)


def _cells(table) -> list[list[str]]:
    columns = [list(column.cells) for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_accuracies_are_means_over_seeds_by_n_c_and_t(record):
    table = sweep_tables(record)[0]
    assert [column.header for column in table.columns] == ["N", "c", "ANN", "T=1", "T=4"]
    # N = 2, c = 0.5: ANN 92.5 and 93.5; T = 1 is 10 lower
    assert _cells(table)[3] == ["2", "0.5", "93.00", "83.00", "92.00"]
    assert [row[:2] for row in _cells(table)] == [["1", "0.2"], ["1", "0.5"], ["2", "0.2"], ["2", "0.5"]]


def test_the_criterion_shows_its_terms_and_marks_the_choice(record):
    rows = _cells(sweep_tables(record)[1])
    # N = 1, c = 0.2: |97 - 91| and |97 - 92|, mean 5.5; |ANN - SNN| = 2; criterion 2.75 + 1
    assert rows[0] == ["1", "0.2", "97.00", "91.50", "89.50", "5.50", "2.00", "3.75", "*"]
    assert [row[-1] for row in rows] == ["*", "", "", ""]


def test_the_choice_stands_beside_the_best_in_hindsight(record):
    rows = _cells(sweep_tables(record)[2])
    # T = 1 is best at 89.5 with N = 1, c = 0.2; at T = 4 the largest ANN wins, c = 0.5, and the criterion agrees
    assert rows[0] == ["1", "N=1, c=0.2", "3.75", "91.50", "89.50", "N=1, c=0.2", "89.50", "0.00"]
    assert rows[1] == ["4", "N=1, c=0.5", "2.50", "93.00", "92.00", "N=1, c=0.5", "92.00", "0.00"]


def test_several_variants_have_a_table_and_pictures_each(tmp_path):
    record = made_up(small_sweep(shifts=(0.0, 0.5)), _scores, _scores)
    tables = sweep_tables(record)
    assert len(tables) == 5
    assert "delta=0.5" in str(tables[1].title)
    assert _cells(tables[4])[0][1] == "N=1, c=0.2, delta=0"
    names = {path.name for path in plot_sweep(record, tmp_path)}
    ends = ("digits-resnet-delta-0.png", "digits-resnet-delta-0.5.png")
    assert names == {f"{kind}-{end}" for kind in ("accuracy", "criterion") for end in ends} | {"shift.png"}
    assert all((tmp_path / name).stat().st_size > 10_000 for name in names)


def test_what_failed_is_named_and_left_out_of_tables(record, tmp_path):
    failed = ended(record.results[0].trial, None, None, TrialState.FAILED)
    short = type(record)(record.sweep, (failed, *record.results[1:]), True, 60.0, record.environment, "data")
    assert [row[:2] for row in _cells(sweep_tables(short)[0])] == [["1", "0.5"], ["2", "0.2"], ["2", "0.5"]]
    notes = sweep_notes(short)
    assert notes[0] == "failed: digits-resnet, N=1, c=0.2, seed 0: the loss became nan"
    assert notes[1] == "7 trials finished, 0 pruned, 1 failed; 1.0 minutes, 0.1 of processor time"
    plot_criterion(short, short.cells, tmp_path / "criterion.png", "x")
    nothing = type(record)(record.sweep, (failed,), False, 60.0, record.environment, "data")
    assert sweep_tables(nothing) == []
    assert plot_sweep(nothing, tmp_path) == []


def test_pictures_show_the_numbers(record, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr("transpike.report.sweep_plots.write_figure", lambda figure, path: figures.append(figure))
    plot_slopes(record, record.cells, tmp_path / "a.png", "digits-resnet")
    ann, first, fourth = (axes for axes in figures[0].axes[:3])
    assert [axes.get_title() for axes in (ann, first, fourth)] == ["ANN", "SNN, T = 1", "SNN, T = 4"]
    line = first.lines[1]
    assert line.get_label() == "N = 2"
    assert list(line.get_xdata()) == [0.2, 0.5]
    assert list(line.get_ydata()) == pytest.approx([87.5, 83.0])
    low, high = (f(first.collections[1].get_paths()[0].vertices[:, 1]) for f in (min, max))
    assert (low, high) == pytest.approx((82.5, 88.0))
    plot_criterion(record, record.cells, tmp_path / "c.png", "digits-resnet")
    axes = figures[1].axes[0]
    shown = axes.images[0].get_array()
    assert [float(value) for value in shown[0]] == pytest.approx([3.75, math.fsum([2.0, 2.5])])
    assert axes.patches[0].get_xy() == (-0.5, -0.5)  # N = 1, c = 0.2


def test_tables_fit_into_120_columns(record):
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in sweep_tables(record):
        console.print(table)
    text = console.export_text()
    assert "…" not in text
    assert "best in hindsight" in text


def test_the_guide_prints_what_the_record_says():
    root = Path(__file__).parents[2]
    record = read_sweep(root / "results" / "sweep-digits.json")
    assert record.finished
    assert len(record.results) == 80
    lines = (root / "docs" / "guides" / "choose-levels-and-slope.md").read_text(encoding="utf-8").splitlines()
    printed = [" ".join(line.split()) for line in lines]
    for row in _cells(sweep_tables(record)[-1]):
        assert " ".join(row) in printed
