"""Gradient checkpointing over time: the same gradients, less memory."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import TensorDataset

import transpike as tp
from transpike.data import Data
from transpike.errors import TrainingError
from transpike.schedules import Plain
from transpike.training.segments import run_in_segments

STEPS = 6


def data(dtype: torch.dtype = torch.float64) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 3
    images = torch.randn(12, 4, generator=generator, dtype=dtype) + 2 * torch.eye(3, 4, dtype=dtype)[labels]
    part = TensorDataset(images, labels)
    return Data(tp.InputSpec((4,), dataset="blobs"), part, part, part, part)


def network(dtype: torch.dtype = torch.float64) -> tp.SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    tailored = tp.tailor(model, tp.activations.QCFS(4, theta_init=1.0)).to(dtype).eval()
    return tp.convert(tailored, example_inputs=data(dtype).train.tensors[0][:4])


def gradients(snn: tp.SpikingNetwork, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    learning = {name: value for name, value in snn.named_parameters() if value.requires_grad}
    found = torch.autograd.grad(loss, list(learning.values()), allow_unused=True)
    return {name: value for name, value in zip(learning, found, strict=True) if value is not None}


def weighed(answers: torch.Tensor) -> torch.Tensor:
    """A loss that every answer takes part in."""
    return (answers * torch.linspace(-1, 2, answers.numel(), dtype=answers.dtype).view_as(answers)).sum()


@pytest.mark.parametrize("segment", [1, 4, 6, 9])
def test_answers_and_gradients_are_those_of_one_run(segment: int) -> None:
    snn, images = network().requires_grad_(True), data().train.tensors[0]
    whole = snn(images, steps=STEPS, schedule=Plain(), memory_mib=2**40)
    answers, _ = run_in_segments(snn, images, STEPS, segment)
    assert torch.equal(answers, whole)
    wanted, found = gradients(snn, weighed(whole)), gradients(snn, weighed(answers))
    assert set(found) == set(wanted)
    assert sum(bool(value.any()) for value in wanted.values()) >= 8
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-14), name


def test_what_is_counted_adds_up_and_has_the_same_gradient() -> None:
    snn, images = network().requires_grad_(True), data().train.tensors[0]
    counts: dict[str, torch.Tensor] = {}
    snn(images, steps=STEPS, schedule=Plain(), memory_mib=2**40, observe=lambda s, _, e: counts.update({s: e.sum()}))
    _, found = run_in_segments(snn, images, STEPS, 4, lambda _, events: events.sum())
    assert {name: value.item() for name, value in found.items()} == {name: v.item() for name, v in counts.items()}
    one, other = (gradients(snn, torch.stack(list(each.values())).sum()) for each in (counts, found))
    assert all(torch.allclose(other[name], value, rtol=1e-12, atol=1e-14) for name, value in one.items())


def held(forward: object) -> int:
    """Bytes that a forward pass keeps for the backward pass, each storage once."""
    sizes: dict[int, int] = {}
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)  # so that no storage is used again
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()  # type: ignore[operator]
    return sum(sizes.values())


def test_less_is_held() -> None:
    """Without, T steps of every layer; with, the memories at the ends of segments, which checkpoint itself holds."""
    snn = network().requires_grad_(True)
    images = data().train.tensors[0].repeat(20, 1)
    whole = held(lambda: snn(images, steps=STEPS, schedule=Plain(), memory_mib=2**40))
    layers = STEPS * len(images) * 128 * 8  # bytes of one tensor per site
    assert whole > 2 * layers
    kept = held(lambda: run_in_segments(snn, images, STEPS, 2))
    assert kept < whole / 4


def train(snn: tp.SpikingNetwork, folder: Path | None = None, **settings: object) -> list[tp.training.fit.Epoch]:
    how = {"steps": STEPS, "epochs": 2, "batch_size": 8, "device": "cpu", "precision": "64-true"} | settings
    checkpoint = None if folder is None else folder / "state.ckpt"
    return tp.fit_snn(snn, data(), checkpoint=checkpoint, **how)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_training_learns_the_same(penalty: float) -> None:
    plain, segmented = network(), network()
    one, other = (train(snn, spike_penalty=penalty, checkpoint_steps=k) for snn, k in ((plain, None), (segmented, 4)))
    assert [epoch.loss for epoch in other] == pytest.approx([epoch.loss for epoch in one], rel=1e-10)
    assert [epoch.operations for epoch in other] == pytest.approx([epoch.operations for epoch in one])
    for name, value in plain.state_dict().items():
        assert torch.allclose(segmented.state_dict()[name], value, rtol=1e-9, atol=1e-12), name


def test_a_checkpoint_of_other_segments_is_refused(tmp_path: Path) -> None:
    train(network(), tmp_path, checkpoint_steps=4)
    with pytest.raises(TrainingError, match="checkpoint_steps 4 instead of 2"):
        train(network(), tmp_path, checkpoint_steps=2)
    with pytest.raises(ValueError, match="checkpoint_steps"):
        train(network(), checkpoint_steps=0)


def test_mixed_precision_keeps_weights_and_learns(tmp_path: Path) -> None:
    """Against float32: other by the rounding of bfloat16, and not by more."""
    start = network(torch.float32)
    wide, mixed = copy.deepcopy(start), copy.deepcopy(start)
    how = {"steps": 2, "epochs": 3, "batch_size": 4, "device": "cpu"}
    one = tp.fit_snn(wide, data(torch.float32), **how)
    other = tp.fit_snn(mixed, data(torch.float32), precision="bf16-mixed", **how)
    assert all(value.dtype == torch.float32 for value in mixed.parameters())
    assert [epoch.loss for epoch in other] != [epoch.loss for epoch in one]
    assert [epoch.loss for epoch in other] == pytest.approx([epoch.loss for epoch in one], rel=0.1)
    moved = {name: value - start.state_dict()[name] for name, value in wide.state_dict().items()}
    for name, value in moved.items():
        if value.is_floating_point() and value.numel() > 1 and value.any():
            found = mixed.state_dict()[name] - start.state_dict()[name]
            assert torch.nn.functional.cosine_similarity(found.flatten(), value.flatten(), 0) > 0.7, name
    segmented = copy.deepcopy(start)
    tp.fit_snn(segmented, data(torch.float32), precision="bf16-mixed", checkpoint_steps=1, **how)
