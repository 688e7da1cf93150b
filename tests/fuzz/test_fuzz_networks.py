"""A few random networks on every run; `make fuzz` tries many."""

from __future__ import annotations

from collections import Counter

import networks
import pytest
import torch

pytest.importorskip("transpike.kernels._native")


def test_random_networks_run_alike_in_every_way() -> None:
    outcomes = Counter()
    for number in range(25):
        found, what = networks.outcome(number)
        assert found != "wrong", f"case {number}: {what}"
        outcomes[found] += 1
    assert outcomes["right"] >= 15, outcomes


def test_a_kernel_that_drops_an_event_is_found(monkeypatch) -> None:
    """The comparison itself: the eager kernel loses one spike of one neuron."""
    from transpike.kernels import ops

    whole = ops._KERNELS["eager"]

    def flawed(drive: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
        events, v = whole(drive, *rest)
        events.view(-1)[events.view(-1).argmax()] = 0
        return events, v

    monkeypatch.setitem(ops._KERNELS, "eager", flawed)
    found = [networks.outcome(number)[0] for number in range(8)]
    assert "wrong" in found
