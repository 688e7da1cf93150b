"""COS, its variants and rivals at one site: the papers' released code, theorems and brute force as oracles."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike.activations import QCFS
from transpike.functional import expected_count
from transpike.kernels import KernelPreference
from transpike.kernels.offset_probe import least_potentials, probe
from transpike.neurons import IF, Reset, SiteParameters
from transpike.schedules import (
    AccumulateThenFire,
    Decision,
    ExactPotential,
    OffsetSpike,
    Plain,
    Residual,
    Schedule,
    SiteContext,
    Staggered,
    TwoPasses,
)
from transpike.schedules.offset_spike import offset, shift

FIXTURE = np.load(Path(__file__).parents[1] / "fixtures" / "released_code_core.npz", allow_pickle=False)


def run(schedule: Schedule, drive, theta=1.0, start=None, memory=None, number=0):
    drive = torch.as_tensor(drive)
    theta = torch.tensor(theta, dtype=drive.dtype)
    parameters = SiteParameters(theta, theta / 2 if start is None else torch.as_tensor(start, dtype=drive.dtype))
    found, kept = schedule.emit(SiteContext("site", drive, IF(), parameters, memory, number, KernelPreference.AUTO))
    if drive.device.type == "cpu":  # every oracle below judges all kernels
        for kernel in (KernelPreference.REFERENCE, KernelPreference.EAGER):
            events, _ = schedule.emit(SiteContext("site", drive, IF(), parameters, memory, number, kernel))
            assert torch.equal(events, found), kernel
    return found, kept


def currents(seed: int, steps: int, neurons: int = 400, grid: int = 64) -> torch.Tensor:
    """Dyadic currents around half a threshold, per neuron with another mean: excitation, inhibition, late arrivals."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(neurons, generator=generator) * 1.6 - 0.3
    noise = torch.randn(steps, neurons, generator=generator)
    return ((mean + noise) * grid).round() / grid


@pytest.mark.parametrize("index", range(5))
def test_cos_gives_what_the_released_code_gave(index: int) -> None:
    theta, rho, _ = FIXTURE[f"cos{index}_theta_rho_T"]
    drive, wanted = FIXTURE[f"cos{index}_drive"], FIXTURE[f"cos{index}_spikes"]
    events, _ = run(OffsetSpike(int(rho)), drive, float(theta))
    v, fired = np.full(drive.shape[1:], theta / 2), np.zeros(drive.shape[1:])
    for current in drive[: int(rho)]:  # the one known difference: neurons that fired at every step of the probe
        u = v + current
        fired += u >= theta
        v = u - theta * (u >= theta)
    saturated = (fired == rho) & (v >= theta)
    assert saturated.mean() < 0.05
    assert np.array_equal(events.numpy()[:, ~saturated], wanted[:, ~saturated])
    assert wanted.any()


def test_neurons_that_fire_in_the_whole_probe_fire_for_ever_in_the_released_code() -> None:
    """A potential of about 1001.5 thresholds outlasts every inhibition; here they keep theirs, and stop."""
    seen = 0
    for index in (0, 1, 3):
        theta, rho, _ = FIXTURE[f"cos{index}_theta_rho_T"]
        drive, released = FIXTURE[f"cos{index}_drive"], FIXTURE[f"cos{index}_spikes"]
        plain, ours = (run(schedule, drive, float(theta))[0].numpy() for schedule in (Plain(), OffsetSpike(int(rho))))
        left = theta / 2 + drive[: int(rho)].sum(0) - theta * rho
        saturated = plain[: int(rho)].all(0) & (left >= theta)
        assert bool(released[:, saturated].all())
        assert np.array_equal(ours[:, saturated], plain[:, saturated])
        seen += int((~ours[:, saturated].astype(bool)).any(0).sum())
    assert seen == 17


@pytest.mark.parametrize("index", range(2))
def test_srp_gives_what_the_released_code_gave(index: int) -> None:
    theta, tau, _ = FIXTURE[f"srp{index}_theta_tau_T"]
    tau, drive = int(tau), FIXTURE[f"srp{index}_drive"]
    schedule = TwoPasses(tau)
    _, memory = run(schedule, drive[:tau], float(theta))
    events, _ = run(schedule, drive[tau:], float(theta), memory=memory, number=1)
    assert np.array_equal(events.numpy(), FIXTURE[f"srp{index}_output_events"][tau:])


@given(seed=st.integers(0, 10_000), rho=st.integers(1, 10), theta=st.sampled_from([0.5, 1.0, 2.0]))
def test_theorems_1_2_and_3(seed: int, rho: int, theta: float) -> None:
    drive = currents(seed, rho) * theta
    t = torch.tensor(theta)
    start = torch.full_like(drive[0], theta / 2)
    seen = probe(drive, start, t)
    count = run(Plain(), drive, theta)[0].sum(0)
    assert torch.equal(seen.fired, count)
    offset = expected_count(drive.sum(0), t, start, rho) - count
    # Theorem 1: the sign of the residual tells the sign of the offset; nothing is missed
    down = (seen.residual < 0) & (count > 0)
    up = (seen.residual >= t) & (count < rho)
    assert torch.equal(offset < 0, down)
    assert torch.equal(offset > 0, up)
    # Theorem 3, clipped, names the whole offset
    named = torch.floor(seen.residual / t)
    assert torch.equal(torch.minimum(torch.maximum(named, -count), rho - count), offset)
    # Theorem 2: the shift moves the count by exactly one
    moved = shift(seen, seen.residual, t, rho, 1 / 1024)
    after = run(Plain(), drive, theta, start + moved)[0].sum(0)
    assert torch.equal(after - count, torch.sign(offset))
    assert bool((moved[offset == 0] == 0).all())


@given(seed=st.integers(0, 10_000), rho=st.integers(1, 8), theta=st.sampled_from([0.5, 1.0]))
def test_iterations_remove_one_offset_spike_each(seed: int, rho: int, theta: float) -> None:
    drive = currents(seed, rho) * theta
    wanted = expected_count(drive.sum(0), torch.tensor(theta), theta / 2, rho)
    left = (wanted - run(Plain(), drive, theta)[0].sum(0)).abs()
    for iterations in range(1, 5):
        events, _ = run(OffsetSpike(rho, iterations=iterations, epsilon=1 / 1024), drive, theta)
        now = (wanted - events.sum(0)).abs()
        assert torch.equal(now, (left - iterations).clamp_min(0))


EPSILON = 1000
"""1 / epsilon of the whole-number oracle below; potentials there are multiples of 1 / (64 * EPSILON)."""


def cos_in_whole_numbers(drive: np.ndarray, theta: int, rho: int, iterations: int) -> np.ndarray:
    """Spikes ``[T, neurons]`` of Theorems 1 and 2 for currents and a threshold in 1/64, with exact arithmetic."""
    unit, far = EPSILON, 2**40
    currents, theta = drive * unit, theta * unit
    epsilon = theta // EPSILON
    assert epsilon * EPSILON == theta
    start = np.full(drive.shape[1], theta // 2)

    def play(v: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
        after, spikes = [], []
        for t in range(steps):
            u = v + currents[t]
            spikes.append(u >= theta)
            v = u - theta * spikes[-1]
            after.append(v)
        return np.stack(after), np.stack(spikes)

    initial = start
    for _ in range(iterations):
        after, spikes = play(initial, rho)
        fired = spikes.sum(0)
        residual = start + currents[:rho].sum(0) - theta * fired
        down, up = (residual < 0) & (fired > 0), (residual >= theta) & (fired < rho)
        lowest = np.where(spikes, after, far).min(0)
        highest = np.where(spikes, -far, after).max(0)
        initial = initial - down * np.maximum(theta, lowest + epsilon)
        initial = initial + up * np.maximum(theta, theta + epsilon - highest)
    return play(initial, len(drive))[1]


@pytest.mark.parametrize("iterations", [1, 2, 3, 4])
@pytest.mark.parametrize("epsilon", [1 / EPSILON, 1 / 1024])
def test_cos_of_200_000_neurons_in_whole_numbers(iterations: int, epsilon: float) -> None:
    """1/1000 is no dyadic number, so float32 rounds potentials, which must not decide; nor does a size as small."""
    rho, theta = 8, 1.0
    drive = currents(iterations, 10, neurons=200_000)
    wanted = cos_in_whole_numbers((drive.numpy() * 64).astype(np.int64), int(theta * 64), rho, iterations)
    events, _ = run(OffsetSpike(rho, iterations=iterations, epsilon=epsilon), drive, theta)
    assert np.array_equal(events.numpy().astype(bool), wanted)
    wrong = expected_count(drive[:rho].sum(0), torch.tensor(theta), theta / 2, rho) != events[:rho].sum(0)
    assert 0 < float(wrong.double().mean()) < 0.2 * 0.25 ** (iterations - 1)


@given(seed=st.integers(0, 10_000), rho=st.integers(1, 8), theta=st.sampled_from([0.5, 1.0, 2.0]))
def test_exact_potential_needs_one_look(seed: int, rho: int, theta: float) -> None:
    drive = currents(seed, rho) * theta
    wanted = expected_count(drive.sum(0), torch.tensor(theta), theta / 2, rho)
    events, _ = run(ExactPotential(rho), drive, theta)
    assert torch.equal(events.sum(0), wanted)
    plain = run(Plain(), drive, theta)[0]
    right = plain.sum(0) == wanted
    assert torch.equal(events[:, right], plain[:, right])  # what was right stays untouched
    assert not bool(right.all()) or rho == 1


@given(seed=st.integers(0, 10_000), rho=st.integers(1, 6))
def test_least_potentials_against_brute_force(seed: int, rho: int) -> None:
    """Every multiple of 1/64 from -8 to 8 is tried as the initial potential."""
    drive = currents(seed, rho, neurons=12)
    tried = torch.arange(-8 * 64, 8 * 64) / 64
    counts = run(Plain(), drive.unsqueeze(1).expand(rho, len(tried), 12), 1.0, tried.unsqueeze(1))[0].sum(0)
    assert bool((counts.diff(dim=0) >= 0).all())  # monotone in the initial potential
    least = least_potentials(drive, torch.tensor(1.0))
    assert bool((least[0] == -torch.inf).all())
    assert bool((least[rho + 1] == torch.inf).all())
    for j, neuron in itertools.product(range(1, rho + 1), range(12)):
        enough = tried[counts[:, neuron] >= j]
        if len(enough):
            assert float(enough.min()) == max(float(least[j, neuron]), -8.0)
        else:
            assert float(least[j, neuron]) >= 8.0


@given(seed=st.integers(0, 10_000), rho=st.integers(1, 16), theta=st.sampled_from([0.5, 1.0, 2.0]))
def test_accumulate_then_fire_is_the_qcfs_activation(seed: int, rho: int, theta: float) -> None:
    activation = QCFS(rho).build().double()
    activation.theta.data.fill_(theta)
    drive = currents(seed, rho).double() * theta
    if rho & (rho - 1) == 0:  # dyadic means
        events, _ = run(AccumulateThenFire(rho), drive, theta)
        assert torch.equal(theta * events.mean(0), activation(drive.mean(0)).detach())
    long, _ = run(AccumulateThenFire(rho), torch.cat([drive, drive]), theta)
    total = expected_count(drive.sum(0), torch.tensor(theta), theta / 2, rho)
    assert torch.equal(long[:rho].sum(0), total)
    assert torch.equal(long[rho:].sum(0), total)  # the emission goes on evenly
    assert set(long.unique().tolist()) <= {0.0, 1.0}
    steps = torch.arange(1, 2 * rho + 1).view(-1, 1)
    assert bool(((long.cumsum(0) - total * steps / rho).abs() <= 0.5).all())  # never more than half a spike off


def test_accumulate_emits_evenly_by_hand() -> None:
    """k = 3 of 4 from theta/2: floor(1/2 + 3t/4) = 1, 2, 2, 3."""
    events, _ = run(AccumulateThenFire(4), torch.full((4, 1), 0.75))
    assert events.flatten().tolist() == [1, 1, 0, 1]


def test_accumulate_rounds_halves_up_and_down_in_turn() -> None:
    """k = 2 of 4: floor((4 t + 4) / 8) = 1, 1, 2, 2 and floor((4 t + 3) / 8) = 0, 1, 1, 2; the same in every sample."""
    events, _ = run(AccumulateThenFire(4), torch.full((4, 2, 3), 0.5))
    for sample in (0, 1):
        assert events[:, sample].T.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]


def test_the_residual_variant_starts_where_the_probe_ended() -> None:
    drive = currents(5, 6)
    v, theta = np.full(400, 0.5), 1.0
    for current in drive[:4].numpy():
        u = v + current
        v = u - theta * (u >= theta)
    expected = run(Plain(), drive, 1.0, v)[0]
    assert torch.equal(run(Residual(4), drive)[0], expected)


def test_a_saturated_neuron_keeps_its_potential() -> None:
    """It fires in the whole probe; when inhibition comes it must stop, which the released code prevents."""
    drive = torch.cat([torch.full((4, 1), 1.75), torch.full((4, 1), -1.75)])
    events, _ = run(OffsetSpike(4), drive)
    assert events.flatten().tolist() == run(Plain(), drive)[0].flatten().tolist()
    assert events[4:].sum() < 4


@pytest.mark.parametrize("rho", [1, 3, 12])
@pytest.mark.parametrize("cls", [OffsetSpike, Residual, ExactPotential, AccumulateThenFire])
def test_prefixes(cls, rho: int) -> None:
    drive = currents(1, 12)
    schedule = cls(rho)
    whole = run(schedule, drive)[0]
    steps = schedule.site_steps(5)
    assert torch.equal(run(schedule, drive[:steps])[0][:5], whole[:5])
    assert whole.shape == drive.shape


@pytest.mark.parametrize("cls", [OffsetSpike, Residual, ExactPotential, AccumulateThenFire, TwoPasses])
def test_refusals(cls) -> None:
    with pytest.raises(ValueError, match="probe_steps"):
        cls(0)
    parameters = SiteParameters(torch.tensor(1.0), torch.tensor(0.5))
    with pytest.raises(ValueError, match="soft reset"):
        cls().emit(SiteContext("site", currents(0, 4), IF(Reset.HARD), parameters, None, 0, KernelPreference.AUTO))


def test_wrong_settings() -> None:
    for wrong in ({"iterations": 0}, {"epsilon": 0.0}, {"epsilon": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OffsetSpike(4, **wrong)
    with pytest.raises(ValueError, match="lags"):
        Staggered(-1)
    with pytest.raises(ValueError, match="lags"):
        Staggered(0, (("a", -2),))


def test_staggered_by_hand() -> None:
    """d = 2, drive 0.75 each: starts from 0.5 + 1.5 = 2, then 2.75, 2.5, 2.25, ... fires at every step."""
    events, _ = run(Staggered(2), torch.full((6, 1), 0.75))
    assert events.flatten().tolist() == [1, 1, 1, 1]
    assert run(Plain(), torch.full((4, 1), 0.75))[0].flatten().tolist() == [1, 1, 0, 1]


@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.5, 1.0, 1.25]))
def test_theorem_3_names_the_whole_offset_and_decides_like_theorem_1(seed: int, rho: int, theta: float) -> None:
    drive, threshold = currents(seed, rho), torch.tensor(theta)
    start = torch.full(drive.shape[1:], theta / 2)
    seen = probe(drive, start, threshold)
    wanted = np.clip(np.floor((theta / 2 + drive.double().sum(0).numpy()) / theta), 0, rho)  # the ANN's count
    missing = wanted - seen.fired.double().numpy()
    assert np.array_equal(offset(seen, seen.residual, threshold, rho).double().numpy(), missing)
    by_theorem = [run(OffsetSpike(rho, iterations=2, decision=decision), drive, theta)[0] for decision in Decision]
    assert torch.equal(*by_theorem)
    assert OffsetSpike(rho, decision="theorem 3") == OffsetSpike(rho, decision=Decision.THEOREM_3)
