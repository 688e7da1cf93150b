from __future__ import annotations

import copy
import math
import signal
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import transpike as tp
from transpike.data import Data
from transpike.errors import CheckpointError
from transpike.serialization.container import read_container
from transpike.serialization.model_info import InputSpec
from transpike.training import TrainingError, fit
from transpike.training.fit import EpochShuffle, digest_data
from transpike.training.lightning import fast_layout
from transpike.training.optimizers import parameter_groups


def blobs(seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(96) % 3
    images = torch.randn(96, 4, generator=generator) + 4 * torch.eye(3, 4)[labels]
    dataset = TensorDataset(images, labels)
    return Data(InputSpec((4,), dataset="blobs"), dataset, dataset, dataset, dataset)


def network(seed: int = 0, **settings) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
    return tp.tailor(model, tp.activations.SlipReLU(2, 0.3, theta_init=2.0, **settings))


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


def test_it_learns_and_reports() -> None:
    net = network()
    history = fit(net, blobs(), epochs=8, learning_rate=0.1, batch_size=16)
    assert [epoch.epoch for epoch in history] == list(range(1, 9))
    assert history[-1].loss < history[0].loss / 2
    assert history[-1].validation_accuracy > 95
    with torch.no_grad():
        images, labels = blobs().validation.tensors
        exact = 100 * (net(images).argmax(1) == labels).double().mean()
    assert history[-1].validation_accuracy == pytest.approx(float(exact))
    assert not net.training


@pytest.mark.parametrize(("warmup", "rates"), [(0, (0.2, 0.1)), (3, (0.05, 0.05))])
def test_the_arithmetic_is_sgd_with_cosine(warmup: int, rates: tuple[float, float]) -> None:
    """Two epochs of one batch, written out: momentum, weight decay on everything, lr * (1 + cos(pi e / E)) / 2.

    While warming up for W steps, step i of 1, 2, ... takes i / (W + 1) of it.
    """
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3))
    by_hand = copy.deepcopy(model)
    data = blobs()
    fit(model, data, epochs=2, learning_rate=0.2, warmup_steps=warmup, batch_size=96)
    images, labels = data.train.tensors
    buffers = [torch.zeros_like(p) for p in by_hand.parameters()]
    for rate in rates:
        by_hand.zero_grad()
        nn.functional.cross_entropy(by_hand(images), labels).backward()
        with torch.no_grad():
            for parameter, buffer in zip(by_hand.parameters(), buffers, strict=True):
                buffer.mul_(0.9).add_(parameter.grad + 5e-4 * parameter)
                parameter -= rate * buffer
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_strided_convolutions_of_few_channels_are_trained_right() -> None:
    """Channels last they let oneDNN write past its buffer; more channels do not, and are faster so."""

    def strided(channels: int) -> nn.Module:
        torch.manual_seed(0)
        layers = nn.Conv2d(1, channels, 1), nn.ReLU(), nn.Conv2d(channels, 8, 1, stride=2, bias=False)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 4 * 4, 10))

    assert fast_layout(strided(4)) == torch.contiguous_format
    assert fast_layout(strided(16)) == torch.channels_last
    data, net, by_hand = tp.data.digits(), strided(4), strided(4).double()
    images, labels = next(iter(tp.data.loader(data.train, batch_size=len(data.train))))
    nn.functional.cross_entropy(by_hand(images.double()), labels).backward()
    fit(net, data, epochs=1, learning_rate=0.1, weight_decay=0.0, batch_size=len(labels))
    for found, start in zip(net.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(found.double(), start - 0.1 * start.grad, atol=1e-5)


def test_the_arithmetic_of_adam() -> None:
    """Three epochs of one batch, written out: steps in units of each parameter's size, weight decay on their own."""
    torch.manual_seed(1)
    slip = tp.activations.SlipReLU(2, 0.3, theta_init=2.0, decay_theta=False)
    model = tp.tailor(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), slip)
    by_hand, data = copy.deepcopy(model), blobs()
    fit(model, data, epochs=3, optimizer="adam", momentum=0.8, weight_decay=2.0, batch_size=96)
    images, labels = data.train.tensors
    parameters = dict(by_hand.named_parameters())
    size = {name: float(p.detach().square().mean().sqrt()) for name, p in parameters.items()}
    first, second = ({name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(2))
    for step in (1, 2, 3):
        rate = 0.003 * (1 + math.cos(math.pi * (step - 1) / 3)) / 2
        by_hand.zero_grad()
        nn.functional.cross_entropy(by_hand(images), labels).backward()
        with torch.no_grad():
            for name, p in parameters.items():
                first[name] = 0.8 * first[name] + 0.2 * p.grad
                second[name] = 0.999 * second[name] + 0.001 * p.grad**2
                direction = first[name] / (1 - 0.8**step) / ((second[name] / (1 - 0.999**step)).sqrt() + 1e-8)
                p -= rate * (0.0 if name.endswith("theta") else 2.0) * p + rate * size[name] * direction
    for name, found in model.named_parameters():
        assert torch.allclose(found, parameters[name], atol=1e-6), name


def test_a_teacher_is_learnt_besides_the_labels() -> None:
    """One step written out; the teacher is a copy in evaluation mode, and stays as it is."""
    torch.manual_seed(1)
    model, teacher = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    by_hand, before = copy.deepcopy(model), copy.deepcopy(teacher.state_dict())
    data = blobs()
    settings = {"learning_rate": 0.2, "weight_decay": 0.0, "batch_size": 96}
    fit(model, data, epochs=1, **settings, teacher=teacher, temperature=3.0, distillation=0.7)
    images, labels = data.train.tensors
    answers = by_hand(images)
    soft = (teacher[0](images) / 3).softmax(1).detach()
    divergence = (soft * (soft.log() - (answers / 3).log_softmax(1))).sum(1).mean()
    hard = -answers.log_softmax(1)[torch.arange(96), labels].mean()
    (0.3 * hard + 0.7 * 9 * divergence).backward()
    for ours, start in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, start - 0.2 * start.grad, atol=1e-6)
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in teacher.parameters())


def test_unfit_teachers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the teacher answers \[1, 5\], the network \[1, 3\]"):
        fit(network(), blobs(), epochs=1, teacher=nn.Linear(4, 5))
    for wrong in ({"temperature": 0.0}, {"distillation": 1.5}):
        with pytest.raises(ValueError):
            fit(network(), blobs(), epochs=1, teacher=network(1), **wrong)
    file = tmp_path / "state.ckpt"
    fit(network(), blobs(), epochs=1, teacher=network(1), checkpoint=file)
    for other in (network(2), None):
        with pytest.raises(TrainingError, match="another teacher"):
            fit(network(), blobs(), epochs=1, teacher=other, checkpoint=file)
    with pytest.raises(TrainingError, match=r"temperature 2\.0 instead of 4\.0"):
        fit(network(), blobs(), epochs=1, teacher=network(1), temperature=4.0, checkpoint=file)
    assert len(fit(network(), blobs(), epochs=1, teacher=network(1), checkpoint=file)) == 1


def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, killed, resumed = network(), network(), network()
    settings = {"epochs": 4, "warmup_steps": 20, "batch_size": 16}  # of six steps per epoch
    history = fit(straight, blobs(), **settings)
    from transpike.training import lightning

    begin = lightning._Classifier.on_train_epoch_start

    def die(self) -> None:
        if self.current_epoch == 2:
            raise MemoryError("killed")
        begin(self)

    monkeypatch.setattr(lightning._Classifier, "on_train_epoch_start", die)
    file = tmp_path / "state.ckpt"
    with pytest.raises(MemoryError):
        fit(killed, blobs(), **settings, checkpoint=file)
    monkeypatch.undo()
    assert read_container(file)[1]["kind"] == "training"
    assert fit(resumed, blobs(), **settings, checkpoint=file) == history
    assert same(straight, resumed)
    assert not same(straight, killed)
    assert [p.name for p in tmp_path.iterdir()] == ["state.ckpt"]


def test_a_foreign_or_damaged_state_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "state.ckpt"
    fit(network(), blobs(), epochs=1, checkpoint=file)
    with pytest.raises(TrainingError, match="epochs 1 instead of 2"):
        fit(network(), blobs(), epochs=2, checkpoint=file)
    with pytest.raises(TrainingError, match="another network"):
        fit(nn.Sequential(nn.Linear(4, 3)), blobs(), epochs=1, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="damaged"):
        fit(network(), blobs(), epochs=1, checkpoint=file)
    with pytest.raises(ValueError, match=r"\.ckpt"):
        fit(network(), blobs(), epochs=1, checkpoint=tmp_path / "state.bin")


def other_validation() -> Data:
    data = blobs()
    images, labels = data.train.tensors
    other = TensorDataset(images, labels.roll(1))
    return Data(data.inputs, data.train, data.calibration, other, data.test)


def other_label() -> Data:
    images, labels = blobs().train.tensors
    labels = labels.clone()
    labels[-1] = (labels[-1] + 1) % 3
    dataset = TensorDataset(images, labels)
    return Data(InputSpec((4,), dataset="blobs"), dataset, dataset, blobs().validation, dataset)


class Noisy(TensorDataset):
    """Augmentation by torch's generator."""

    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.randn(image.shape), label


def augmented() -> Data:
    data = blobs()
    return Data(data.inputs, Noisy(*data.train.tensors), data.calibration, data.validation, data.test)


def frozen() -> nn.Module:
    net = network()
    next(net.parameters()).requires_grad_(False)
    return net


@pytest.mark.parametrize(
    ("start", "data", "message"),
    [
        (lambda: network(1), blobs, "other weights at the start"),
        (lambda: network(decay_theta=False), blobs, "another network"),
        (lambda: network(gradient="paper"), blobs, "another network"),
        (frozen, blobs, "another network"),
        (network, other_label, "other data"),
        (network, other_validation, "other data"),
        (network, lambda: blobs(1), "other data"),
        (network, augmented, "prepared otherwise"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_the_state_of_another_training_is_never_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start, data, message: str, finished: bool
) -> None:
    """Neither a finished training answers for another one, nor does another one go on from it."""
    file = tmp_path / "state.ckpt"
    if finished:
        fit(network(), blobs(), epochs=2, checkpoint=file)
    else:
        interrupt_in_epoch(1, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            fit(network(), blobs(), epochs=2, checkpoint=file)
        monkeypatch.undo()
    before, net = file.read_bytes(), start()
    weights = copy.deepcopy(net.state_dict())
    with pytest.raises(TrainingError, match=message) as caught:
        fit(net, data(), epochs=2, checkpoint=file)
    assert "remove this file" in caught.value.fix
    assert str(file) in caught.value.where
    assert file.read_bytes() == before
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in weights.items())
    again = network()
    assert len(fit(again, blobs(), epochs=2, checkpoint=file)) == 2  # its own training still goes on from it


def interrupt_in_epoch(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C when an epoch, counted from 0, begins."""
    from transpike.training import lightning

    begin = lightning._Classifier.on_train_epoch_start

    def interrupt(self) -> None:
        if self.current_epoch == epoch:
            signal.raise_signal(signal.SIGINT)
        begin(self)

    monkeypatch.setattr(lightning._Classifier, "on_train_epoch_start", interrupt)


def test_ctrl_c_is_a_keyboard_interrupt_and_the_next_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGINT)
    interrupt_in_epoch(1, monkeypatch)
    for file in ("a.ckpt", "b.ckpt"):
        with pytest.raises(KeyboardInterrupt):
            fit(network(), blobs(), epochs=3, checkpoint=tmp_path / file)
        assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.undo()
    straight, resumed = network(), network()
    history = fit(straight, blobs(), epochs=3)
    assert fit(resumed, blobs(), epochs=3, checkpoint=tmp_path / "a.ckpt") == history
    assert same(straight, resumed)


def test_the_digest_of_data_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    assert digest_data(augmented()) == digest_data(augmented())
    assert torch.equal(state, torch.get_rng_state())


def test_divergence_is_an_error() -> None:
    with pytest.raises(TrainingError, match="smaller learning rate"):
        fit(nn.Sequential(nn.Linear(4, 3)), blobs(), epochs=20, learning_rate=1e30, batch_size=16)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"batch_size": 0},
        {"optimizer": "lion"},
    ],
)
def test_wrong_settings(wrong: dict) -> None:
    with pytest.raises(ValueError):
        fit(network(), blobs(), **{"epochs": 1, **wrong})


def test_theta_decays_unless_told_otherwise() -> None:
    (group,) = parameter_groups(network(), 0.1)
    assert group["weight_decay"] == 0.1
    decayed, exempt = parameter_groups(network(decay_theta=False), 0.1)
    assert exempt["weight_decay"] == 0.0
    assert [tuple(p.shape) for p in exempt["params"]] == [()]
    assert len(decayed["params"]) == 6


def test_order_depends_on_seed_and_epoch() -> None:
    sampler = EpochShuffle(50, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(50))
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(EpochShuffle(50, seed=2)) != first


def test_on_epoch_sees_every_epoch_and_changes_nothing() -> None:
    seen = []

    def look(epoch: tp.training.Epoch, net: nn.Module) -> None:
        torch.rand(7)  # dropout and order must not notice
        seen.append((epoch, [parameter.detach().clone() for parameter in net.parameters()]))

    plain, watched = network(), network()
    fit(plain, blobs(), epochs=3, batch_size=16)
    history = fit(watched, blobs(), epochs=3, batch_size=16, on_epoch=look)
    assert same(plain, watched)
    assert [epoch for epoch, _ in seen] == history
    assert all(torch.equal(a, b) for a, b in zip(seen[-1][1], watched.parameters(), strict=True))
    assert not torch.equal(seen[0][1][0], seen[1][1][0])


def test_what_on_epoch_raises_ends_the_training_and_a_resumed_one_reports_the_rest(tmp_path: Path) -> None:
    epochs = []

    def stop(epoch: tp.training.Epoch, net: nn.Module) -> None:
        epochs.append(epoch.epoch)
        if epochs == [1, 2]:
            raise OSError("the disk is gone")

    again = {"epochs": 3, "batch_size": 16, "checkpoint": tmp_path / "state.ckpt", "on_epoch": stop}
    with pytest.raises(OSError, match="the disk is gone"):
        fit(network(), blobs(), **again)
    fit(network(), blobs(), **again)
    assert epochs == [1, 2, 2, 3]
