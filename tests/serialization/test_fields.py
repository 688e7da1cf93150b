"""Settings are of the type that their record says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import transpike as tp
from transpike.serialization.json_records import from_json, to_json
from transpike.storage.header import record_kinds

S, R = tp.schedules, tp.rules


@pytest.mark.parametrize("value", [2.5, "4", None, True, float("nan"), [3], 0, -1, 10**20])
@pytest.mark.parametrize("cls", [S.Residual, S.OffsetSpike, S.ExactPotential, S.AccumulateThenFire, S.TwoPasses])
def test_probe_steps_are_a_whole_number(cls: type, value: Any) -> None:
    with pytest.raises(ValueError, match="probe_steps must be"):
        cls(value)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: S.Staggered(1.5), "default_lag"),
        (lambda: S.Staggered(1, (("a", "b"),)), "site_lags"),
        (lambda: S.Staggered(1, 3), "site_lags"),
        (lambda: S.Staggered(wait="x"), "wait must be one of"),
        (lambda: S.TwoPasses(4, float("nan")), "margin"),
        (lambda: S.OffsetSpike(4, 2.0), "iterations"),
        (lambda: S.OffsetSpike(4, 1, "x"), "epsilon"),
        (lambda: R.Percentile("99"), "percentile"),
        (lambda: R.Percentile(99.0, "channel"), "granularity"),
        (lambda: R.Percentile(99.0, R.PerChannel), "granularity"),
        (lambda: R.BiasCorrection(2.5), "steps"),
        (lambda: R.BiasCorrection(None), "steps"),
        (lambda: tp.neurons.Burst("5"), "gamma"),
        (lambda: tp.neurons.IF("soft!"), "reset"),
        (lambda: tp.activations.QCFS("4"), "levels"),
        (lambda: tp.Conversion(neuron="if"), "neuron"),
        (lambda: tp.Conversion(neuron=tp.neurons.IF), "neuron"),
        (lambda: tp.Conversion(threshold="maximum"), "threshold"),
    ],
)
def test_wrong_types_are_values_of_the_named_setting(make: Any, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()


def test_numbers_of_numpy_and_words_of_enums_are_taken() -> None:
    schedule = S.OffsetSpike(np.int64(3), decision="theorem 3")
    assert schedule == S.OffsetSpike(3, decision=S.Decision.THEOREM_3)
    assert type(schedule.probe_steps) is int
    assert json.dumps(to_json(R.Percentile(np.float32(50.0))))
    assert S.Staggered(1, [["a", 2]]) == S.Staggered(1, (("a", 2),))


@pytest.mark.parametrize("value", [True, None, "x", [], {}, 2.5, {"kind": "Plain"}])
def test_every_field_of_every_record_is_looked_at(value: Any) -> None:
    """What a file gives a field either makes a record of the same JSON, or is refused with ValueError."""
    made = [
        S.OffsetSpike(3),
        S.Staggered(2, (("a", 1),)),
        R.Percentile(99.0, R.PerChannel()),
        R.BiasCorrection(4),
        tp.Conversion(corrections=(R.BiasCorrection(4),)),
        tp.activations.QCFS(4),
        tp.activations.RateNorm(),
        tp.serialization.model_info.InputSpec((1, 8, 8), (0.5,), (0.5,), ("a", "b"), "x"),
    ]
    for record in made:
        written = to_json(record)
        for field in written:
            try:
                found = from_json({**written, field: value}, record_kinds())
            except ValueError:
                continue
            assert json.loads(json.dumps(to_json(found)))[field] == value


def test_a_users_record_may_have_annotations_that_cannot_be_read() -> None:
    @dataclass(frozen=True)
    class Deviations(R.ThresholdRule):
        deviations: NowhereDefined = 3.0  # type: ignore[name-defined]  # noqa: F821
        granularity: R.PerLayer | R.PerChannel = R.PerLayer()  # noqa: RUF009

        def statistic(self) -> Any:
            raise NotImplementedError

    assert Deviations(2).deviations == 2
    assert Deviations("x").deviations == "x"
