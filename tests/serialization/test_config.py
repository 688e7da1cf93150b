"""Records to and from JSON, and atomic files."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from enum import Enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transpike.serialization import json_records as config


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    size: int = 3


@dataclass(frozen=True)
class Outer:
    name: str
    weight: float
    colour: Colour = Colour.RED
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()
    table: dict[str, tuple[int, ...]] = field(default_factory=dict)
    nothing: None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "colour", Colour(self.colour))
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight must lie in [0, 1], got {self.weight}")


KINDS = {"Outer": Outer, "Inner": Inner}
RECORD = Outer("a", 0.1, Colour.BLUE, Inner(7), (Inner(1), Inner(2)), {"x": (1, 2)})
WRITTEN = {
    "kind": "Outer",
    "name": "a",
    "weight": 0.1,
    "colour": "blue",
    "inner": {"kind": "Inner", "size": 7},
    "parts": [{"kind": "Inner", "size": 1}, {"kind": "Inner", "size": 2}],
    "table": {"x": [1, 2]},
    "nothing": None,
}


def test_a_record_is_written_with_the_names_of_its_classes():
    assert config.to_json(RECORD) == WRITTEN
    assert config.to_json([1, (2.5, True), {"a": None}, "x"]) == [1, [2.5, True], {"a": None}, "x"]


def test_a_record_comes_back_with_all_that_is_in_it():
    assert config.from_json(json.loads(json.dumps(WRITTEN)), KINDS) == RECORD


@given(
    name=st.text(),
    weight=st.floats(0, 1),
    colour=st.sampled_from(Colour),
    sizes=st.lists(st.integers(-(2**60), 2**60), max_size=4),
)
def test_every_record_survives_the_journey(name, weight, colour, sizes):
    record = Outer(name, weight, colour, Inner(len(sizes)), tuple(Inner(size) for size in sizes), {"k": tuple(sizes)})
    assert config.from_json(json.loads(json.dumps(config.to_json(record))), KINDS) == record


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", Outer, 1j])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(TypeError, match="cannot write"):
        config.to_json({"deep": [value]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "Popen"}, "unknown record 'Popen'; known: Inner, Outer"),
        ({"kind": None}, "unknown record"),
        ({"kind": ["Outer"]}, "unknown record"),
        ({"colour": "green"}, "green"),
        ({"weight": 2.0}, "weight must lie"),
        ({"weight": "heavy"}, "Outer"),
        ({"weight": None}, "Outer"),
        ({"surprise": 1}, "Outer has no field surprise"),
        ({"inner": {"kind": "Inner", "size": 7, "extra": 1}}, "Inner has no field extra"),
        ({"inner": {"kind": "Inner"}}, "Inner lacks size"),
        ({"inner": {"kind": "Popen", "size": 7}}, "unknown record 'Popen'"),
        ({"parts": [{"kind": "Inner", "size": 1}, {"kind": "Popen"}]}, "unknown record 'Popen'"),
        ({"table": {"x": {"kind": "Popen"}}}, "unknown record 'Popen'"),
    ],
)
def test_a_record_that_was_tampered_with_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config.from_json({**WRITTEN, **change}, KINDS)


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "kind"])
def test_a_missing_field_is_refused_even_where_the_class_has_a_default(name):
    with pytest.raises(ValueError, match=f"Outer lacks {name}"):
        config.from_json({key: value for key, value in WRITTEN.items() if key != name}, KINDS)


@pytest.mark.parametrize("value", [[], "Outer", None, 3])
def test_what_is_no_object_is_refused(value):
    with pytest.raises(ValueError, match="JSON object"):
        config.from_json(value, KINDS)


def test_an_object_without_a_kind_is_refused():
    with pytest.raises(ValueError, match="unknown record"):
        config.from_json({"size": 3}, KINDS)


# ---- files -------------------------------------------------------------------------------------------------------


def test_writing_makes_folders_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    for text in ("old", "new"):
        config.write_atomically(path, lambda temporary, text=text: temporary.write_text(text))
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [True, False])
def test_a_writer_that_fails_changes_nothing(tmp_path, existing, error):
    path = tmp_path / "file.txt"
    if existing:
        path.write_text("old")

    def half(temporary):
        temporary.write_text("ne")
        raise error("power cut")

    with pytest.raises(error, match="power cut"):
        config.write_atomically(path, half)
    assert os.listdir(tmp_path) == (["file.txt"] if existing else [])
    assert not existing or path.read_text() == "old"


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename is atomic only inside one file system

    config.write_atomically(path, write)
    assert path.read_text() == "new"


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    ordinary, ours = tmp_path / "ordinary", tmp_path / "ours"
    ordinary.write_text("x")
    config.write_atomically(ours, lambda temporary: temporary.write_text("x"))
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_json_is_written_sorted_and_leaves_the_old_file_if_a_value_does_not_fit(tmp_path):
    path = tmp_path / "record.json"
    config.write_json(path, {"b": [1, 2], "a": "ü"})
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": "ü", "b": [1, 2]}
    assert text.index('"a"') < text.index('"b"')
    assert text.endswith("}\n")
    with pytest.raises(TypeError):
        config.write_json(path, {"a": object()})
    assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["record.json"]
