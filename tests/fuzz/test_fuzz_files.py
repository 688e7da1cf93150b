"""A few damaged files on every run; `make fuzz` tries many."""

import sys
from pathlib import Path

import pytest
from files import check, seeds

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are those of Linux")


def test_no_file_is_worse_than_refused(tmp_path: Path) -> None:
    known = seeds(tmp_path)
    found = [check(number, tmp_path, known) for number in range(60)]
    assert [case for case in found if case[1] not in ("refused", "right")] == []
    assert {"refused", "right"} == {outcome for _, outcome in found}
