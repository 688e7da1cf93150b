"""A new rule, correction, neuron or schedule is one class and one row: files, words and the documentation find it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.conversion.config import read_conversion
from transpike.neurons import NEURONS
from transpike.rules import CORRECTIONS, POTENTIAL_RULES, THRESHOLD_RULES
from transpike.schedules import SCHEDULES


@dataclass(frozen=True)
class ToyThreshold(tp.rules.Maximum):
    """The largest output, times a factor."""

    factor: float = 2.0


@dataclass(frozen=True)
class ToyPotential(tp.rules.ShiftedPotential):
    """A share of the threshold."""


@dataclass(frozen=True)
class ToyCorrection(tp.rules.BiasCorrection):
    """Corrects biases."""


@dataclass(frozen=True)
class ToyNeuron(tp.neurons.Burst):
    """Sends several spikes in a step."""


@dataclass(frozen=True)
class ToySchedule(tp.schedules.AccumulateThenFire):
    """Accumulates, then fires."""


ROWS = [
    (THRESHOLD_RULES, ToyThreshold, {"threshold": {"name": "toy", "factor": 3.0}}, "thresholds"),
    (POTENTIAL_RULES, ToyPotential, {"potential": {"name": "toy", "shift": 0.25}}, "potentials"),
    (CORRECTIONS, ToyCorrection, {"corrections": [{"name": "toy", "steps": 2}]}, "corrections"),
    (NEURONS, ToyNeuron, {"neuron": {"name": "toy", "gamma": 3}}, "neurons"),
    (SCHEDULES, ToySchedule, {"schedule": {"name": "toy", "probe_steps": 2}}, "schedules"),
]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """The script that makes the documentation's tables."""
    spec = importlib.util.spec_from_file_location("tables", Path(__file__).parents[2] / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("table", "toy", "words", "page"), ROWS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_row_is_found_everywhere(table, toy, words, page, tmp_path: Path, monkeypatch, pages) -> None:
    monkeypatch.setitem(table, "toy", toy)
    conversion = read_conversion(words)
    made = [*conversion.parts, conversion.neuron, conversion.schedule]
    assert any(type(part) is toy for part in made)
    assert "toy" in str(conversion)
    x = torch.rand(8, 3)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    snn = tp.convert(model, conversion, calibration=x, example_inputs=x)
    tp.save(snn, tmp_path / "n.safetensors")
    loaded = tp.load(tmp_path / "n.safetensors", model=model)
    assert loaded.conversion == snn.conversion
    assert torch.equal(loaded(x, steps=3), snn(x, steps=3))
    assert "`toy`" in getattr(pages, page)()
