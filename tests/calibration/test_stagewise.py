"""Stage by stage: what a calibration sees, and that what it sets reaches the stages behind it."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.errors import CalibrationError
from transpike.rules import Correction, Maximum, SpikingThresholdRule, StageView
from transpike.schedules import AccumulateThenFire, OffsetSpike, Schedule, Staggered, TwoPasses
from transpike.testing import TOPOLOGIES, Topology


@dataclass(frozen=True)
class Spy(Correction):
    """Keeps what it sees."""

    steps: int
    seen: dict[str, Any] = field(default_factory=dict, compare=False)

    def update(self, stage: StageView) -> None:
        self.seen[stage.site] = (torch.cat(list(stage.source)), torch.cat(list(stage.currents), 1))


@dataclass(frozen=True)
class ShiftAll(Correction):
    """Adds a bias to every site."""

    bias: float
    steps: int = 4

    def update(self, stage: StageView) -> None:
        stage.module.set_bias(torch.tensor(self.bias))


SHARED = next(topology for topology in TOPOLOGIES if "hared" in topology.name)


def convert(topology: Topology, parts: list[Any], schedule: Schedule | None = None) -> tuple[tp.SpikingNetwork, Any]:
    inputs = topology.random_inputs(5)
    data = [inputs, tuple(x[:1] for x in inputs)]
    conversion = tp.Conversion.of(Maximum(), *parts, schedule=schedule)
    snn = tp.convert(topology.model(), conversion, example_inputs=inputs, calibration=data)
    return snn, inputs


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_a_stage_sees_the_source_and_the_currents_of_the_spiking_network(topology):
    spy = Spy(3)
    snn, inputs = convert(topology, [spy])
    source, currents = {}, {}
    hooks = [
        snn.site(site.name).register_forward_hook(lambda _, args, __, n=site.name: source.update({n: args[0]}))
        for site in snn.sites
    ]
    snn.ann(*inputs)
    for hook in hooks:
        hook.remove()
    snn(*inputs, steps=3, observe=lambda site, drive, events: currents.update({site: drive}))
    assert list(spy.seen) == [site.name for site in snn.sites]
    for site, (pre, arrived) in spy.seen.items():
        batch = inputs[0].shape[0]
        torch.testing.assert_close(pre[:batch], source[site])
        torch.testing.assert_close(arrived[:, :batch], currents[site])


@pytest.mark.parametrize(
    "schedule", [OffsetSpike(4), AccumulateThenFire(4), Staggered(2)], ids=["offset", "accumulate", "staggered"]
)
def test_a_schedule_with_its_own_number_of_steps(schedule):
    spy = Spy(2)
    snn, inputs = convert(SHARED, [spy], schedule)
    seen = {}
    snn(*inputs, steps=2, observe=lambda site, drive, events: seen.update({site: drive}))
    for site, (_, arrived) in spy.seen.items():
        torch.testing.assert_close(arrived[:, : inputs[0].shape[0]], seen[site])


def test_currents_come_without_the_sites_own_bias_but_with_the_effect_of_the_biases_before_it():
    before, after = Spy(4), Spy(4)
    snn, inputs = convert(SHARED, [before, ShiftAll(0.75), after])
    names = [site.name for site in snn.sites]
    torch.testing.assert_close(before.seen[names[0]][1], after.seen[names[0]][1])
    assert not torch.equal(before.seen[names[1]][1], after.seen[names[1]][1])
    seen = {}
    snn(*inputs, steps=4, observe=lambda site, drive, events: seen.update({site: drive}))
    for name in names:
        torch.testing.assert_close(after.seen[name][1][:, : inputs[0].shape[0]] + 0.75, seen[name])


def test_emit_uses_what_the_update_has_set():
    @dataclass(frozen=True)
    class Silence(Correction):
        steps: int = 4

        def update(self, stage: StageView) -> None:
            busy = stage.emit(stage.currents[0]).sum()
            stage.module.set_bias(torch.tensor(-1e6))
            assert stage.emit(stage.currents[0]).sum() == 0
            assert torch.cat(stage.mean_outputs()).abs().sum() == 0
            counts.append(int(busy))

    counts: list[int] = []
    snn, inputs = convert(SHARED, [Silence()])
    assert counts[0] > 0
    spikes = []
    snn(*inputs, steps=4, observe=lambda site, drive, events: spikes.append(float(events.sum())))
    assert sum(spikes) == 0


def test_a_spiking_threshold_rule_takes_the_place_of_a_threshold_rule_and_potentials_follow():
    @dataclass(frozen=True)
    class Largest(SpikingThresholdRule):
        steps: int = 4

        def update(self, stage: StageView) -> None:
            stage.module.set_threshold(stage.currents[0].amax().clamp_min(0.125))

    inputs = SHARED.random_inputs(5)
    snn = tp.convert(SHARED.model(), tp.Conversion.of(Largest()), example_inputs=inputs, calibration=[inputs])
    for site in snn.sites:
        module = snn.site(site.name)
        torch.testing.assert_close(module.v_init, module.theta / 2)
    first = snn.site(snn.sites[0].name)
    z: list[torch.Tensor] = []
    snn(*inputs, steps=1, observe=lambda site, drive, events: z.append(drive))
    assert first.theta == z[0].amax()
    with pytest.raises(ValueError, match="at most one threshold rule"):
        tp.convert(SHARED.model(), tp.Conversion.of(Largest(), Maximum()), example_inputs=inputs, calibration=[inputs])


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"cannot be made for srp .*one pass"):
        tp.Conversion(corrections=[Spy(2)], schedule=TwoPasses())
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU6(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    for data, complaint in ((None, "needs data"), (iter(()), "empty"), ([x[:, :2]], "refuses the batch")):
        with pytest.raises(CalibrationError, match=complaint):
            tp.convert(model, tp.Conversion.of(Spy(2)), example_inputs=x, calibration=data)


def test_a_bias_at_a_site_without_dimensions_runs():
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 1), nn.Linear(1, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x).squeeze(-1)).unsqueeze(-1))

    x = torch.rand(6, 3)
    snn = tp.convert(Scalar(), tp.Conversion.of(Maximum(), ShiftAll(0.25)), example_inputs=x, calibration=[x])
    with torch.no_grad():
        torch.testing.assert_close(snn(x, steps=4), snn(x, steps=4, kernel=tp.kernels.KernelPreference.REFERENCE))


def test_a_threshold_rule_alone_goes_once_through_the_data_and_keeps_nothing():
    alive: list[int] = []

    def batches():
        for _ in range(5):
            yield torch.rand(4, 3)
            alive.append(
                sum(
                    1
                    for each in gc.get_objects()
                    if type(each) is torch.Tensor and not each.is_nested and each.shape == (4, 3)
                )
            )

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    tp.convert(model, tp.Conversion(Maximum()), example_inputs=torch.rand(2, 3), calibration=batches())
    assert len(alive) == 5
    assert max(alive) <= alive[0] + 1
