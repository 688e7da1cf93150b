"""The contract between executor and schedules, tried with two schedules that exist only here.

Every expectation is a hand-written loop over time in NumPy; all numbers are dyadic, so equality is exact.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.network.backends import Backends
from transpike.schedules import AccumulateThenFire, Latency
from transpike.testing import dyadic_batch, make_dyadic, record, set_dyadic_thresholds

T = 6


@dataclass(frozen=True)
class Lagged(tp.schedules.Schedule):
    """Emission j uses the drive of steps 1..j+d: the site integrates d steps before it may fire."""

    lags: tuple[tuple[str, int], ...]
    streamable = False
    prefix_consistent = True

    def lag(self, site):
        return dict(self.lags).get(site, 0)

    def emit(self, visit):
        lag = self.lag(visit.site)
        events, v = visit.run(visit.drive[lag:], visit.start() + visit.drive[:lag].sum(0))
        return events, (v,)


@dataclass(frozen=True)
class SilenceLosers(tp.schedules.Schedule):
    """Two passes: who ended the first one below zero stays silent in the second (the idea of SRP)."""

    probe_steps: int
    streamable = False
    prefix_consistent = True
    passes = 2

    def pass_steps(self, steps, number):
        return self.probe_steps if number == 0 else steps

    def claimed_steps(self, steps):
        return self.probe_steps + steps

    def emit(self, visit):
        events, v = visit.run(visit.drive, visit.start())
        if visit.number == 0:
            assert visit.memory is None
            return events, (v,)
        assert visit.memory is not None, f"{visit.site}: what the first pass found out is lost"
        return events * (visit.memory[0] >= 0), visit.memory


class Residual(nn.Module):
    """A chain of three sites and two shortcuts; a ReLU module called ``relu`` stands beside functions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.out = (nn.Linear(*size) for size in ((3, 4), (4, 4), (4, 4), (4, 2)))
        self.relu = nn.ReLU()

    def forward(self, x):
        first = self.relu(self.a(x))
        second = F.relu(self.b(first))
        third = F.relu(self.c(second) + first)
        return self.out(third + first)


SITES = ("relu", "relu@0", "relu@1")


def _network(model=None, x=None):
    torch.manual_seed(3)
    model = make_dyadic(Residual() if model is None else model, gain=3.0)
    x = dyadic_batch((5, 3), seed=1) if x is None else x
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    return set_dyadic_thresholds(snn, shift=0.25), model, x


def _linear(layer, value):
    return value @ layer.weight.detach().numpy().astype(float).T + layer.bias.detach().numpy().astype(float)


def _fire(drive, site, lag=0):
    """Soft-reset integrate-and-fire, written out. Returns outputs ``theta * events`` and the last potential."""
    theta, v = float(site.theta), np.full(drive.shape[1:], float(site.v_init))
    for t in range(lag):
        v = v + drive[t]
    outputs = []
    for t in range(lag, len(drive)):
        v = v + drive[t]
        spike = v >= theta
        v = v - theta * spike
        outputs.append(theta * spike)
    return np.stack(outputs), v


def _means(values):
    return np.cumsum(values, 0) / np.arange(1, len(values) + 1)[:, None, None]


def _assert_close(rows, expected):
    """Sums are exact in both; the division by t is rounded to float32 in one and float64 in the other."""
    assert rows.shape == expected.shape
    np.testing.assert_array_equal(rows.numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("lags", [(0, 0, 0), (1, 2, 0), (2, 0, 3), (0, 3, 1), (1, 1, 1)])
def test_lagged_sites_and_branches_that_wait(lags):
    snn, model, x = _network()
    assert tuple(site.name for site in snn.sites) == SITES
    schedule = Lagged(tuple(zip(SITES, lags, strict=True)))
    run = record(snn, x, steps=T, schedule=schedule)

    total = T + sum(lags)  # the longest path leads through all three
    drive = np.broadcast_to(_linear(model.a, x.numpy().astype(float)), (total, 5, 4))
    first, _ = _fire(drive, snn.site("relu"), lags[0])
    second, _ = _fire(_linear(model.b, first), snn.site("relu@0"), lags[1])
    joined = _linear(model.c, second) + first[: len(second)]  # the branch that is ahead waits: local time
    third, _ = _fire(joined, snn.site("relu@1"), lags[2])
    answer = _means(_linear(model.out, third + first[: len(third)]))

    assert [len(part) for part in (first, second, third)] == [
        total - lags[0],
        total - lags[0] - lags[1],
        total - sum(lags),
    ]
    for name, expected in zip(SITES, (first, second, third), strict=True):
        theta = float(snn.site(name).theta)
        np.testing.assert_array_equal((theta * run.events[name]).numpy(), expected)
    assert run.answer.shape == (T, 5, 2)
    _assert_close(run.answer, answer[:T])


def test_lag_of_the_longest_path_only():
    """Two parallel branches with lags 4 and 1: five steps more than T are not needed, four are."""

    class Parallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(F.relu(self.a(x)) + F.relu(self.b(x)))

    snn, model, x = _network(Parallel())
    schedule = Lagged((("relu@0", 4), ("relu@1", 1)))
    run = record(snn, x, steps=T, schedule=schedule)
    assert {name: len(drive) for name, drive in run.drive.items()} == {"relu@0": T + 4, "relu@1": T + 4}
    left, _ = _fire(np.broadcast_to(_linear(model.a, x.numpy().astype(float)), (T + 4, 5, 4)), snn.site("relu@0"), 4)
    right, _ = _fire(np.broadcast_to(_linear(model.b, x.numpy().astype(float)), (T + 4, 5, 4)), snn.site("relu@1"), 1)
    _assert_close(run.answer, _means(_linear(model.out, left[:T] + right[:T])))
    latency = snn.latency(T, schedule)
    assert latency.answer_steps == T
    assert latency.pipeline_steps == T + 4


def test_two_outputs_with_different_lags_have_the_same_length():
    class TwoAnswers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            early = F.relu(self.a(x))
            return {"early": early, "late": F.relu(self.b(early))}

    snn, _, x = _network(TwoAnswers())
    schedule = Lagged((("relu@0", 2), ("relu@1", 3)))
    answer = snn(x, steps=T, schedule=schedule)
    assert {name: len(rows) for name, rows in answer.items()} == {"early": T, "late": T}
    longer = snn(x, steps=2 * T, schedule=schedule)
    assert all(torch.equal(longer[name][:T], rows) for name, rows in answer.items())


def test_lags_behind_max_pooling():
    """The temporal operator sees local time too: it must start with the first step that its producer emits."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(2, 2)

        def forward(self, x):
            h = F.relu(self.a(x))
            return self.out(F.max_pool1d(h.unsqueeze(1), 2).squeeze(1)) + self.b(h)

    snn, model, x = _network(Pooled())
    run = record(snn, x, steps=T, schedule=Lagged((("relu@0", 2),)))
    h, _ = _fire(np.broadcast_to(_linear(model.a, x.numpy().astype(float)), (T + 2, 5, 4)), snn.site("relu@0"), 2)
    sums = np.concatenate([np.zeros((1, 5, 4)), h.cumsum(0)])
    pooled = np.diff(sums.reshape(T + 1, 5, 2, 2).max(-1), axis=0)
    _assert_close(run.answer, _means(_linear(model.out, pooled) + _linear(model.b, h)))


@pytest.mark.parametrize("probe_steps", [1, 4, 9])
def test_second_pass_uses_the_memory_of_the_first(probe_steps):
    snn, model, x = _network()
    seen = []
    answer = snn(
        x, steps=T, schedule=SilenceLosers(probe_steps), observe=lambda name, drive, events: seen.append((name, events))
    )
    assert [name for name, _ in seen] == [*SITES, *SITES]
    assert [len(events) for _, events in seen] == [probe_steps] * 3 + [T] * 3

    current = _linear(model.a, x.numpy().astype(float))
    kept = {}
    for number, steps in enumerate((probe_steps, T)):
        outputs = {}
        for name in SITES:
            if name == "relu":
                drive = np.broadcast_to(current, (steps, 5, 4))
            elif name == "relu@0":
                drive = _linear(model.b, outputs["relu"])
            else:
                drive = _linear(model.c, outputs["relu@0"]) + outputs["relu"]
            outputs[name], v = _fire(drive, snn.site(name))
            if number == 0:
                kept[name] = v >= 0
            else:
                outputs[name] = outputs[name] * kept[name]
            theta = float(snn.site(name).theta)
            np.testing.assert_array_equal((theta * seen[3 * number + SITES.index(name)][1]).numpy(), outputs[name])
    assert any(not mask.all() for mask in kept.values()), "nobody lost: the second pass tested nothing"
    _assert_close(answer, _means(_linear(model.out, outputs["relu@1"] + outputs["relu"])))


def test_temporal_operators_and_readout_start_afresh_in_the_second_pass():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(3, 4), nn.Linear(2, 2)

        def forward(self, x):
            h = F.relu(self.a(x))
            return self.out(F.max_pool1d(h.unsqueeze(1), 2).squeeze(1)) + h[:, :2]

    @dataclass(frozen=True)
    class Again(SilenceLosers):
        def emit(self, visit):
            return visit.run(visit.drive, visit.start())[0], (visit.drive[0],)

    snn, _, x = _network(Pooled())
    assert len(snn.plan.pools) == 1
    assert torch.equal(snn(x, steps=T, schedule=Again(5)), snn(x, steps=T))


def test_schedules_that_need_all_steps_refuse_chunks_and_streaming():
    snn, _, x = _network()
    schedule = Lagged((("relu", 1),))
    with pytest.raises(ValueError, match="needs all steps at once"):
        snn(x, steps=T, schedule=schedule, chunk=2)
    with pytest.raises(ValueError, match="not streamable"):
        snn.step(x, schedule=schedule)
    with pytest.raises(ValueError, match="not streamable"):
        snn.stepper(schedule)


def test_latency_figures():
    snn, _, _ = _network()
    plain = snn.latency(8)
    assert plain == Latency(8, 8, 8, 8)
    lagged = snn.latency(8, Lagged((("relu", 1), ("relu@0", 2), ("relu@1", 4))))
    assert lagged == Latency(8, 8, 15, 15)  # the first site sends for T + 6 steps and has waited for one
    probing = snn.latency(8, SilenceLosers(4))
    assert probing.claimed_steps == 12


def test_steps_that_sites_must_send():
    """The first of three sites feeds both others and the readout, the second only the third."""
    snn, _, _ = _network()
    lags = {"relu": 1, "relu@0": 2, "relu@1": 4}
    schedule = Lagged(tuple(lags.items()))
    assert snn.timing(T, schedule).steps_sent == {"relu": T + 6, "relu@0": T + 4, "relu@1": T}
    assert snn.timing(1, schedule).steps_sent == {"relu": 7, "relu@0": 5, "relu@1": 1}
    assert snn.timing(T, tp.schedules.Plain()).steps_sent == dict.fromkeys(lags, T)
    assert snn.timing(T, SilenceLosers(4)).steps_sent == dict.fromkeys(lags, T)  # the second pass alone
    assert snn.timing(1, AccumulateThenFire(4)).steps_sent == {"relu": 4, "relu@0": 4, "relu@1": 1}
    assert snn.timing(9, AccumulateThenFire(4)).steps_sent == dict.fromkeys(lags, 9)


@dataclass(frozen=True)
class Streaming(tp.schedules.Plain):
    """Says that it streams although sites may lag."""

    lags: tuple[tuple[str, int], ...] = ()
    note: object = None

    def lag(self, site):
        return dict(self.lags).get(site, 0)


@pytest.mark.parametrize("run", ["forward", "chunk", "step"])
def test_lags_and_streaming_exclude_each_other(run):
    snn, _, x = _network()
    runs = {
        "forward": lambda schedule: snn(x, steps=T, schedule=schedule),
        "chunk": lambda schedule: snn(x, steps=T, schedule=schedule, chunk=2),
        "step": lambda schedule: snn.step(x, schedule=schedule),
    }
    runs[run](Streaming())
    with pytest.raises(ValueError, match=r"site 'relu@0' lags by 2 steps.*must say streamable=False"):
        runs[run](Streaming((("relu@0", 2),)))


def test_schedules_must_be_hashable():
    snn, _, x = _network()
    with pytest.raises(ValueError, match=r"cannot be hashed.*frozen dataclass"):
        snn(x, steps=T, schedule=Streaming(note=[1]))


def test_a_sweep_over_schedules_keeps_few_lowered_graphs():
    snn, _, x = _network()
    plain = snn.stepper().body
    answers = [snn(x, steps=T, schedule=SilenceLosers(probe)) for probe in range(1, 12)]
    assert snn.stepper().body is plain  # what step is compiled with
    backends = Backends(snn.network, snn.plan, snn.neuron, snn.schedule, snn.capture)
    first, own = backends.lower(SilenceLosers(1)), backends.lower(snn.schedule)
    assert backends.lower(SilenceLosers(1)) is first
    for probe in range(2, 12):
        backends.lower(SilenceLosers(probe))
    assert backends.lower(SilenceLosers(1)) is not first  # the oldest are forgotten
    assert backends.lower(snn.schedule) is own
    assert torch.equal(snn(x, steps=T, schedule=SilenceLosers(1)), answers[0])
