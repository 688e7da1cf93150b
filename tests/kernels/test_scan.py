"""The generic loop runs any pure step."""

from __future__ import annotations

import pytest
import torch

from transpike.kernels import scan


def leaky(state: tuple[torch.Tensor, int], drive: torch.Tensor) -> tuple[tuple[torch.Tensor, int], torch.Tensor]:
    """A leaky neuron (decay 1/2, theta = 1, reset to zero) that also counts its steps."""
    v, step = state
    u = 0.5 * v + drive
    event = (u >= 1.0).to(u.dtype)
    return (u * (1 - event), step + 1), event


def test_a_leaky_neuron_by_hand():
    drive = torch.tensor([[0.5, 1.0], [0.5, 0.0], [0.625, 0.5], [0.0, 0.75]])
    # neuron 0: u = 1/2, 3/4, 1 -> fires, 0; neuron 1: u = 1 -> fires, 0, 1/2, 1 -> fires
    (v, steps), events = scan(leaky, (torch.zeros(2), 0), drive)
    assert events.tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]
    assert v.tolist() == [0, 0]
    assert steps == 4


def test_outputs_may_differ_in_shape_from_the_drive_and_keep_their_order():
    state, outputs = scan(lambda total, x: (total + x, (total + x).sum()), torch.zeros(3), torch.arange(6.0).view(2, 3))
    assert outputs.tolist() == [3, 15]
    assert state.tolist() == [3, 5, 7]


def test_gradients_flow_through_the_loop():
    drive = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    state, _ = scan(lambda v, x: (0.5 * v + x, v), torch.tensor(0.0), drive)
    (grad,) = torch.autograd.grad(state, drive)
    assert grad.tolist() == [0.25, 0.5, 1.0]


def test_arguments_are_left_alone():
    drive, start = torch.ones(3, 2), torch.full((2,), 0.25)
    scan(leaky, (start, 0), drive)
    assert torch.equal(drive, torch.ones(3, 2))
    assert torch.equal(start, torch.full((2,), 0.25))


def test_no_step_at_all_is_an_error():
    with pytest.raises(RuntimeError):
        scan(leaky, (torch.zeros(2), 0), torch.zeros(0, 2))
