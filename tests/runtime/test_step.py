"""The state of a stream as a value: going on with some of its samples."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.testing import TOPOLOGIES, assert_same_answer, set_dyadic_thresholds


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
def test_selected_samples_go_on_as_if_nothing_had_happened(topology):
    """Two steps of four samples, then two more of samples 3 and 1, against a run of four steps."""
    inputs = topology.dyadic_inputs(4)
    parts = [tp.rules.Maximum(tp.PerChannel())]
    model = topology.dyadic_model()
    snn = tp.convert(model, tp.Conversion.of(*parts), example_inputs=inputs, calibration=[inputs])
    set_dyadic_thresholds(snn)
    whole = snn(*inputs, steps=4)
    state = None
    for _ in range(2):
        _, state = snn.step(inputs, state)
    before = [tensor.clone() for memory in state.memory for tensor in memory]
    samples = torch.tensor([3, 1])
    fewer = state.select(samples)
    assert int(fewer.steps) == 2
    assert [tensor.shape[0] for memory in fewer.memory for tensor in memory] == [2] * len(before)
    for t in (2, 3):
        row, fewer = snn.step(tuple(tensor[samples] for tensor in inputs), fewer)
        expected = pytree.tree_map_only(torch.Tensor, lambda rows, t=t: rows[t, samples], whole)
        assert_same_answer(row, expected)
    after = [tensor for memory in state.memory for tensor in memory]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
