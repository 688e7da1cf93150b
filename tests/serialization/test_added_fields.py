"""Fields that a record got later: what was written before still reads, and digests stay."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from transpike.serialization.digest import digest
from transpike.serialization.fields import ADDED
from transpike.serialization.json_records import from_json, to_json


def before() -> type:
    @dataclass(frozen=True)
    class Plan:
        epochs: int = 3

    return Plan


def after() -> type:
    @dataclass(frozen=True)
    class Plan:
        epochs: int = 3
        rate: float = field(default=0.5, metadata=ADDED)

    return Plan


def test_what_was_written_before_means_the_default() -> None:
    old, new = before(), after()
    stored = to_json(old(4))
    assert from_json(stored, {"Plan": new}) == new(4, 0.5)
    assert from_json({**stored, "rate": 0.1}, {"Plan": new}) == new(4, 0.1)
    with pytest.raises(ValueError, match="Plan lacks epochs"):
        from_json({"kind": "Plan", "rate": 0.5}, {"Plan": new})


def test_digests_stay_where_the_field_holds_its_default() -> None:
    old, new = before(), after()
    assert digest(new(4)) == digest(new(4, 0.5)) == digest(old(4))
    assert digest(new(4, 0.1)) not in (digest(old(4)), digest(new(4, 0.2)))
