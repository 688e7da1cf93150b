"""Sites that follow any function of what has arrived, against the rule in fractions, loops by hand, and the network."""

import copy
import pickle
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import transpike as tp
from transpike.evaluation.operations import count_operations
from transpike.kernels.digits import digits_towards, spikes_towards
from transpike.schedules import SignedDigits

F64 = torch.float64
values = st.lists(st.integers(-128, 128).map(lambda n: Fraction(n, 64)), min_size=1, max_size=6)


def by_hand(known: list[Fraction], digits: int, decision: Fraction, low: Fraction, high: Fraction) -> list[int]:
    """Digit k is 1 or -1 where at least ``decision`` of ``2^-k`` is missing of the value known by then."""
    sent, found = Fraction(0), []
    for k in range(1, digits + 1):
        missing = min(max(known[min(k, len(known)) - 1], low), high) - sent
        bound = (Fraction(1, 2) if k == digits else decision) / 2**k
        found.append(1 if missing >= bound else -1 if missing <= -bound else 0)
        sent += Fraction(found[-1], 2**k)
    return found


@settings(deadline=None)
@given(values, st.integers(1, 6), st.sampled_from([0.5, 0.625, 0.75]), st.sampled_from([-1.0, 0.0]))
def test_digits_follow_a_value_that_is_known_better_with_every_step(known, digits, decision, low) -> None:
    worth = [torch.tensor(2.0**-k, dtype=F64) for k in range(1, digits + 1)]
    rows = torch.tensor([float(value) for value in known], dtype=F64).view(-1, 1)
    limits = torch.tensor(low, dtype=F64), torch.tensor(1.0, dtype=F64)
    found = digits_towards(rows, limits, worth, decision).flatten().int().tolist()
    assert found == by_hand(known, digits, Fraction(decision), Fraction(low), Fraction(1))


@settings(deadline=None)
@given(st.lists(st.integers(-8, 8).map(lambda n: n / 8), min_size=1, max_size=12), st.integers(0, 5))
def test_spikes_stay_within_half_a_threshold_of_a_target_that_is_slow_enough(currents, cut) -> None:
    """The target moves by at most one threshold per step, so one spike per step can follow it."""
    targets = torch.tensor(currents, dtype=F64).cumsum(0).view(-1, 1)
    theta, start = torch.tensor(1.0, dtype=F64), torch.zeros(1, dtype=F64)
    whole, sent = spikes_towards(targets, theta, start)
    assert (whole.cumsum(0) - targets).abs().max() <= 0.5
    assert torch.equal(sent, whole.sum(0))
    if 0 < cut < len(targets):
        first, between = spikes_towards(targets[:cut], theta, start)
        last, _ = spikes_towards(targets[cut:], theta, between)
        assert torch.equal(torch.cat([first, last]), whole)


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.gelu(self.b(F.gelu(self.a(x)))))


def converted(model: nn.Module, x: Tensor, schedule=None, neuron=None) -> tp.SpikingNetwork:
    conversion = tp.Conversion(
        tp.rules.Maximum(tp.PerChannel()),
        schedule=schedule or tp.schedules.Plain(),
        neuron=neuron or tp.neurons.SignedIF(),
    )
    return tp.convert(model, conversion, calibration=x, example_inputs=x)


@pytest.mark.parametrize("lag", [0, 1, 3])
def test_a_network_with_gelu_equals_a_loop_by_hand(lag: int) -> None:
    """NumPy: sums of what arrives, GELU of them, digits; the second site sees the first one's with its lag."""
    torch.manual_seed(0)
    model, x, digits = Gelu().double().eval(), torch.randn(4, 5, dtype=F64), 5
    snn = converted(model, x, SignedDigits(digits, 2.0, 0.65, lag))
    events: dict[str, Tensor] = {}
    snn(x, steps=digits, observe=lambda site, _, sent: events.update({site: sent}))
    weight = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in (model.a, model.b, model.c)]
    worth = [2.0**-k / (1 - 2.0**-digits) for k in range(1, digits + 1)]

    def gelu(z):
        return F.gelu(torch.from_numpy(z)).numpy()

    def site(sums, theta):
        """Digits [T, N, C] towards GELU of the sums [S, N, C]; the last sum stays."""
        sent, found = np.zeros_like(sums[0]), []
        for k in range(digits):
            missing = np.clip(gelu(sums[min(k + lag, len(sums) - 1)]), -theta, theta) - sent
            bound = (0.5 if k == digits - 1 else 0.65) * theta * worth[k]
            digit = (missing >= bound).astype(float) - (missing <= -bound)
            sent = sent + digit * theta * worth[k]
            found.append(digit)
        return np.stack(found)

    thetas = [snn.site(planned.name).theta.detach().numpy() for planned in snn.sites]
    first = site((x.numpy() @ weight[0][0].T + weight[0][1])[None], thetas[0])
    arrived = np.cumsum(first * np.array(worth)[:, None, None] * thetas[0], 0) @ weight[1][0].T + weight[1][1]
    second = site(arrived, thetas[1])
    for planned, wanted in zip(snn.sites, (first, second), strict=True):
        np.testing.assert_array_equal(events[planned.name].numpy(), wanted)
    answer = np.cumsum(second * np.array(worth)[:, None, None] * thetas[1], 0) @ weight[2][0].T + weight[2][1]
    np.testing.assert_allclose(snn(x, steps=digits).detach().numpy(), answer, atol=1e-12)


class Windows(nn.Module):
    """Attention within windows, which are rows of the batch for a while, with its heads in front of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        rows = self.norm(x).view(x.shape[0] * 2, 3, 8)
        qkv = self.qkv(rows).reshape(rows.shape[0], 3, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        rows = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        rows = self.out(rows.transpose(1, 2).reshape(x.shape[0] * 2, 3, 8))
        return self.head(F.silu(x + rows.view(x.shape[0], 6, 8))).mean(1)


class Alone(Windows):
    """The same with the windows as a dimension of their own."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        qkv = self.qkv(self.norm(x).unflatten(1, (2, 3))).unflatten(3, (3, 2, 4)).permute(0, 3, 1, 4, 2, 5)
        q, k, v = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        rows = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        rows = self.out(rows.transpose(2, 3).flatten(3))
        return self.head(F.silu(x + rows.flatten(1, 2))).mean(1)


def pair() -> tuple[Windows, Alone, Tensor]:
    torch.manual_seed(1)
    moved, alone = Windows().double().eval(), Alone().double().eval()
    alone.load_state_dict(moved.state_dict())
    return moved, alone, torch.randn(5, 6, 3, dtype=F64)


@pytest.mark.parametrize("schedule", [SignedDigits(6, default_lag=2), tp.schedules.Plain()], ids=str)
def test_the_batch_may_move_and_grow(schedule) -> None:
    """Windows as rows of the batch answer like windows as a dimension: thresholds are one per channel in both."""
    moved, alone, x = pair()
    torch.testing.assert_close(moved(x), alone(x))
    one, other = converted(moved, x, schedule), converted(alone, x, schedule)
    assert one.plan.layouts
    assert not other.plan.layouts
    assert [site.kind for site in one.sites] == [site.kind for site in other.sites]
    torch.testing.assert_close(one(x, steps=6), other(x, steps=6), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [SignedDigits(6, default_lag=2), tp.schedules.Plain()], ids=str)
def test_samples_do_not_depend_on_the_batch(schedule) -> None:
    moved, _, x = pair()
    snn = converted(moved, x, schedule)
    whole = snn(x, steps=6)
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(snn(x[order], steps=6), whole[:, order], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(snn(x[1:3], steps=6), whole[:, 1:3], rtol=1e-9, atol=1e-9)


def test_streams_and_chunks_of_signed_spikes() -> None:
    moved, _, x = pair()
    snn = converted(moved, x)
    rows, state = snn(x, steps=7), None
    torch.testing.assert_close(snn(x, steps=7, chunk=3), rows, rtol=1e-9, atol=1e-9)
    for row in rows:
        answer, state = snn.step(x, state)
        torch.testing.assert_close(answer, row, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lag", [2, 4])
def test_more_digits_are_nearer_to_the_network(lag: int) -> None:
    moved, _, x = pair()
    snn = converted(moved, x, SignedDigits(4, default_lag=lag))
    errors = [
        float((snn(x, steps=t, schedule=SignedDigits(t, default_lag=lag))[-1] - moved(x)).norm()) for t in (2, 5, 9)
    ]
    assert errors[0] > 3 * errors[1]
    assert errors[1] > 3 * errors[2]


def test_signed_spikes_come_to_the_network() -> None:
    moved, _, x = pair()
    rows = converted(moved, x)(x, steps=512)
    errors = (rows - moved(x)).flatten(1).norm(dim=1)
    assert errors[511] < errors[63] < errors[7]
    assert errors[511] < 0.02 * moved(x).norm()


def test_such_a_network_is_saved_evaluated_and_counted(tmp_path) -> None:
    moved, _, x = pair()
    snn = converted(moved.float(), x.float(), SignedDigits(5), tp.neurons.IF())
    tp.save(snn, tmp_path / "net.safetensors")
    again = tp.load(tmp_path / "net.safetensors", model=moved)
    assert torch.equal(again(x.float(), steps=5), snn(x.float(), steps=5))
    pairs = [(x.float(), torch.tensor([0, 1, 2, 3, 0]))]
    report = tp.evaluate(snn, pairs, steps=5)
    assert report.rows[-1].latency.pipeline_steps == 5 + 5  # five sites of lag 1 in a chain
    assert all(0 < site.rate <= 1 for site in report.sites)
    counted = count_operations(snn, pairs, steps=5)
    neurons = sum(site.neurons for site in snn.plan.functions)
    assert counted.functions == counted.updates == 5 * neurons
    assert "kind" in snn.summary()
    assert "follow no ReLU" in snn.summary()


def _keep(received: dict[str, Tensor], name: str, _: nn.Module, given: tuple[Tensor]) -> None:
    received.setdefault(name, given[0])


def test_every_matrix_product_receives_events() -> None:
    """What arrives at layers and products behind the first one is made of whole digits of the sites."""
    moved, _, x = pair()
    snn = converted(moved, x, SignedDigits(3))
    sent = ["getitem@sent@0", "getitem@sent@1", "transpose@sent@0"]  # q, v and the transposed k
    assert [site.name for site in snn.sites] == ["norm", *sent, "softmax@0", "matmul@0", "silu@0"]
    received: dict[str, Tensor] = {}
    for name, layer in snn.network.named_modules():
        if isinstance(layer, nn.Linear) and name != "stem":
            layer.register_forward_pre_hook(partial(_keep, received, name))
    snn(x, steps=3)
    assert len(received) == 3
    for name, values in received.items():
        sizes = values[: 2 * len(x)].abs().unique()  # of the first digit: nothing, or one size per channel
        assert len(sizes) <= 1 + 8 * (2 if name == "head" else 1), name


def test_what_is_defined_for_relus_says_so() -> None:
    moved, _, x = pair()
    snn = converted(moved, x, SignedDigits(3), tp.neurons.IF())
    for schedule in (tp.schedules.Plain(), tp.schedules.OffsetSpike(4)):
        with pytest.raises(ValueError, match=r"cannot run 7 of the sites, such as 'norm'.*SignedDigits"):
            snn(x, steps=3, schedule=schedule)
    site = snn.site("norm")
    for change in (site.set_bias, site.set_initial_potential):
        with pytest.raises(ValueError, match="a group site has no"):
            change(torch.ones(()))
    with pytest.raises(tp.errors.ModelError, match="defined for ReLU sites"):
        tp.error_causes(snn, [x], steps=3)


def test_copies_compute_the_same() -> None:
    moved, _, x = pair()
    snn = converted(moved, x, SignedDigits(3))
    wanted = snn(x, steps=3)
    for copied in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        assert torch.equal(copied(x, steps=3), wanted)


def test_a_step_is_exported_and_streams() -> None:
    moved, _, x = pair()
    snn = converted(moved, x)
    _, state = snn.step(x)
    stepper = snn.stepper()
    program = torch.export.export(stepper, (x, state), strict=False).module()
    answer, _ = program(x, state)
    torch.testing.assert_close(answer, snn(x, steps=2)[1], rtol=1e-9, atol=1e-9)
