"""BatchNorm over steps and samples while a converted network is trained: statistics in NumPy, folding, resuming."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import transpike as tp
from transpike.data import Data
from transpike.network.spiking import compiled
from transpike.serialization.model_info import InputSpec
from transpike.training import TrainingError
from transpike.training.batch_norms import ThresholdNorms
from transpike.training.fit_snn import _recording


def images(number: int = 40, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(number, 2, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)


def data(dtype: torch.dtype = torch.float32, number: int = 96) -> Data:
    labels = torch.arange(number) % 3
    shifts = torch.tensor([[0.9, -0.9], [-0.9, 0.9], [0.9, 0.9]], dtype=torch.float64)[labels]
    part = TensorDataset((images(number) + shifts[..., None, None]).to(dtype), labels)
    return Data(InputSpec((2, 6, 6), dataset="shifted"), part, part, part, part)


class Branches(nn.Module):
    """A shortcut with a convolution, a layer without a bias, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.short = nn.Conv2d(4, 4, 1)
        self.free = nn.Conv2d(4, 5, 1, bias=False)
        self.hidden = nn.Linear(5, 6)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.deep(x) + self.short(x))
        x = torch.relu(self.free(x)).mean((2, 3))
        return self.classifier(torch.relu(self.hidden(x)))


def network(dtype: torch.dtype = torch.float32) -> tp.SpikingNetwork:
    torch.manual_seed(0)
    model = Branches().to(dtype).eval()
    with torch.no_grad():
        model.norm.running_var.uniform_(0.5, 2)
        model.norm.running_mean.normal_()
    return tp.convert(model, calibration=[images(dtype=dtype)], example_inputs=images(4, dtype))


def blobs() -> Data:
    labels = torch.arange(96) % 3
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0)) + 2 * torch.eye(3, 4)[labels]
    part = TensorDataset(x, labels)
    return Data(InputSpec((4,), dataset="blobs"), part, part, part, part)


def perceptron() -> tp.SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    x, _ = blobs().train.tensors
    return tp.convert(model.eval(), calibration=[x], example_inputs=x)


def run(snn: tp.SpikingNetwork, x: torch.Tensor, steps: int) -> torch.Tensor:
    """Every step densely: watched runs do not go to the engine."""
    with torch.no_grad():
        return snn(x, steps=steps, observe=lambda *_: None)


def drives(snn: tp.SpikingNetwork, x: torch.Tensor, steps: int) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with torch.no_grad():
        snn(x, steps=steps, observe=lambda site, drive, _: found.update({site: drive.numpy().copy()}))
    return found


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float) -> bool:
    return all(np.allclose(found[site], drive, rtol=0, atol=tolerance) for site, drive in expected.items())


def test_layers_in_front_of_sites_are_normalised_and_start_as_they_are() -> None:
    snn, x = network(torch.float64), images()
    before = drives(snn, x, 3)
    with _recording(snn):
        norms = ThresholdNorms(snn, x, 3)
        assert set(norms) == {"stem", "deep", "short", "hidden"}  # not without a bias, not behind the last neurons
        modules = dict(snn.network.named_modules())
        assert [name for name in norms if modules[name].bias.requires_grad] == []
        assert modules["classifier"].bias.requires_grad
    norms.eval().attach()
    assert close(drives(snn, x, 3), before, 1e-9)
    norms.train()
    assert close(drives(snn, x, 3), before, 1e-9)
    norms.fold()
    assert close(drives(snn, x, 3), before, 1e-3)  # that run took the unbiased variance into the statistics


def test_statistics_are_those_of_all_steps_and_samples() -> None:
    """A site behind two normalised branches gets what NumPy computes of the branches' outputs."""
    snn, x = network(torch.float64), images()
    norms = ThresholdNorms(snn, x, 4).train()
    with torch.no_grad():
        for norm in norms.norms():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    spikes: dict[str, torch.Tensor] = {}
    norms.attach()
    first, second = (site.name for site in snn.sites[:2])
    found: dict[str, np.ndarray] = {}

    def observe(site: str, drive: torch.Tensor, events: torch.Tensor) -> None:
        found[site], spikes[site] = drive.numpy().copy(), events * snn.site(site).theta

    with torch.no_grad():
        snn(x, steps=4, observe=observe)
    norms.fold()
    sent = spikes[first].flatten(0, 1)
    assert sent.shape[0] == 4 * len(x)
    total = np.zeros_like(found[second])
    modules = dict(snn.network.named_modules())
    norms.attach()
    for name in ("deep", "short"):
        layer, norm = modules[name], norms[name]
        with torch.no_grad():
            value = nn.functional.conv2d(sent, layer.weight, layer.bias, padding=layer.padding).numpy()
        mean, var = value.mean((0, 2, 3), keepdims=True), value.var((0, 2, 3), keepdims=True)
        scale, shift = (p.detach().numpy().reshape(1, -1, 1, 1) for p in (norm.weight, norm.bias))
        total += ((value - mean) / np.sqrt(var + norm.eps) * scale + shift).reshape(total.shape)
    np.testing.assert_allclose(found[second], total, atol=1e-10)


def test_folding_keeps_what_running_statistics_compute() -> None:
    snn, x = network(torch.float64), images()
    norms = ThresholdNorms(snn, x, 2).train()
    norms.attach()
    with torch.no_grad():
        for norm in norms.norms():
            norm.weight.mul_(torch.empty_like(norm.weight).uniform_(-1.5, 1.5))
    run(snn, x[:10], 2)  # moves the running statistics
    norms.eval()
    raw = copy.deepcopy(snn.state_dict())
    expected = drives(snn, x, 2)
    norms.fold()
    norms.fold()
    found = drives(snn, x, 2)
    for site, drive in expected.items():
        np.testing.assert_allclose(found[site], drive, atol=1e-9)
    assert not torch.equal(snn.state_dict()["network.deep.weight"], raw["network.deep.weight"])
    norms.attach()
    norms.attach()
    assert all(torch.equal(value, raw[name]) for name, value in snn.state_dict().items())
    assert all(len(module._forward_hooks) <= 1 for module in snn.modules())


def test_one_number_per_channel_takes_the_running_statistics() -> None:
    x = torch.rand(8, 3)
    snn = tp.convert(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), calibration=[x], example_inputs=x)
    norms = ThresholdNorms(snn, x, 1).train()
    before = run(snn, torch.ones(1, 3), 1)
    norms.attach()
    assert torch.allclose(run(snn, torch.ones(1, 3), 1), before, atol=1e-4)


def test_a_smaller_batch_counts_for_less_in_the_running_statistics() -> None:
    snn, x = network(torch.float64), images()
    norms = ThresholdNorms(snn, x, 2).train()
    norms.attach()
    before = norms["stem"].running_mean.clone()
    for part in (x[:10], x):
        with torch.no_grad():
            own = nn.functional.conv2d(part, *dict(snn.network.named_modules())["stem"].parameters(), padding=1)
        run(snn, part, 2)
        expected = before + 0.1 * len(part) / 40 * (own.mean((0, 2, 3)) - before)
        assert torch.allclose(norms["stem"].running_mean, expected, rtol=0, atol=1e-12)
        before = expected


class Odd(nn.Module):
    """Layers that BatchNorm cannot be folded into: called twice, on tokens, with the weights of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.other, self.tokens = (nn.Linear(6, 6) for _ in range(4))
        self.other.weight = self.first.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.tokens(x))
        x = torch.relu(self.first(x.flatten(1, 2).mean(1)))
        x = torch.relu(self.other(x))
        return self.last(torch.relu(self.twice(torch.relu(self.twice(x)))))


def test_layers_that_it_cannot_be_folded_into_are_left_out() -> None:
    torch.manual_seed(0)
    x = images(dtype=torch.float32)
    snn = tp.convert(Odd().eval(), calibration=[x], example_inputs=x)
    with pytest.raises(TrainingError, match="behind none of the layers") as caught:
        tp.fit_snn(snn, data(), steps=1, epochs=1, batch_norm="tdbn", device="cpu")
    assert "--batch-norm" in caught.value.shell_fix


class Noisy(TensorDataset):
    """An augmentation that takes random numbers."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        image, label = super().__getitem__(index)
        return image + torch.rand(()), label


def test_the_start_does_not_depend_on_random_numbers_drawn_before() -> None:
    part = Noisy(*blobs().train.tensors)
    found = []
    for seed in (1, 2):
        snn = perceptron()
        torch.manual_seed(seed)
        tp.fit_snn(snn, replace(blobs(), train=part), steps=2, epochs=1, batch_norm="tdbn", device="cpu")
        found.append(snn.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize("other", [{"micro_batch": 8}, {"precision": "bf16-mixed"}])
def test_other_settings_train_too(other: dict) -> None:
    """16 samples in parts of 8 have other statistics, and so come to other weights."""
    settings = {"steps": 2, "epochs": 4, "learning_rate": 0.05, "batch_size": 16, "batch_norm": "tdbn", "device": "cpu"}
    whole, snn = perceptron(), perceptron()
    tp.fit_snn(whole, blobs(), **settings, teacher=None)
    history = tp.fit_snn(snn, blobs(), **settings, teacher=None, **other)
    assert max(epoch.validation_accuracy for epoch in history) > 60
    assert not all(torch.equal(value, whole.state_dict()[name]) for name, value in snn.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_norm": "live"}, "'folded', 'tdbn'"),
        ({"batch_norm": "tdbn", "checkpoint_steps": 1}, "all steps at once"),
        ({"compile": True, "spike_penalty": 1.0}, "leave one out"),
        ({"compile": True, "checkpoint_steps": 1}, "leave one out"),
    ],
)
def test_what_does_not_go_together_is_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tp.fit_snn(network(), data(), steps=2, epochs=1, **wrong)


def test_training_ends_in_an_ordinary_network() -> None:
    seen: list[tp.SpikingNetwork] = []
    snn, found = perceptron(), blobs()
    names = list(snn.state_dict())
    settings = {"steps": 2, "epochs": 4, "learning_rate": 0.05, "batch_size": 16, "batch_norm": "tdbn"}

    def keep(_: object, net: tp.SpikingNetwork) -> None:
        seen.append(copy.deepcopy(net))

    history = tp.fit_snn(snn, found, **settings, teacher=None, device="cpu", on_epoch=keep)
    assert list(snn.state_dict()) == names
    assert snn.trained is not None
    assert snn.trained.batch_norm is tp.rules.BatchNormMode.TDBN
    assert "tdBN" in str(snn.trained)
    assert not any(module._forward_hooks for net in (snn, *seen) for module in net.modules())
    assert not any(parameter.requires_grad for parameter in snn.parameters())
    x, labels = found.validation.tensors
    with torch.no_grad():
        for epoch, net in zip(history, seen, strict=True):
            right = (net(x, steps=2)[-1].argmax(1) == labels).double().mean()
            assert epoch.validation_accuracy == pytest.approx(100 * float(right))
        before = (perceptron()(x, steps=2)[-1].argmax(1) == labels).double().mean()
    assert max(epoch.validation_accuracy for epoch in history) > 100 * float(before) + 25
    best = max(range(4), key=lambda epoch: (history[epoch].validation_accuracy, epoch))
    assert all(torch.equal(value, seen[best].state_dict()[name]) for name, value in snn.state_dict().items())


def test_a_killed_training_goes_on_and_leaves_a_network_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transpike.training import lightning_snn

    straight, killed, resumed = perceptron(), perceptron(), perceptron()
    settings = {"steps": 2, "epochs": 4, "batch_size": 16, "learning_rate": 0.05, "batch_norm": "tdbn", "device": "cpu"}
    history = tp.fit_snn(straight, blobs(), **settings)
    step = lightning_snn._ThroughTime.training_step
    x, _ = blobs().validation.tensors
    answers: list[torch.Tensor] = []

    def die(self, batch, index: int) -> torch.Tensor:
        if self.current_epoch == 2 and index == 3:
            self.norms.eval()
            answers.append(run(killed, x, 2))
            raise MemoryError("killed")
        return step(self, batch, index)

    monkeypatch.setattr(lightning_snn._ThroughTime, "training_step", die)
    file = tmp_path / "state.ckpt"
    with pytest.raises(MemoryError):
        tp.fit_snn(killed, blobs(), **settings, checkpoint=file)
    monkeypatch.undo()
    assert not any(module._forward_hooks for module in killed.modules())
    assert (run(killed, x, 2) - answers[0]).abs().mean() < 1e-4  # a rounding may move a spike of one sample
    assert tp.fit_snn(resumed, blobs(), **settings, checkpoint=file) == history
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in resumed.state_dict().items())
    with pytest.raises(TrainingError, match="another training"):
        tp.fit_snn(perceptron(), blobs(), **{**settings, "batch_norm": "folded"}, checkpoint=file)


@pytest.mark.parametrize("batch_norm", ["folded", "tdbn"])
def test_compiled_training_computes_the_same(batch_norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs, whose last batch is smaller: a graph for both sizes and for validation, none for the second epoch."""
    graphs: list[torch.fx.GraphModule] = []
    compile_ = torch.compile

    def backend(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def compiled_here(function, **options):
        return compile_(function, **{**options, "backend": backend})

    monkeypatch.setattr(torch, "compile", compiled_here)
    plain, compiled = network(torch.float64), network(torch.float64)
    settings = {"steps": 2, "epochs": 2, "batch_size": 40, "batch_norm": batch_norm, "device": "cpu"}
    tp.fit_snn(plain, data(torch.float64), **settings)
    assert not graphs
    tp.fit_snn(compiled, data(torch.float64), **settings, compile=True)
    assert len(graphs) == 3
    start = network(torch.float64).state_dict()
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, compiled.state_dict()[name], rtol=1e-6, atol=1e-8), name
    assert not torch.equal(plain.state_dict()["network.deep.weight"], start["network.deep.weight"])


def test_nothing_is_compiled_after_a_training() -> None:
    snn = perceptron()
    with pytest.raises(ValueError, match="at least 1"), compiled(snn):
        snn(torch.ones(1, 4), steps=0)
    assert snn._backend_cache().options is None
    snn.compile(mode="default")
    with compiled(snn):
        assert snn._backend_cache().options["mode"] == "default"
    assert snn._backend_cache().options["mode"] == "default"
