"""Fixtures for tests of transpike and of methods written by users: dyadic numbers, a zoo of topologies, asserts."""

from transpike.testing.asserts import (
    Recording,
    assert_converges,
    assert_same_answer,
    assert_same_spikes,
    assert_stream_equals_run,
    record,
)
from transpike.testing.dyadic import (
    GRID,
    dyadic_batch,
    is_dyadic,
    make_dyadic,
    set_dyadic_thresholds,
)
from transpike.testing.topologies import TOPOLOGIES, Topology

__all__ = [
    "GRID",
    "TOPOLOGIES",
    "Recording",
    "Topology",
    "assert_converges",
    "assert_same_answer",
    "assert_same_spikes",
    "assert_stream_equals_run",
    "dyadic_batch",
    "is_dyadic",
    "make_dyadic",
    "record",
    "set_dyadic_thresholds",
]
