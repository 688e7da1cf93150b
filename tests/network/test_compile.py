"""Dense runs under ``torch.compile``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import transpike as tp
from transpike.kernels import KernelPreference
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Residual, Schedule, SignedDigits
from transpike.testing import TOPOLOGIES, assert_same_answer, set_dyadic_thresholds

EAGER = KernelPreference.EAGER  # as on a GPU, where there are no kernels for the CPU and no engine
RESIDUAL = next(topology for topology in TOPOLOGIES if topology.name == "pad_and_slice")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def spiking(conversion: tp.Conversion | None = None) -> tuple[tp.SpikingNetwork, tuple[torch.Tensor, ...]]:
    inputs = RESIDUAL.dyadic_inputs(3)
    conversion = conversion or tp.Conversion(tp.rules.Maximum())
    snn = tp.convert(RESIDUAL.dyadic_model(), conversion, calibration=[inputs], example_inputs=inputs)
    return set_dyadic_thresholds(snn), inputs


class Counted:
    """A backend of ``torch.compile`` that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: object) -> object:
        self.graphs += 1
        return graph.forward


@pytest.mark.parametrize(
    "schedule", [Plain(), Residual(2), OffsetSpike(3), AccumulateThenFire(4), SignedDigits()], ids=repr
)
def test_a_pass_is_one_graph_with_the_same_answer(schedule: Schedule) -> None:
    snn, inputs = spiking()
    backend = Counted()
    with torch.no_grad():
        wanted = snn(*inputs, steps=4, schedule=schedule, kernel=EAGER)
        snn.compile(backend=backend)
        for _ in range(2):
            assert_same_answer(snn(*inputs, steps=4, schedule=schedule, kernel=EAGER), wanted)
    assert backend.graphs == schedule.passes


def test_it_compiles_anew_for_another_t() -> None:
    snn, inputs = spiking()
    backend = Counted()
    snn.compile(backend=backend)
    with torch.no_grad():
        short, long = (snn(*inputs, steps=steps, kernel=EAGER) for steps in (2, 3))
    assert_same_answer(short, torch.utils._pytree.tree_map(lambda rows: rows[:2], long))
    assert backend.graphs == 2


def test_moved_and_changed_weights_are_seen() -> None:
    snn, inputs = spiking()
    snn.compile(backend="aot_eager")
    with torch.no_grad():
        before = snn(*inputs, steps=4, kernel=EAGER)
        for parameter in snn.network.parameters():
            parameter.mul_(0.5)
        other = snn(*inputs, steps=4, kernel=EAGER)
        snn.double()
        in_double = snn(*(x.double() for x in inputs), steps=4, kernel=EAGER)
    assert not torch.equal(before, other)
    assert_same_answer(in_double.float(), other)


def test_gradients_are_those_of_the_eager_run() -> None:
    found = []
    for compiled in (False, True):
        snn, inputs = spiking()
        snn.requires_grad_(True)
        if compiled:
            snn.compile(backend="aot_eager")
        snn(*inputs, steps=3, kernel=EAGER).square().sum().backward()
        found.append({name: p.grad for name, p in snn.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any(bool(gradient.any()) for gradient in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_inductor_keeps_the_events() -> None:
    snn, inputs = spiking()
    with torch.no_grad():
        wanted = snn(*inputs, steps=4, kernel=EAGER)
        snn.compile()
        assert_same_answer(snn(*inputs, steps=4, kernel=EAGER), wanted)
