"""``transpike report`` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("plotly")
FEW = ("--images", "20", "-T", "2", "--detail-images", "10", "--counted-images", "5", "--examples", "2")


def test_a_converted_file(transpike, networks: Path, tmp_path: Path) -> None:
    files = ("-o", "page.html", "--json", "numbers.json", "--baseline", "snn.safetensors")
    words = ("report", "snn.safetensors", *files, *FEW)
    code, out, err = transpike(*words)
    assert (code, err) == (0, "")
    assert "written: page.html" in out
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "transpike report snn.safetensors -o page.html" in text
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert set(record["reports"]) == {"plain", "residual", "cos", "accumulate"}
    assert record["main"] == "plain"
    assert list(record["baseline"]) == ["ReLU baseline"]
    assert record["reports"]["residual"]["schedule"] == "residual (probe steps 4)"


def test_numbers_are_those_of_the_other_commands(transpike, networks: Path, tmp_path: Path) -> None:
    schedules = ("--schedules", "cos,plain", "--probe-steps", "2")
    assert transpike("report", "snn.safetensors", "--json", "numbers.json", *FEW, *schedules)[0] == 0
    record = json.loads((tmp_path / "numbers.json").read_text())
    few = ("--images", "20", "-T", "2")
    assert transpike("compare", "schedules", "snn.safetensors", *few, *schedules, "-o", "compared")[0] == 0
    compared = json.loads((tmp_path / "compared" / "result.json").read_text())
    for row in compared["rows"]:
        (run,) = row["runs"]
        for key in ("rows", "sites", "ann_top1"):
            assert record["reports"][row["label"]][key] == run["report"][key]
    some = ("--images", "10", "-T", "2", "-o", "causes", "--schedule", "cos:probe_steps=2")
    assert transpike("analyze", "error", "snn.safetensors", *some)[0] == 0
    causes = json.loads((tmp_path / "causes" / "error.json").read_text())
    for own, other in zip(record["causes"]["sites"], causes["sites"], strict=True):
        assert own["site"] == other["site"]
        for key in ("error", "scale", "saturated", "silent"):
            assert own[key] == pytest.approx(other[key], rel=1e-9)
        assert own["inherited"]["share"] == pytest.approx(other["inherited"]["share"], rel=1e-6, abs=1e-9)
    some = ("--images", "10", "--iterations", "1", "--rhos", "2", "--probe-steps", "2", "-T", "1", "-o", "offsets")
    assert transpike("analyze", "offset", "snn.safetensors", *some)[0] == 0
    offsets = json.loads((tmp_path / "offsets" / "offset.json").read_text())["free"]
    for label, found in record["offsets"].items():
        assert [site["counts"] for site in found["sites"]] == [site["counts"] for site in offsets[label]["sites"]]


def test_a_searched_schedule_has_one_row(transpike, networks: Path, tmp_path: Path) -> None:
    words = ("report", "snn.safetensors", "--json", "numbers.json", *FEW, "--schedules", "plain,staggered:budget=2")
    assert transpike(*words)[0] == 0
    (row,) = json.loads((tmp_path / "numbers.json").read_text())["reports"]["staggered:budget=2"]["rows"]
    assert row["latency"]["pipeline_steps"] <= 2


def test_the_folder_of_a_recipe(transpike, tmp_path: Path, networks: Path) -> None:
    few = ("--images", "20", "-T", "2", "--schedules", "plain")
    assert transpike("compare", "schedules", "snn.safetensors", *few, "-o", "run")[0] == 0  # a record of the same kind
    shutil.copy("snn.safetensors", "run/0-spiking.safetensors")
    assert transpike("report", "run", "--json", "numbers.json", *FEW)[0] == 0
    record = json.loads((tmp_path / "numbers.json").read_text())
    assert list(record["rows"]) == ["plain"]
    assert record["rows"]["plain"]["rows"] == record["reports"]["plain"]["rows"]
    assert "All rows of the run" in (tmp_path / "report.html").read_text(encoding="utf-8")
    Path("run/0-spiking.safetensors").unlink()
    code, _, err = transpike("report", "run")
    assert (code, "holds no converted network" in err) == (1, True)


def test_foreign_files_stay(transpike, networks: Path) -> None:
    Path("report.html").write_text("<p>mine</p>")
    code, _, err = transpike("report", "snn.safetensors", *FEW)
    assert (code, "no report that transpike wrote" in err) == (1, True)
    assert Path("report.html").read_text() == "<p>mine</p>"
    Path("report.html").unlink()
    for _ in range(2):  # an earlier report is replaced
        assert transpike("report", "snn.safetensors", "--schedules", "plain", *FEW)[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("absent.safetensors",), "no such file"),
        (("relu.safetensors",), "is not converted yet"),
        (("snn.safetensors", "-o", "page.pdf"), ".pdf is no page"),
        (("snn.safetensors", "-o", "/proc/nowhere/page.html"), "the output cannot be written"),
        (("snn.safetensors", "--json", "snn.safetensors"), "the output is a file that this command reads"),
        (("snn.safetensors", "--schedules", "cso"), "did you mean"),
        (("snn.safetensors", "--images", "few"), "'all', 'fixed' or a number"),
        (("snn.safetensors", "--image", "20", "--images", "20"), "there is no image 20"),
        (("snn.safetensors", "-T", "0"), "steps must be at least 1"),
        ((".",), "the record cannot be read"),
    ],
)
def test_an_error_is_one_message(transpike, networks: Path, words: tuple[str, ...], message: str) -> None:
    code, _, err = transpike("report", *words)
    assert code == 1
    assert message in err
    assert "Traceback" not in err
    assert not Path("page.html").exists()
