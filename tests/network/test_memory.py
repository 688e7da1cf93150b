"""Runs cut to memory: the same answers, spikes and counts, and as little at once as was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.kernels import KernelPreference
from transpike.runtime.runners import SiteRunner
from transpike.schedules import (
    SCHEDULES,
    AccumulateThenFire,
    ExactPotential,
    OffsetSpike,
    Plain,
    Radix,
    Residual,
    Schedule,
    SignedDigits,
    Staggered,
    TwoPasses,
)
from transpike.testing import TOPOLOGIES, assert_same_answer, dyadic_batch, make_dyadic, set_dyadic_thresholds

LIST = [
    *(Plain(), Residual(3), OffsetSpike(3), ExactPotential(3), AccumulateThenFire(4)),
    *(Staggered(0, (("relu", 2), ("relu@0", 1), ("1", 2))), Staggered(1), TwoPasses(3)),
    *(Radix(3), SignedDigits(4)),
]
ZOO = [topology for topology in TOPOLOGIES if topology.name in ("conv", "residual", "max_pool_on_spikes", "in_place")]
TWO = [topology for topology in TOPOLOGIES if topology.name == "two_inputs_two_outputs"]


def spiking(topology, batch=5):
    inputs = topology.dyadic_inputs(batch)
    conversion = tp.Conversion(tp.rules.Maximum())
    snn = tp.convert(topology.dyadic_model(), conversion, calibration=[inputs], example_inputs=inputs)
    return set_dyadic_thresholds(snn), inputs


def counted(snn, *inputs, **settings):
    calls: list[tuple[str, list[int]]] = []
    with torch.no_grad():
        answer = snn(*inputs, count=lambda name, spikes: calls.append((name, spikes.tolist())), **settings)
    return answer, calls


def test_the_list_is_complete() -> None:
    assert {type(schedule) for schedule in LIST} == set(SCHEDULES.values())


@pytest.mark.parametrize("kernel", [KernelPreference.AUTO, KernelPreference.EAGER], ids=str)
@pytest.mark.parametrize("schedule", LIST, ids=repr)
@pytest.mark.parametrize("topology", ZOO + TWO, ids=str)
def test_results_do_not_depend_on_the_cut(topology, schedule: Schedule, kernel: KernelPreference) -> None:
    snn, inputs = spiking(topology)
    answer, calls = counted(snn, *inputs, steps=5, schedule=schedule, kernel=kernel)
    assert len(calls) == len({name for name, _ in calls}) * schedule.passes  # once per site and pass
    cut, told = counted(snn, *inputs, steps=5, schedule=schedule, kernel=kernel, memory_mib=0)
    assert_same_answer(cut, answer)
    assert told == calls


@pytest.mark.parametrize("schedule", [Plain(), Staggered(1), TwoPasses(2)], ids=repr)
def test_frames_are_cut_like_constant_inputs(schedule: Schedule) -> None:
    snn, inputs = spiking(TWO[0])
    moving = tp.FrameSequence(torch.stack([inputs[0] * k / 4 for k in (1, 4, 2, 0, 3, 1, 2, 4, 1, 0)]))
    poisson = tp.Poisson(inputs[1], seed=3)
    for given in ((moving, inputs[1]), (inputs[0], poisson), (moving, poisson)):
        answer, calls = counted(snn, *given, steps=4, schedule=schedule)
        cut, told = counted(snn, *given, steps=4, schedule=schedule, memory_mib=0)
        assert_same_answer(cut, answer)
        assert told == calls


def test_poisson_spikes_belong_to_the_image() -> None:
    x = torch.rand(4, 3, 2)
    frames = tp.Poisson(x, seed=7).frames(6)
    assert torch.equal(frames[:, 2:], tp.Poisson(x[2:], seed=9).frames(6))


@pytest.mark.parametrize(("schedule", "wanted"), [(Plain(), [(2, 1)] * 4), (AccumulateThenFire(2), [(1, 2)] * 4)])
def test_so_much_runs_at_once(schedule: Schedule, wanted: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site of 2**18 neurons takes 1 MiB per sample and step: two of them in 2 MiB, samples before steps."""
    model = nn.Sequential(nn.Conv1d(1, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    x = torch.rand(4, 1, 2**18)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=x[:1], example_inputs=x[:1])
    seen: list[tuple[int, int]] = []
    run = SiteRunner.emit

    def note(self, drive, memory):
        seen.append((drive.shape[1], drive.shape[0]))
        return run(self, drive, memory)

    monkeypatch.setattr(SiteRunner, "emit", note)
    snn(x, steps=2, schedule=schedule, kernel=KernelPreference.EAGER, memory_mib=2)
    assert seen == wanted


def test_what_cannot_be_cut_runs_whole() -> None:
    """Potentials of particular samples; observers, who see whole batches; values that are no batch."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.register_buffer("scale", torch.ones(2) / 2)

        def forward(self, x):
            return torch.relu(self.a(x)), self.scale

    x = dyadic_batch((2, 4))
    snn = tp.convert(make_dyadic(Scaled()), tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    set_dyadic_thresholds(snn)
    for kernel in (KernelPreference.AUTO, KernelPreference.EAGER):
        with torch.no_grad():
            assert_same_answer(snn(x, steps=3, kernel=kernel, memory_mib=0), snn(x, steps=3, kernel=kernel))
    shapes = []
    snn(x, steps=3, observe=lambda _, drive, events: shapes.append((drive.shape, events.shape)), memory_mib=0)
    assert shapes == [((3, 2, 4), (3, 2, 4))]
    snn, (x,) = spiking(ZOO[0])
    site = snn.sites[0]
    snn.site(site.name).set_initial_potential(torch.arange(5).view(5, 1, 1, 1).expand(5, *site.shape) / 8)
    for kernel in (KernelPreference.AUTO, KernelPreference.EAGER):
        cut = counted(snn, x, steps=3, kernel=kernel, memory_mib=0)
        assert_same_answer(cut[0], snn(x, steps=3, kernel=kernel))
