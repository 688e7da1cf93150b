"""Quantised networks of every kind: the same events and answers with every kernel, thread count and instruction set."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ConversionError, RangeError
from transpike.kernels import KernelPreference
from transpike.neurons import IF, Burst, Neuron, Reset, SignedIF
from transpike.schedules import (
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
from transpike.testing import TOPOLOGIES

compiled = pytest.importorskip("transpike.kernels._native")
PERCENTILE = tp.rules.Percentile(99.0, tp.PerChannel())
REFUSED = {
    "transposed": ConversionError,
    "constant_parameters": ConversionError,
    # two layers in a row, whose products need more bits than there are
    "pre_activation_cat": RangeError,
    "max_pool_on_spikes": RangeError,
    # one row of weights for values of several channels
    "view_with_input_size": RangeError,
}
SCHEDULES = [
    *(Plain(), Residual(3), OffsetSpike(4, iterations=2), ExactPotential(4), AccumulateThenFire(4), Staggered(1)),
    *(TwoPasses(3), Radix(4), SignedDigits(4)),
]
Run = tuple[list[Tensor], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def _one_thread_and_the_best_instructions() -> Iterator[None]:
    threads, best = torch.get_num_threads(), compiled.instruction_set()
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)
    compiled.use_instruction_set(best)


def run(snn: tp.SpikingNetwork, inputs: tuple[Tensor, ...], steps: int, kernel: KernelPreference) -> Run:
    """Answers, and events of every site and step."""
    events: dict[str, list[Tensor]] = {}

    def add(site: str, sent: Tensor) -> None:
        events.setdefault(site, []).append(sent)

    answer = snn(*inputs, steps=steps, kernel=kernel, count=add)
    return pytree.tree_leaves(answer), {site: torch.cat(sent) for site, sent in events.items()}


def assert_same(found: Run, wanted: Run, what: object) -> None:
    assert all(map(torch.equal, found[0], wanted[0])), what
    for site, events in found[1].items():  # sites that the answer does not need are not run
        assert torch.equal(events, wanted[1][site]), (what, site)


def assert_equal_everywhere(snn: tp.SpikingNetwork, inputs: tuple[Tensor, ...], steps: int) -> None:
    """Every kernel, one and two threads, all instruction sets, float64, and a batch in another order."""
    wanted = run(snn, inputs, steps, KernelPreference.REFERENCE)
    kernels = [KernelPreference.AUTO, KernelPreference.EAGER, KernelPreference.NATIVE]
    if not isinstance(snn.neuron, IF):  # they have one kernel only
        kernels = [KernelPreference.AUTO]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for instructions in compiled.instruction_sets():
            compiled.use_instruction_set(instructions)
            for kernel in kernels:
                assert_same(run(snn, inputs, steps, kernel), wanted, (threads, instructions, kernel))
    reversed_ = tuple(each.flip(0) for each in inputs)
    answers, events = run(snn, reversed_, steps, KernelPreference.AUTO)
    assert_same(([each.flip(1) for each in answers], events), wanted, "another order")
    wide = copy.deepcopy(snn).double()
    answers, events = run(wide, tuple(each.double() for each in inputs), steps, KernelPreference.REFERENCE)
    for site, sent in events.items():
        assert torch.equal(sent, wanted[1][site]), ("float64", site)
    assert all(torch.allclose(a.float(), b, rtol=1e-6, atol=1e-7) for a, b in zip(answers, wanted[0], strict=True))


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_every_topology_is_exact_or_refused(topology) -> None:
    inputs = topology.random_inputs(4)
    snn = tp.convert(topology.model(), tp.Conversion(PERCENTILE), example_inputs=inputs, calibration=[inputs])
    before = {name: value.clone() for name, value in snn.state_dict().items()}
    if topology.name in REFUSED:
        with pytest.raises(REFUSED[topology.name]):
            tp.quantise(snn, calibration=[inputs])
        assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())
        return
    q = tp.quantise(snn, calibration=[inputs])
    assert all(torch.equal(value, before[name]) for name, value in snn.state_dict().items())
    for wanted, found in zip(*(pytree.tree_leaves(each.ann(*inputs)) for each in (snn, q)), strict=True):
        assert (wanted - found).abs().max() < 0.03 * wanted.abs().max()
    assert_equal_everywhere(q, inputs, 5)


class Residuals(torch.nn.Module):
    """Identity, strided and pooled branches that meet in front of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.main = torch.nn.Conv2d(8, 8, 3, padding=1)
        self.wide = torch.nn.Conv2d(8, 16, 3, padding=1)
        self.side = torch.nn.Conv2d(8, 16, 1)
        self.head = torch.nn.Linear(16, 5)
        self.pool = torch.nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.main(x) + x)
        x = torch.relu(self.pool(self.wide(x)) + self.side(self.pool(x)))
        return self.head(x.mean((2, 3)))


def residuals(schedule: Schedule, neuron: Neuron | None = None, bits: int = 8) -> tuple[tp.SpikingNetwork, Tensor]:
    torch.manual_seed(0)
    model, x = Residuals().eval(), torch.randn(5, 3, 6, 6)
    conversion = tp.Conversion(PERCENTILE, neuron=neuron or IF(), schedule=schedule, quantise=tp.Quantisation(bits))
    return tp.convert(model, conversion, example_inputs=x, calibration=x), x


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_is_exact(schedule: Schedule) -> None:
    snn, x = residuals(schedule)
    for steps in (1, 4, 7) if not schedule.incremental else (4,):
        assert_equal_everywhere(snn, (x,), steps)


@pytest.mark.parametrize("neuron", [IF(Reset.HARD), SignedIF(), Burst(3)], ids=str)
def test_every_neuron_is_exact(neuron: Neuron) -> None:
    snn, x = residuals(Plain(), neuron)
    assert_equal_everywhere(snn, (x,), 6)


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_few_bits_are_exact(bits: int) -> None:
    snn, x = residuals(Plain(), bits=bits)
    assert_equal_everywhere(snn, (x,), 4)
    for layer in (snn.network.get_submodule("main"), snn.network.get_submodule("head")):
        levels = [len(row.unique()) for row in layer.weight.flatten(1)]
        assert max(levels) <= 2**bits - 1


def test_time_may_be_cut_anywhere() -> None:
    """Chunks, single steps and frames give what one run gives."""
    snn, x = residuals(Plain())
    wanted = snn(x, steps=6)
    assert torch.equal(snn(x, steps=6, chunk=2), wanted)
    assert torch.equal(snn(tp.FrameSequence(x.expand(6, *x.shape)), steps=6), wanted)
    state = None
    for step in range(6):
        answer, state = snn.step(x, state)
        assert torch.equal(answer, wanted[step])


def test_pools_of_other_sizes_than_powers_of_two_are_exact() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.AvgPool2d(3), torch.nn.Conv2d(8, 8, 1)),
        *(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4)),
    ).eval()
    x = torch.randn(4, 3, 9, 9)
    snn = tp.convert(model, tp.Conversion(PERCENTILE), example_inputs=x, calibration=x)
    q = tp.quantise(snn, calibration=x)
    assert (q.ann(x) - model(x)).abs().max() < 0.04 * model(x).abs().max()
    assert_equal_everywhere(q, (x,), 6)
    sent: dict[str, Tensor] = {}
    answer = q(x, steps=1, observe=lambda name, _, events: sent.update({name: events}))
    pooled = sent["4"][0].double().sum((2, 3)) / 9
    head = model[7]
    expected = pooled @ (head.weight.double() * snn.site("4").theta.double().flatten()).T + head.bias.double()
    assert torch.allclose(answer[0].double(), expected, atol=2e-3)
