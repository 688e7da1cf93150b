"""Codes of digits: events against derivations in exact fractions, limits of whole networks against the clipped ANN."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transpike as tp
from transpike import zoo
from transpike.kernels import KernelPreference
from transpike.neurons import IF, EventKind, Reset, SiteParameters
from transpike.rules import BiasCorrection, Conversion, HalfThreshold, MinimumMSE, PerChannel, PotentialCorrection
from transpike.schedules import AccumulateThenFire, Radix, SignedDigits, SiteContext
from transpike.testing import TOPOLOGIES, record

leaves = torch.utils._pytree.tree_leaves


def emitted(schedule, drive: list[list[float]], theta: float = 1.0, neuron: IF | None = None) -> list[list[int]]:
    """The events of neurons ``drive[step][neuron]``, by step."""
    values = torch.tensor(drive, dtype=torch.float64).unsqueeze(1)
    parameters = SiteParameters(torch.tensor(theta, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    context = SiteContext("site", values, neuron or IF(), parameters, None, 0, KernelPreference.AUTO)
    events, _ = schedule.emit(context)
    return [[int(event) for event in row] for row in events.squeeze(1).tolist()]


def digits_of(drive: list[Fraction], schedule: SignedDigits, theta: Fraction) -> list[int]:
    """The rule of the paper-and-pencil algorithm for one neuron, in exact fractions."""
    base, lag, sent, found = Fraction(schedule.base), schedule.default_lag, Fraction(0), []
    for k in range(1, len(drive) - lag + 1):
        if k > schedule.digits:
            found.append(0)
            continue
        worth = theta * (base - 1) / base**k / (1 - base**-schedule.digits)
        rest = min(max(sum(drive[: k + lag], Fraction(0)), Fraction(0)), theta) - sent
        share = Fraction(1, 2) if k == schedule.digits else Fraction(schedule.decision)
        digit = 1 if rest >= share * worth else -1 if rest <= -share * worth else 0
        sent += digit * worth
        found.append(digit)
    return found


increments = st.lists(st.integers(-40, 40).map(lambda n: Fraction(n, 64)), min_size=7, max_size=7)


@settings(max_examples=200, deadline=None)
@given(increments, st.sampled_from([2.0, 1.5, 1.25]), st.integers(0, 2), st.sampled_from([0.5, 0.625, 0.75]))
def test_signed_digits_follow_the_rule(drive: list[Fraction], base: float, lag: int, decision: float) -> None:
    schedule = SignedDigits(4, base, decision, lag)
    theta = 1 - Fraction(base) ** -4  # digits are worth (b - 1) b^-k then
    found = [row[0] for row in emitted(schedule, [[float(value)] for value in drive], float(theta))]
    wanted = digits_of(drive, schedule, theta)[:4]
    if base == 2.0:  # dyadic, so float64 is exact
        assert found == wanted
        return
    # A comparison may fall on its bound within a rounding; sums then differ by the last digit at most.
    difference = sum((a - b) * w for a, b, w in zip(found, wanted, schedule.worths, strict=True))
    assert abs(difference) <= 1e-12 or abs(difference) == pytest.approx(schedule.worths[3], abs=1e-12)


@given(st.floats(-0.5, 1.5), st.integers(1, 12), st.sampled_from([2.0, 1.6, 1.3]))
def test_what_is_there_at_once_is_sent_to_about_half_the_last_digit(value: float, digits: int, base: float) -> None:
    schedule = SignedDigits(digits, base, 0.65, 0)
    found = emitted(schedule, [[value], *[[0.0]] * (digits - 1)])
    sent = sum(row[0] * worth for row, worth in zip(found, schedule.worths, strict=True))
    most = sum(schedule.worths)
    assert most == pytest.approx(1.0)
    wanted = min(max(value, 0.0), most)
    # Digits of base b round to (b - 1) b^-T, half of it to either side; b < 2 has gaps that a digit of 1 leaves at u w.
    assert abs(sent - wanted) <= max(0.5, schedule.decision / (base - 1) * (2 - base) + 0.5) * schedule.worths[-1]


def test_a_digit_that_was_too_much_is_taken_back() -> None:
    theta = 7 / 8  # so that the digits are worth 1/2, 1/4, 1/8
    # 3/4 arrives first and sends 1/2; then all but 1/8 of it is taken back, which the digits after can mend.
    assert [row[0] for row in emitted(SignedDigits(3, 2.0, 0.625, 0), [[0.75], [-0.5], [-0.125]], theta)] == [1, -1, -1]
    # With a lag the first digit has seen it.
    late = [[0.75], [-0.5], [-0.125], [0.0]]
    assert [row[0] for row in emitted(SignedDigits(3, 2.0, 0.625, 1), late, theta)] == [0, 0, 1]
    # What comes too late for the digits that are left is an error: 3/4 has been sent, and only 1/8 can be taken back.
    assert [row[0] for row in emitted(SignedDigits(3, 2.0, 0.625, 0), [[1.0], [0.0], [-1.0]], theta)] == [1, 1, -1]


@pytest.mark.parametrize(
    ("value", "bits"), [(0.0, [0, 0, 0]), (1.0, [1, 1, 1]), (5 / 7, [1, 0, 1]), (0.49, [0, 1, 1]), (-3.0, [0, 0, 0])]
)
def test_radix_sends_the_bits_of_the_count(value: float, bits: list[int]) -> None:
    drive = [[value / 2], [value / 4], [value / 4], [9.0]]  # the fourth step is behind the three digits
    assert [row[0] for row in emitted(Radix(3), drive)] == bits
    assert Radix(3).worths == [4 / 7, 2 / 7, 1 / 7]
    values = Radix(3).values(torch.ones(4, 1), torch.tensor(7.0))
    assert values.flatten().tolist() == [4.0, 2.0, 1.0, 0.0]


def spiking(topology, dtype: torch.dtype = torch.float64):
    inputs = topology.dyadic_inputs(3, dtype=dtype)
    model = topology.dyadic_model(dtype=dtype)
    snn = tp.convert(model, Conversion(tp.rules.Maximum()), calibration=[inputs], example_inputs=inputs)
    return snn, inputs


@pytest.mark.parametrize("schedule", [SignedDigits(23, 2.0, 0.6, 2), Radix(20)], ids=repr)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_many_digits_give_the_clipped_ann(topology, schedule) -> None:
    """Biases and constant branches count once, joins wait, pools act on sums: else the answer would be another."""
    snn, inputs = spiking(topology)
    answer = snn(*inputs, steps=schedule.digits, schedule=schedule)
    for found, wanted in zip(leaves(answer), leaves(snn.clipped(*inputs)), strict=True):
        scale = float(wanted.abs().max()) or 1.0
        assert float((found[-1] - wanted).abs().max()) <= 3e-5 * scale


@pytest.mark.parametrize("digits", [2, 3, 4])
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_radix_is_accumulate_with_as_many_levels(topology, digits: int) -> None:
    snn, inputs = spiking(topology)
    levels = 2**digits - 1
    answer = snn(*inputs, steps=digits, schedule=Radix(digits))
    rate = snn(*inputs, steps=levels, schedule=AccumulateThenFire(levels))
    for found, wanted in zip(leaves(answer), leaves(rate), strict=True):
        assert torch.allclose(found[-1], wanted[-1], rtol=1e-9, atol=1e-9)


def test_rows_are_estimates_and_a_longer_run_adds_nothing() -> None:
    snn, (x,) = spiking(next(t for t in TOPOLOGIES if t.name == "conv"))
    schedule = SignedDigits(6)
    run = record(snn, x, steps=9, schedule=schedule)
    assert torch.equal(run.answer[5], run.answer[8])
    assert all(not events[6:].any() for events in run.events.values())
    exact = snn.clipped(x)
    errors = [float((row - exact).abs().mean()) for row in run.answer[:6]]
    assert errors[5] < errors[3] < errors[1]
    assert errors[5] < 2.0**-5 * float(exact.abs().mean()) * 4


def test_bias_corrections_are_made_for_the_code_and_enter_once() -> None:
    torch.manual_seed(0)
    model = zoo.build("digits-resnet", blocks=1).eval()
    x = torch.rand(64, 1, 8, 8)
    parts = (MinimumMSE(7, PerChannel()), HalfThreshold())
    for schedule in (SignedDigits(3), Radix(3)):
        plain = tp.convert(model, Conversion.of(*parts, schedule=schedule), calibration=x, example_inputs=x[:2])
        better = Conversion.of(*parts, BiasCorrection(3), schedule=schedule)
        corrected = tp.convert(model, better, calibration=x, example_inputs=x[:2])
        with torch.no_grad():
            errors = [float((snn(x, steps=3)[-1] - model(x)).square().mean()) for snn in (plain, corrected)]
        assert errors[1] < errors[0]
        site = corrected.site(corrected.sites[0].name)
        site.set_bias(torch.tensor([0.25]))
        drives = []
        corrected(x[:1], steps=3, observe=lambda name, drive, events, to=drives: to.append(drive))
        site.set_bias(torch.tensor([0.0]))
        corrected(x[:1], steps=3, observe=lambda name, drive, events, to=drives: to.append(drive))
        with_bias, without = drives[0], drives[len(drives) // 2]
        assert torch.allclose(with_bias[0], without[0] + 0.25)
        assert not with_bias[1:].any()
        assert not without[1:].any()


def test_files_methods_and_evaluation_know_the_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = zoo.build("digits-resnet", width=4, blocks=1).eval()
    x, labels = torch.rand(32, 1, 8, 8), torch.arange(32) % 10
    snn = tp.convert(model, tp.methods["digits"](steps=4), calibration=x, example_inputs=x[:2])
    assert snn.schedule == SignedDigits(4)
    assert tp.methods["digits"](steps=4).events is EventKind.SIGNED
    assert tp.methods["radix"](steps=4).events is EventKind.BINARY
    tp.save(snn, tmp_path / "digits.safetensors")
    again = tp.load(tmp_path / "digits.safetensors")
    assert again.schedule == snn.schedule
    assert torch.equal(again(x, steps=4), snn(x, steps=4))
    report = tp.evaluate(snn, [(x, labels)], steps=4)
    events = record(snn, x, steps=4).events
    assert report.rows[3].events * 32 == pytest.approx(
        sum(float(seen[: snn.timing(4).steps_sent[name]].abs().sum()) for name, seen in events.items())
    )
    assert report.rows[3].latency.pipeline_steps == 4 + len(snn.sites)


def test_causes_add_up_and_name_what_later_digits_could_not_mend() -> None:
    torch.manual_seed(0)
    model = zoo.build("digits-resnet", blocks=1).eval()
    x = torch.rand(64, 1, 8, 8)
    parts = (tp.rules.Maximum(PerChannel()), HalfThreshold())
    late = tp.convert(
        model, Conversion.of(*parts, schedule=SignedDigits(5, 2.0, 0.65, 0)), calibration=x, example_inputs=x[:2]
    )
    causes = tp.error_causes(late, [x], steps=5)
    waiting = tp.error_causes(late, [x], steps=5, schedule=SignedDigits(5, 2.0, 0.65, 1))
    layered = tp.error_causes(late, [x], steps=5, schedule=Radix(5))
    for found in (causes, waiting, layered):
        assert all(site.residual <= 1e-6 * (site.scale + 1e-3) for site in found.sites)
        assert all(0.0 <= site.saturated <= 1.0 for site in found.sites)
    assert causes.sites[0].unevenness.size == pytest.approx(0.0, abs=1e-7)  # its input is there at once
    deep = [sum(site.unevenness.size for site in found.sites[1:]) for found in (causes, waiting, layered)]
    assert deep[0] > 3 * deep[1] > 0
    assert deep[2] == pytest.approx(0.0, abs=1e-6)
    assert causes.worst[0].worst in ("unevenness", "inherited")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SignedDigits(0), "digits"),
        (lambda: SignedDigits(24), "at most 23"),
        (lambda: SignedDigits(4, 2.5), "base"),
        (lambda: SignedDigits(4, 1.0), "base"),
        (lambda: SignedDigits(4, math.nan), "finite"),
        (lambda: SignedDigits(4, 2.0, 0.4), "decision"),
        (lambda: SignedDigits(4, 2.0, 0.6, -1), "lags"),
        (lambda: Conversion.of(PotentialCorrection(4), schedule=SignedDigits(4)), "initial potentials"),
        (lambda: Conversion.of(tp.rules.BlockReconstruction(4), schedule=Radix(4)), "staircases"),
    ],
)
def test_what_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_runs_that_are_refused() -> None:
    snn, (x,) = spiking(next(t for t in TOPOLOGIES if t.name == "conv"))
    with pytest.raises(ValueError, match="takes its input once"):
        snn(tp.FrameSequence(x.unsqueeze(0).expand(4, *x.shape)), steps=4, schedule=Radix(4))
    with pytest.raises(ValueError, match="needs all steps at once"):
        snn(x, steps=4, schedule=SignedDigits(4, default_lag=0), chunk=2)
    site = snn.site(snn.sites[0].name)
    kept = site.bias
    site.set_bias(torch.zeros(3, site.population[0], 1, 1, dtype=torch.float64) + torch.arange(3).view(3, 1, 1, 1))
    with pytest.raises(ValueError, match="adds a bias only once"):
        snn(x, steps=5, schedule=Radix(5))
    site.bias = kept
    with pytest.raises(ValueError, match="soft reset"):
        emitted(Radix(2), [[1.0], [0.0]], neuron=IF(Reset.HARD))
    labels = torch.zeros(3, dtype=torch.long)
    with pytest.raises(ValueError, match="no step of it can be left out"):
        tp.evaluate(snn, [(x, labels)], steps=4, schedule=Radix(4), readout_delay=1)


@pytest.mark.parametrize("schedule", [Radix(3), SignedDigits(4, 1.5, 0.6, 0)], ids=repr)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_shorter_runs_and_other_orders_of_samples(topology, schedule) -> None:
    snn, inputs = spiking(topology)
    answer = leaves(snn(*inputs, steps=6, schedule=schedule))
    short = leaves(snn(*inputs, steps=2, schedule=schedule))
    turned = leaves(snn(*(x.flip(0) for x in inputs), steps=6, schedule=schedule))
    for rows, first, other in zip(answer, short, turned, strict=True):
        assert torch.allclose(first, rows[:2], rtol=1e-9, atol=1e-9)
        assert torch.allclose(other.flip(1), rows, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_radix_computes_what_a_network_trained_with_as_many_levels_does(digits: int) -> None:
    torch.manual_seed(digits)
    act = [tp.activations.QCFS(2**digits - 1, theta_init=0.7).build() for _ in range(2)]
    model = torch.nn.Sequential(torch.nn.Linear(6, 20), act[0], torch.nn.Linear(20, 20), act[1], torch.nn.Linear(20, 4))
    x = torch.rand(50, 6)
    with torch.no_grad():
        snn = tp.convert(model.double(), tp.Conversion(), example_inputs=x[:2].double())
        answer = snn(x.double(), steps=digits, schedule=Radix(digits))[-1]
        torch.testing.assert_close(answer, model(x.double()))
