"""``transpike analyze`` as a user runs it, and the tables and pictures it makes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from transpike.evaluation.offsets import CaseExample, Offsets, ShiftCase, SiteOffsets, Trajectory
from transpike.report import cases_table, convergence_table, offsets_table, plot_cases, plot_convergence, plot_offsets


@pytest.fixture
def checkpoint(networks: Path) -> str:
    return "snn.safetensors"


def test_help_has_an_example(transpike) -> None:
    code, out, _ = transpike("analyze", "offset", "--help")
    assert code == 0
    assert "transpike analyze offset snn.safetensors" in out
    assert "--rhos" in out
    code, out, _ = transpike("--help")
    assert "analyze" in out


def test_offset(transpike, checkpoint: str, tmp_path: Path) -> None:
    words = ("--images", "30", "--iterations", "2", "--rhos", "2,4", "-T", "4", "--batch-size", "20", "-o", "found")
    code, out, err = transpike("analyze", "offset", checkpoint, *words)
    assert (code, err) == (0, "")
    for part in ("stages.0.relu@1", "as it runs", "input taken as right", "cos:2", "too few spikes", "rho", "ms/image"):
        assert part in out
    record = json.loads((tmp_path / "found" / "offset.json").read_text())
    assert set(record["free"]) == {"plain", "cos:1", "cos:2"}
    assert list(record["influence"]) == ["2", "4"]
    assert [row["steps"] for row in record["influence"]["2"]["rows"]] == [1, 2, 4]
    assert set(record["seconds_per_image"]) == {"plain", "residual", "cos"}
    assert record["settings"]["feed"]["kind"] == "AccumulateThenFire"
    first = [record[mode]["plain"]["sites"][0]["counts"] for mode in ("free", "constrained")]
    assert sum(first[0]) == 30 * 2 * 8 * 8
    assert first[0] == first[1]
    for name in ("offsets", "cases", "convergence", "influence"):
        assert (tmp_path / "found" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_feed_is_the_callers_choice(transpike, checkpoint: str, tmp_path: Path) -> None:
    few = ("--images", "10", "--iterations", "1", "--rhos", "2", "--probe-steps", "2", "-T", "1", "-o", "found")
    for word, kind in (("exact", "ExactPotential"), ("plain", "Plain")):
        assert transpike("analyze", "offset", checkpoint, "--feed", word, *few)[0] == 0
        record = json.loads((tmp_path / "found" / "offset.json").read_text())
        assert record["settings"]["feed"]["kind"] == kind


def test_error(transpike, checkpoint: str, tmp_path: Path) -> None:
    words = ("-T", "2", "--images", "30", "--batch-size", "20", "-w", "0.25", "-o", "found")
    code, out, err = transpike("analyze", "error", checkpoint, *words)
    assert (code, err) == (0, "")
    for part in ("stages.0.relu@1", "unevenness", "w = 0.25", "same answer as the ANN", "of its activation"):
        assert part in out
    record = json.loads((tmp_path / "found" / "error.json").read_text())
    assert (record["steps"], record["images"], record["schedule"]) == (2, 30, "plain")
    first = record["sites"][0]
    assert first["inherited"]["size"] == 0
    assert (tmp_path / "found" / "causes.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = transpike("analyze", "error", checkpoint, "--schedule", "cos", "-T", "2", "--images", "10")
    assert code == 0
    assert "cos" in out
    code, _, err = transpike("analyze", "error", checkpoint, "--schedule", "cso")
    assert code == 1
    assert "did you mean" in err


def test_activation(transpike, tmp_path: Path) -> None:
    code, out, err = transpike("analyze", "activation", "-N", "4", "-c", "0.4", "-T", "4", "-o", "figure1.png")
    assert (code, err) == (0, "")
    for part in ("threshold-relu", "0.125000", "qcfs", "0.000000", "slip", "0.025000"):
        assert part in out
    assert (tmp_path / "figure1.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = transpike("analyze", "activation", "--activation", "qcfs", "-N", "4", "-T", "2")
    assert code == 0
    assert "no" in out.split("qcfs")[1]  # Theorem 2 says 0 for c = 0, and the exact error is 1/8
    assert "0.125000" in out
    code, _, err = transpike("analyze", "activation", "--activation", "clip")
    assert (code, "there is no activation 'clip'" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("absent.safetensors",), "no such file"),
        (("relu.safetensors",), "is not converted yet"),
        (("snn.safetensors", "--rhos", "1,two"), "--rhos takes whole numbers"),
        (("snn.safetensors", "--rhos", "2,2"), "rhos must be different"),
        (("snn.safetensors", "--iterations", "0"), "iterations must be at least 1"),
        (("snn.safetensors", "--images", "few"), "'all', 'fixed' or a number"),
        (("snn.safetensors", "-o", "/proc/nowhere"), "the output cannot be written"),
    ],
)
def test_an_error_is_one_message(transpike, checkpoint: str, words, message: str) -> None:
    code, _, err = transpike("analyze", "offset", *words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err


def text(table: Table) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def offsets(label: str, *counts: tuple[int, ...], constrained: bool = False, answer: float | None = None) -> Offsets:
    sites = tuple(SiteOffsets(f"site{i}", row, 0.0, 0.5) for i, row in enumerate(counts))
    return Offsets(label, constrained, sites, answer)


def row_of(table: Table, name: str) -> list[str]:
    return next(line for line in text(table).splitlines() if line.split()[:1] == [name]).split()


def test_offsets_table() -> None:
    table = offsets_table(offsets("plain", (0, 1, 2, 3, 8, 3, 2, 1, 0)))  # rho = 4: beyond 3 in columns of their own
    cells = ["0.00", "5.00", "10.00", "15.00", "40.00", "15.00", "10.00", "5.00", "0.00"]
    assert row_of(table, "site0") == ["site0", *cells, "2.0000", "50.00"]  # (2 * 9 + 4 * 4 + 6 * 1) / 20 = 2
    table = offsets_table(offsets("plain", (1, 99_998, 1)))
    assert row_of(table, "site0") == ["site0", "<0.01", ">99.99", "<0.01", "0.0000", "50.00"]
    table = offsets_table(offsets("plain", (1, 1, 0, 0, 0, 6, 0, 0, 0, 1, 1)))
    cells = ["20.00", "0.00", "0.00", "0.00", "60.00", "0.00", "0.00", "0.00", "20.00"]
    assert row_of(table, "site0")[1:10] == cells


def test_convergence_table() -> None:
    free = {
        "plain": offsets("plain", (1, 1, 2), (1, 3, 0), answer=0.25),
        "cos:1": offsets("cos:1", (0, 4, 0), (0, 4, 0)),
    }
    fed = {label: offsets(label, (0, 3, 1), (0, 4, 0), constrained=True) for label in free}
    table = convergence_table(free, fed)
    assert row_of(table, "plain") == ["plain", "75.00", "0.2500", "0.25", "25.00", "75.00"]
    assert row_of(table, "cos:1") == ["cos:1", "100.00", "0.0000", "-", "100.00", "75.00"]


def example(case: ShiftCase) -> CaseExample:
    before, after = Trajectory((1.0, 1.0, -1.0), (1, 0)), Trajectory((-1.0, 1.0, -1.0), (0, 0))
    return CaseExample(case, "relu", 7, (1, 2), 2.0, (2.0, -2.0), 0, before, after)


def test_cases_that_do_not_occur_are_said(tmp_path: Path) -> None:
    cases = {case: example(case) if case is ShiftCase.DOWN else None for case in ShiftCase}
    shown = text(cases_table(cases))
    assert shown.count("does not occur in this data") == 3
    assert "7: 1,2" in shown
    assert "1 (10)" in shown
    assert "-1.000" in shown
    plot_cases(cases, tmp_path / "cases.svg", "title")
    drawn = (tmp_path / "cases.svg").read_text()
    assert drawn.count("does not occur in this data") == 3
    assert "psi = -1, then 0; 0 spikes wanted" in drawn


def test_a_schedule_without_offsets_is_named(tmp_path: Path) -> None:
    wrong, right = offsets("plain", (1, 1, 2), (0, 4, 0)), offsets("cos:1", (0, 4, 0), (0, 4, 0))
    free = {"plain": wrong, "cos:1": right}
    plot_offsets(free, free, tmp_path / "some.svg", "title")
    assert "psi = 0 everywhere: cos:1" in (tmp_path / "some.svg").read_text()
    assert "at most 75 % not exact" in (tmp_path / "some.svg").read_text()
    plot_offsets({"cos:1": right}, {"cos:1": right}, tmp_path / "none.svg", "title")
    assert "at most 0 % not exact" in (tmp_path / "none.svg").read_text()
    plot_convergence(free, tmp_path / "convergence.svg", "title")
    assert "zeros are not drawn" in (tmp_path / "convergence.svg").read_text()
