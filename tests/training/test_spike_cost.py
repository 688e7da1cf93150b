from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import transpike as tp
from transpike.data import Data
from transpike.serialization.model_info import InputSpec
from transpike.training import TrainingError, fit
from transpike.training.spike_cost import SpikeCost, fan_out


class Residual(nn.Module):
    """A block with a shortcut, pooling and a classifier, on 2 channels of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.second = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        y = F.relu(self.norm(self.second(y)) + y)
        return self.head(F.avg_pool2d(y, 2).flatten(1))


def test_operations_are_the_weights_that_spikes_meet() -> None:
    found = fan_out(tp.tailor(Residual(), tp.activations.QCFS(4)), torch.zeros(3, 1, 4, 4))
    # The first site is read by the second convolution, 2 x 4 x 4 values of 2 x 9 products, and by the sum, without any.
    # Each of the 8 values behind the pooling gathers the spikes of 4 neurons, and each spike meets 5 weights.
    assert list(found.values()) == [2 * 4 * 4 * 2 * 9, 5 * 2 * 4 * 4]


def test_groups_strides_and_transposed_convolutions_count_their_own_products() -> None:
    model = nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, stride=2),
        nn.ReLU(),
    )
    found = fan_out(tp.tailor(model, tp.activations.QCFS(4)), torch.zeros(1, 4, 8, 8))
    # 4 x 4 x 4 outputs of (4 / 2) x 9 products; 4 x 4 x 4 inputs that each reach 6 x 2 x 2 outputs. The last is unread.
    assert list(found.values()) == [4 * 4 * 4 * 2 * 9, 4 * 4 * 4 * 6 * 2 * 2]


class Concatenation(nn.Module):
    """One channel and two, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(x[:, :1]), F.relu(x - 1)], 1))


def test_sites_share_a_layer_that_reads_them_together() -> None:
    found = fan_out(tp.tailor(Concatenation(), tp.activations.QCFS(4)), torch.zeros(1, 2, 3, 3))
    assert list(found.values()) == [1 * 9 * 5, 2 * 9 * 5]  # neurons times weights that each spike meets


@pytest.mark.parametrize(("drive", "share"), [(-9.0, 0.0), (0.5, 0.5), (99.0, 1.0)])
def test_the_share_runs_from_silence_to_a_spike_at_every_step(drive: float, share: float) -> None:
    net = tp.tailor(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), tp.activations.QCFS(4, theta_init=1.0)).train()
    cost = SpikeCost(net, torch.zeros(1, 3))
    net(torch.full((5, 3), drive))
    assert float(cost.take().detach()) == pytest.approx(share)


def test_only_training_counts_and_hooks_can_be_removed() -> None:
    net = tp.tailor(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)), tp.activations.QCFS(4))
    cost = SpikeCost(net, torch.zeros(1, 3))
    net.eval()(torch.ones(2, 3))
    net.train()(torch.full((2, 3), 16.0))
    assert float(cost.take().detach()) == 1.0
    cost.remove()
    net(torch.ones(2, 3))
    assert not cost._rates


def blobs() -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.randn(96, 4, generator=generator) + 4 * torch.eye(3, 4)[labels]
    dataset = TensorDataset(images, labels)
    return Data(InputSpec((4,), dataset="blobs"), dataset, dataset, dataset, dataset)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    return tp.tailor(model, tp.activations.QCFS(4, theta_init=2.0))


def test_one_step_descends_on_the_loss_with_the_penalty() -> None:
    """Written out: cross-entropy plus the penalty times rates weighted with 16 x 16 and 16 x 3 products."""
    net = network()
    by_hand = copy.deepcopy(net).train()
    data = blobs()
    settings = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 96}
    history = fit(net, data, epochs=1, spike_penalty=2.0, **settings)
    images, labels = data.train.tensors
    first, one, second, two, last = by_hand.children()
    a = one(first(images))
    b = two(second(a))
    values = last(b)
    share = (16 * 16 * (a / one.theta).mean() + 16 * 3 * (b / two.theta).mean()) / (16 * 16 + 16 * 3)
    (F.cross_entropy(values, labels) + 2.0 * share).backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.1 * parameter.grad
    for ours, theirs in zip(net.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert history[0].operations == pytest.approx(share.item(), abs=1e-6)
    assert history[0].loss == pytest.approx(F.cross_entropy(values, labels).item(), abs=1e-5)


def test_spikes_become_fewer_at_equal_accuracy(tmp_path: Path) -> None:
    plain, sparse = network(), network()
    settings = {"epochs": 30, "learning_rate": 0.05, "batch_size": 16}
    fit(plain, blobs(), **settings)
    history = fit(sparse, blobs(), spike_penalty=1.0, checkpoint=tmp_path / "a.ckpt", **settings)
    assert history[-1].validation_accuracy > 98
    images = blobs().test.tensors[0]
    spikes = []
    for net in (plain, sparse):
        found: list[float] = []
        with torch.no_grad():
            tp.convert(net, example_inputs=images)(
                images, steps=8, observe=lambda site, drive, events, found=found: found.append(float(events.sum()))
            )
        spikes.append(sum(found))
    assert spikes[1] < 0.6 * spikes[0]
    assert history[-1].operations < history[0].operations
    again = fit(network(), blobs(), spike_penalty=1.0, checkpoint=tmp_path / "a.ckpt", **settings)
    assert again == history  # the file holds what was spent, too


@pytest.mark.parametrize("penalty", [-1.0, float("nan"), float("inf")])
def test_penalties_out_of_range_are_refused(penalty: float) -> None:
    with pytest.raises(ValueError, match="spike_penalty"):
        fit(network(), blobs(), epochs=1, spike_penalty=penalty)


def test_networks_without_trained_activations_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    for net in (model, tp.tailor(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), tp.activations.QCFS(4))):
        with pytest.raises(TrainingError, match=r"transpike\.tailor"):
            fit(net, blobs(), epochs=1, spike_penalty=1.0)


def test_nothing_stays_on_the_network_after_training_or_an_error(tmp_path: Path) -> None:
    net = network()
    fit(net, blobs(), epochs=1, spike_penalty=1.0)
    with pytest.raises(ValueError, match=r"\.ckpt"):
        fit(net, blobs(), epochs=1, spike_penalty=1.0, checkpoint=tmp_path / "state.bin")
    assert not any(module._forward_hooks for module in net.modules())


def test_compiled_training_counts_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where another order of sums stays far below the tolerance; the last batch is a smaller one."""
    compiled_calls: list[object] = []
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: compiled_calls.append(f) or compile_(f, **options))
    torch.manual_seed(0)
    start = tp.tailor(Residual().double(), tp.activations.QCFS(4))
    images, labels = torch.rand(12, 1, 4, 4, dtype=torch.float64), torch.arange(12) % 5
    dataset = TensorDataset(images, labels)
    data = Data(InputSpec((1, 4, 4), dataset="made"), dataset, dataset, dataset, dataset)
    trained = []
    for compiled in (False, True):
        network = copy.deepcopy(start)
        history = fit(network, data, epochs=2, batch_size=8, spike_penalty=3.0, device="cpu", compile=compiled)
        trained.append((history[-1], network.state_dict()))
    assert len(compiled_calls) == 1
    (eager, expected), (fast, found) = trained
    assert fast.operations == pytest.approx(eager.operations, rel=1e-5)
    assert fast.loss == pytest.approx(eager.loss, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-9)
