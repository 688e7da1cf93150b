"""Conversions from plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

import transpike as tp
from transpike.conversion.config import read_conversion, read_conversion_file
from transpike.errors import ConfigError


def test_steps_are_the_default_of_every_part(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(
        "steps = 8\n"
        'threshold = "minimum-mse:per=channel"\n'
        'potential = "half"\n'
        'corrections = ["bias", "potential:steps=4"]\n'
        'neuron = "if"\n'
        'schedule = "accumulate"\n'
    )
    rules = tp.rules
    assert read_conversion_file(tmp_path / "own.toml") == tp.Conversion(
        rules.MinimumMSE(8, tp.PerChannel()),
        rules.HalfThreshold(),
        (rules.BiasCorrection(8), rules.PotentialCorrection(4)),
        schedule=tp.schedules.AccumulateThenFire(8),
    )
    table = {"steps": 8, "schedule": {"name": "accumulate", "probe_steps": 2}}
    assert read_conversion(table).schedule == tp.schedules.AccumulateThenFire(2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps = 8", "steps sets nothing here"),
        ('steps = 8\nthreshold = "maximum"', "chosen: maximum"),
        ('threshold = "maximum:channel"', "write maximum:setting=value"),
        ('correction = ["bias"]', "did you mean corrections"),
        ("threshold = maximum", "names need quotes"),
        ('method = "accumulate"', "accumulate is tuned for T"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_conversion_file(tmp_path / "own.toml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_conversion_file(tmp_path / "absent.toml")


def test_a_method_that_is_not_there_or_lacks_steps() -> None:
    with pytest.raises(KeyError, match="did you mean accumulate"):
        tp.methods["acumulate"]
    assert "acumulate" not in tp.methods
    with pytest.raises(TypeError, match="accumulate is tuned for T: pass steps=8"):
        tp.methods["accumulate"]()
    assert tp.methods["opi"]() == tp.methods["opi"](8)
    assert str(tp.methods).startswith("maximum, percentile, ")
    assert {name for name in tp.methods if tp.methods[name].trains} == {
        *("snnc-advanced", "accumulate-finetuned", "reconstruction")
    }
