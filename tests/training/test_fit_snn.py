"""Training through time, against derivatives carried forward by hand and losses in NumPy."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import transpike as tp
from transpike.data import Data
from transpike.errors import ModelError
from transpike.neurons.integrate_fire import Reset
from transpike.serialization.container import read_container, write_container
from transpike.serialization.model_info import InputSpec
from transpike.training import MeanLoss, TETLoss, TrainingError
from transpike.training.output_losses import distilled, outputs_of


def as_data(images: torch.Tensor, labels: torch.Tensor, checked: torch.Tensor | None = None) -> Data:
    part = TensorDataset(images, labels)
    validation = TensorDataset(images, labels if checked is None else checked)
    return Data(InputSpec(tuple(images.shape[1:]), dataset="blobs"), part, part, validation, part)


def blobs(dtype: torch.dtype = torch.float32, shift: int = 0) -> Data:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    images = torch.randn(96, 4, generator=generator) + 2 * torch.eye(3, 4)[labels]
    return as_data(images.to(dtype), labels, (labels + shift) % 3)


def network(dtype: torch.dtype = torch.float32, conversion: tp.Conversion | None = None) -> tp.SpikingNetwork:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    tailored = tp.tailor(model, tp.activations.QCFS(4, theta_init=1.5)).to(dtype).eval()
    return tp.convert(tailored, conversion, example_inputs=blobs(dtype).train.tensors[0][:8])


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.fixture
def plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient descent in place of Adam, so that a step shows the gradient itself."""
    from transpike.training import lightning_snn

    def optimizer(self):
        learning = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        return self.with_cosine(torch.optim.SGD(learning, lr=self.settings["learning_rate"]))

    monkeypatch.setattr(lightning_snn._ThroughTime, "configure_optimizers", optimizer)


# --- derivatives -----------------------------------------------------------------------------------------------------

NAMES = ("w1", "theta1", "v1", "w2", "b2", "theta2", "v2", "w3a", "w3b")
START = dict(zip(NAMES, (0.7, 0.8, 0.3, 1.1, 0.15, 0.9, 0.2, 0.6, -0.4), strict=True))


def chain(reset: Reset) -> tp.SpikingNetwork:
    """x -> w1 -> neuron -> w2, b2 -> neuron -> (w3a, w3b), in float64."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2, False))
    model = model.double()
    with torch.no_grad():
        model[0].weight.fill_(START["w1"])
        model[2].weight.fill_(START["w2"])
        model[2].bias.fill_(START["b2"])
        model[4].weight.copy_(torch.tensor([[START["w3a"]], [START["w3b"]]], dtype=torch.float64))
    example = torch.rand(4, 1, dtype=torch.float64)
    conversion = tp.Conversion(tp.rules.Maximum(tp.PerLayer()), neuron=tp.neurons.IF(reset=reset))
    snn = tp.convert(model, conversion, calibration=[example], example_inputs=example)
    for site, number in zip(snn.sites, "12", strict=True):
        snn.site(site.name).set_threshold(torch.tensor(START[f"theta{number}"], dtype=torch.float64))
        snn.site(site.name).set_initial_potential(torch.tensor(START[f"v{number}"], dtype=torch.float64))
    return snn


def numbers(snn: tp.SpikingNetwork) -> dict[str, float]:
    first, second = (snn.site(site.name) for site in snn.sites)
    (w1,), (w2, b2), (w3,) = (
        list(module.parameters()) for module in snn.network.modules() if type(module) is nn.Linear
    )
    values = (w1, first.theta, first.v_init, w2, b2, second.theta, second.v_init, w3[0], w3[1])
    return {name: float(value) for name, value in zip(NAMES, values, strict=True)}


class Dual:
    """A value with its derivatives by all parameters."""

    def __init__(self, value: float, by: np.ndarray | None = None) -> None:
        self.value, self.by = value, np.zeros(len(NAMES)) if by is None else by

    def __add__(self, other: Dual) -> Dual:
        return Dual(self.value + other.value, self.by + other.by)

    def __mul__(self, other: Dual) -> Dual:
        return Dual(self.value * other.value, self.value * other.by + other.value * self.by)


def fires(u: Dual, theta: Dual) -> Dual:
    """1 where u >= theta; its derivative is the triangle of the distance in thresholds, over theta."""
    slope = max(0.0, 1 - abs((u.value - theta.value) / theta.value)) / theta.value
    return Dual(float(u.value >= theta.value), slope * (u.by - theta.by))


def derivatives(x: float, label: int, steps: int, reset: Reset, penalty: float) -> np.ndarray:
    """Of the cross-entropy of the mean output and the penalty, carried forward step by step."""
    p = {name: Dual(START[name], np.eye(len(NAMES))[index]) for index, name in enumerate(NAMES)}
    minus = Dual(-1.0)
    v = {1: p["v1"], 2: p["v2"]}
    logits, operations = [Dual(0.0), Dual(0.0)], Dual(0.0)
    for _ in range(steps):
        value = Dual(x) * p["w1"]
        for layer, share in ((1, 1 / 3), (2, 2 / 3)):  # a spike of the first site meets one weight, of the second two
            theta = p[f"theta{layer}"]
            u = v[layer] + value
            event = fires(u, theta)
            v[layer] = u + minus * (theta if reset is Reset.SOFT else u) * event
            operations = operations + Dual(share / steps) * event
            value = theta * event
            if layer == 1:
                value = value * p["w2"] + p["b2"]
        logits = [logit + Dual(1 / steps) * value * p[name] for logit, name in zip(logits, ("w3a", "w3b"), strict=True)]
    soft = np.exp([logit.value for logit in logits])
    soft = soft / soft.sum()
    by = sum((soft[k] - (k == label)) * logits[k].by for k in range(2))
    return by + penalty * operations.by


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize("reset", list(Reset))
@pytest.mark.parametrize(("steps", "penalty"), [(2, 0.0), (3, 0.0), (3, 0.7)])
def test_a_step_follows_derivatives_carried_forward_through_time(reset: Reset, steps: int, penalty: float) -> None:
    cases = [(0.9, 0), (1.3, 1), (0.4, 1)]
    images = torch.tensor([[x] for x, _ in cases], dtype=torch.float64)
    data = as_data(images, torch.tensor([label for _, label in cases]))
    snn, rate = chain(reset), 1e-3
    settings = {"teacher": None, "spike_penalty": penalty, "device": "cpu"}
    tp.fit_snn(snn, data, steps=steps, epochs=1, learning_rate=rate, **settings)
    found = (np.array(list(START.values())) - np.array(list(numbers(snn).values()))) / rate
    expected = np.mean([derivatives(x, label, steps, reset, penalty) for x, label in cases], 0)
    assert np.count_nonzero(np.abs(expected) > 1e-3) >= 8  # the case is no idle one
    np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.usefixtures("plain_steps")
def test_thresholds_stay_positive() -> None:
    images = torch.tensor([[0.9], [1.3]], dtype=torch.float64)
    for label in (0, 1):
        snn = chain(Reset.SOFT)
        data = as_data(images, torch.full((2,), label))
        settings = {"teacher": None, "device": "cpu"}
        slope = np.mean([derivatives(float(x), label, 2, Reset.SOFT, 0.0) for x in images], 0)[NAMES.index("theta2")]
        tp.fit_snn(snn, data, steps=2, epochs=1, learning_rate=50.0, **settings)
        free = START["theta2"] - 50 * slope
        assert numbers(snn)["theta2"] == pytest.approx(max(free, 0.01 * START["theta2"]))
        if label == 0:  # answering 0 needs a larger value of the second neuron, so its threshold grows
            assert free > START["theta2"]
        else:
            assert free < 0


def test_a_step_is_in_proportion_to_the_size_of_what_learns() -> None:
    """Adam's first step has the sign of the gradient, and the learning rate for a length."""
    snn, rate = chain(Reset.SOFT), 1e-3
    data = as_data(torch.tensor([[0.9], [1.3]], dtype=torch.float64), torch.tensor([0, 0]))
    tp.fit_snn(snn, data, steps=2, epochs=1, learning_rate=rate, teacher=None, device="cpu")
    slopes = np.mean([derivatives(x, 0, 2, Reset.SOFT, 0.0) for x in (0.9, 1.3)], 0)
    assert np.abs(slopes).min() > 1e-4
    last = np.sqrt((START["w3a"] ** 2 + START["w3b"] ** 2) / 2)
    units = {**START, "v1": START["theta1"], "v2": START["theta2"], "w3a": last, "w3b": last}
    expected = {
        name: START[name] - rate * units[name] * np.sign(slope) for name, slope in zip(NAMES, slopes, strict=True)
    }
    assert numbers(snn) == pytest.approx(expected, rel=1e-6)


# --- losses ----------------------------------------------------------------------------------------------------------


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(-1, keepdims=True))


def test_the_distillation_loss_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 5, 4)) * 3
    labels = np.array([0, 3, 1, 1, 2])
    tau, share = 2.5, 0.3
    hard = -log_softmax(logits)[np.arange(5), labels].mean()
    q, p = log_softmax(teacher / tau), log_softmax(logits / tau)
    soft = (np.exp(q) * (q - p)).sum(1).mean()
    found = distilled(*(torch.from_numpy(value) for value in (logits, labels, teacher)), tau, share)
    assert float(found) == pytest.approx((1 - share) * hard + share * tau**2 * soft, rel=1e-12)
    assert float(distilled(torch.ones(2, 3), torch.zeros(2).long(), torch.ones(2, 3), 1.0, 1.0)) == 0


@pytest.mark.parametrize("regulariser", [0.0, 0.25])
def test_tet_averages_the_loss_of_every_step(regulariser: float) -> None:
    outputs = np.random.default_rng(1).normal(size=(3, 4, 5))
    means = np.cumsum(outputs, 0) / np.arange(1, 4)[:, None, None]
    labels = np.array([4, 0, 0, 2])
    np.testing.assert_allclose(outputs_of(torch.from_numpy(means)).numpy(), outputs, atol=1e-12)

    def criterion(logits: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, torch.from_numpy(labels))

    each = [-log_softmax(row)[np.arange(4), labels].mean() for row in outputs]
    expected = (1 - regulariser) * np.mean(each) + regulariser * np.mean((outputs - 0.5) ** 2)
    found = TETLoss(regulariser, target=0.5).of(torch.from_numpy(means), criterion)
    assert float(found) == pytest.approx(expected, rel=1e-12)
    last = -log_softmax(means[-1])[np.arange(4), labels].mean()
    assert float(MeanLoss().of(torch.from_numpy(means), criterion)) == pytest.approx(last, rel=1e-12)


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize("loss", [MeanLoss(), TETLoss(0.05)])
def test_parts_of_a_batch_give_the_gradients_of_the_whole(loss) -> None:
    """96 samples in batches of 40, 40 and 16; in parts of 10 the last one has 6."""
    whole, parts = network(torch.float64), network(torch.float64)
    settings = {"steps": 3, "epochs": 2, "learning_rate": 0.05, "batch_size": 40, "loss": loss, "spike_penalty": 0.5}
    data = blobs(torch.float64)
    history = tp.fit_snn(whole, data, **settings, device="cpu")
    again = tp.fit_snn(parts, data, **settings, micro_batch=10, device="cpu")
    assert [epoch.validation_accuracy for epoch in again] == [epoch.validation_accuracy for epoch in history]
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], rtol=0, atol=1e-12), name
    assert not same(whole, network(torch.float64))


def test_the_penalty_counts_the_spikes_of_the_run() -> None:
    snn, data = network(), blobs()
    images, _ = data.train.tensors
    counted: dict[str, int] = {}
    with torch.no_grad():
        snn(images, steps=2, count=lambda site, spikes: counted.update({site: int(spikes.sum())}))
    first, second = (counted[site.name] for site in snn.sites)
    expected = (6 * first + 3 * second) / (96 * 2 * (8 * 6 + 6 * 3))
    (epoch,) = tp.fit_snn(snn, data, steps=2, epochs=1, batch_size=96, spike_penalty=1.0, device="cpu")
    assert epoch.operations == pytest.approx(expected, rel=1e-5)
    quiet, loud = network(), network()
    settings = {"steps": 2, "epochs": 6, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"}
    few = tp.fit_snn(quiet, data, **settings, spike_penalty=3.0)[-1].operations
    many = tp.fit_snn(loud, data, **settings, spike_penalty=1e-9)[-1].operations
    assert few < many - 0.05


# --- the training as a whole -----------------------------------------------------------------------------------------


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transpike.training import lightning_snn

    straight, killed, resumed = network(), network(), network()
    settings = {"steps": 2, "epochs": 4, "warmup_steps": 9, "batch_size": 16, "spike_penalty": 0.1, "device": "cpu"}
    history = tp.fit_snn(straight, blobs(), **settings)
    begin = lightning_snn._ThroughTime.on_train_epoch_start

    def die(self) -> None:
        if self.current_epoch == 2:
            raise MemoryError("killed")
        begin(self)

    monkeypatch.setattr(lightning_snn._ThroughTime, "on_train_epoch_start", die)
    file = tmp_path / "state.ckpt"
    with pytest.raises(MemoryError):
        tp.fit_snn(killed, blobs(), **settings, checkpoint=file)
    monkeypatch.undo()
    assert killed.trained is None
    assert not any(parameter.requires_grad for parameter in killed.parameters())
    assert tp.fit_snn(resumed, blobs(), **settings, checkpoint=file) == history
    assert same(straight, resumed)
    finished = network()
    assert tp.fit_snn(finished, blobs(), **settings, checkpoint=file) == history
    assert same(straight, finished)
    for other in ({"steps": 3}, {"teacher": None}, {"loss": TETLoss()}, {"micro_batch": 8}, {"temperature": 3.0}):
        with pytest.raises(TrainingError, match="another training"):
            tp.fit_snn(network(), blobs(), **{**settings, **other}, checkpoint=file)


@pytest.mark.parametrize("killed_in", [None, 3])
def test_the_best_epoch_on_the_validation_part_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: int | None
) -> None:
    """Validation labels are wrong here, so that training makes it worse; also where the best epoch is in the file."""
    from transpike.training import lightning_snn

    seen: list[dict[str, torch.Tensor]] = []
    settings = {"steps": 2, "epochs": 5, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"}
    settings["checkpoint"] = tmp_path / "state.ckpt"
    settings["on_epoch"] = lambda _, net: seen.append(copy.deepcopy(net.state_dict()))
    if killed_in is not None:
        begin = lightning_snn._ThroughTime.on_train_epoch_start

        def die(self) -> None:
            if self.current_epoch == killed_in:
                raise MemoryError("killed")
            begin(self)

        monkeypatch.setattr(lightning_snn._ThroughTime, "on_train_epoch_start", die)
        with pytest.raises(MemoryError):
            tp.fit_snn(network(), blobs(shift=1), **settings)
        monkeypatch.undo()
    snn = network()
    accuracies = [epoch.validation_accuracy for epoch in tp.fit_snn(snn, blobs(shift=1), **settings)]
    best = max(range(5), key=lambda epoch: (accuracies[epoch], epoch))
    assert best < 2
    assert accuracies[-1] < accuracies[best]
    assert all(torch.equal(value, seen[best][name]) for name, value in snn.state_dict().items())
    images, labels = blobs(shift=1).validation.tensors
    with torch.no_grad():
        right = (snn(images, steps=2)[-1].argmax(1) == labels).double().mean()
    assert accuracies[best] == pytest.approx(100 * float(right))


def test_what_learns_and_what_does_not() -> None:
    snn = network()
    first, second = (snn.site(site.name) for site in snn.sites)
    second.set_bias(torch.full((6,), 0.1))
    before = copy.deepcopy(snn.state_dict())
    tp.fit_snn(snn, blobs(), steps=2, epochs=1, batch_size=16, device="cpu")
    changed = {name for name, value in snn.state_dict().items() if not torch.equal(value, before[name])}
    fixed = {name for name in before if ".activation." in name} | {f"network.{snn.sites[0].name}.bias"}
    assert changed == set(before) - fixed
    assert len(fixed) >= 3
    assert first.bias.dim() == 0
    assert not snn.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in snn.parameters())


def test_another_teacher_is_learnt_and_stays_as_it_is() -> None:
    data, teacher = blobs(), nn.Sequential(nn.Linear(4, 3)).train()
    with torch.no_grad():  # a teacher that always says class 2
        teacher[0].weight.zero_()
        teacher[0].bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    before, snn = copy.deepcopy(teacher.state_dict()), network()
    settings = {"steps": 2, "epochs": 8, "learning_rate": 0.1, "batch_size": 16, "device": "cpu"}
    tp.fit_snn(snn, as_data(*data.train.tensors, torch.full((96,), 2)), **settings, teacher=teacher, distillation=1.0)
    with torch.no_grad():
        answers = snn(data.train.tensors[0], steps=2)[-1].argmax(1)
    assert (answers == 2).double().mean() > 0.9
    assert teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_file_says_how_it_was_trained(tmp_path: Path) -> None:
    model = tp.zoo.build("digits-resnet", width=2, blocks=1)
    data = tp.data.digits()
    images = torch.stack([data.test[index][0] for index in range(8)])
    snn = tp.convert(model.eval(), calibration=[images], example_inputs=images)
    tp.save(snn, tmp_path / "plain.safetensors")
    assert tp.load(tmp_path / "plain.safetensors").trained is None
    few = Data(data.inputs, *[torch.utils.data.Subset(data.validation, range(20))] * 4)
    tp.fit_snn(snn, few, steps=2, epochs=1, spike_penalty=0.5, loss=TETLoss(), device="cpu")
    tp.save(snn, tmp_path / "tuned.safetensors")
    again = tp.load(tmp_path / "tuned.safetensors")
    assert again.trained == snn.trained == tp.rules.ThroughTime(2, 1, "TETLoss", True, 0.5)
    assert tp.describe(tmp_path / "tuned.safetensors").through_time == snn.trained
    assert "trained through time at T = 2" in again.summary()
    with torch.no_grad():
        assert torch.equal(again(images, steps=2), snn(images, steps=2))
    tensors, header = read_container(tmp_path / "plain.safetensors")
    del header["through_time"]  # as older versions wrote it
    write_container(tmp_path / "old.safetensors", tensors, header)
    assert tp.load(tmp_path / "old.safetensors").trained is None


def test_a_short_training_raises_the_accuracy_of_few_steps_on_digits() -> None:
    data = tp.data.digits()
    torch.manual_seed(0)
    model = tp.zoo.build("digits-resnet", width=8, blocks=1)
    tp.fit(model, data, epochs=4, learning_rate=0.05, device="cpu")
    images = torch.stack([data.calibration[index][0] for index in range(200)])
    snn = tp.convert(model, calibration=[images], example_inputs=images[:4])
    test = tp.data.loader(data.test)
    before = tp.evaluate(snn, test, steps=1).row(1).top1
    tp.fit_snn(snn, data, steps=1, epochs=4, learning_rate=0.01, device="cpu")
    after = tp.evaluate(snn, test, steps=1).row(1).top1
    assert after > before + 12  # three seeds gained 21 to 29


@pytest.mark.parametrize(
    ("conversion", "message"),
    [
        (tp.Conversion(neuron=tp.neurons.SignedIF()), "only IF neurons"),
        (tp.Conversion(schedule=tp.schedules.AccumulateThenFire(4)), "all layers step together"),
    ],
)
def test_what_has_no_derivative_is_refused(conversion: tp.Conversion, message: str) -> None:
    with pytest.raises(TrainingError, match=message) as caught:
        tp.fit_snn(network(conversion=conversion), blobs(), steps=2, epochs=1)
    assert "convert with" in caught.value.fix
    assert "--" in caught.value.shell_fix


def test_unfit_networks_and_teachers_are_refused() -> None:
    with pytest.raises(ModelError, match="not converted"):
        tp.fit_snn(nn.Linear(4, 3), blobs(), steps=2, epochs=1)
    snn = network()
    with pytest.raises(TrainingError, match="the teacher answers"):
        tp.fit_snn(snn, blobs(), steps=2, epochs=1, teacher=nn.Linear(4, 5))
    snn.site(snn.sites[0].name).set_initial_potential(torch.zeros(7, 8))
    with pytest.raises(TrainingError, match="sample to sample"):
        tp.fit_snn(snn, blobs(), steps=2, epochs=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"batch_size": 16, "micro_batch": 5},
        {"micro_batch": 0},
        {"temperature": 0.0},
        {"distillation": 1.5},
        {"teacher": "relu"},
        {"loss": "tet"},
        {"spike_penalty": -1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        tp.fit_snn(network(), blobs(), **{"steps": 2, "epochs": 1, **wrong})
    with pytest.raises(ValueError):
        TETLoss(1.5)


def test_divergence_is_an_error() -> None:
    with pytest.raises(TrainingError, match="smaller learning rate"):
        tp.fit_snn(network(), blobs(), steps=2, epochs=20, learning_rate=1e30, batch_size=16, device="cpu")
