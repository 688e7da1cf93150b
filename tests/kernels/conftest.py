"""Instruction sets of the compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from transpike.kernels import native

COMPILED = native.load()[0]


@pytest.fixture(params=[] if COMPILED is None else COMPILED.instruction_sets())
def every_instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    """The kernels of one instruction set after the other."""
    compiled = native.module()
    best = compiled.instruction_set()
    compiled.use_instruction_set(request.param)
    yield
    compiled.use_instruction_set(best)
