"""Weights and thresholds that change after they were packed: the next run has them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import transpike as tp
from transpike.engine.weights import WeightSnapshot
from transpike.testing import dyadic_batch, make_dyadic, set_dyadic_thresholds

pytest.importorskip("transpike.kernels._native")


class Negated(nn.Module):
    """A parametrization."""

    def forward(self, value):
        return -value


class Halved(nn.Module):
    """Another."""

    def forward(self, value):
        return value / 2


def converted() -> tuple[tp.SpikingNetwork, torch.Tensor]:
    torch.manual_seed(0)
    x = dyadic_batch((3, 2, 6, 6))
    model = nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, 3)),
    )
    snn = tp.convert(
        make_dyadic(model), tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()), calibration=x, example_inputs=x
    )
    return set_dyadic_thresholds(snn).requires_grad_(False), x


def counts(snn: tp.SpikingNetwork, x: torch.Tensor, kernel: tp.kernels.KernelPreference) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    snn(x, steps=6, kernel=kernel, count=lambda name, spikes: found.update({name: spikes.tolist()}))
    return found


def in_place(snn: tp.SpikingNetwork) -> None:
    snn.network.get_submodule("2").weight.mul_(-1)


def threshold(snn: tp.SpikingNetwork) -> None:
    snn.site("3").set_threshold(snn.site("3").theta * 0.5)


def potential(snn: tp.SpikingNetwork) -> None:
    snn.site("3").set_initial_potential(snn.site("3").theta * 0.75)


def data_again(snn: tp.SpikingNetwork) -> None:
    """Until new numbers lie where the first ones did, which must not happen; they never are the first ones."""
    weight = snn.network.get_submodule("2").weight
    first = weight.data_ptr()
    spare = [weight.clone() for _ in range(20)]
    del spare  # memory that would be given out first
    weight.data = weight.data * -2
    for _ in range(200):
        weight.data = weight.data * -1
        if weight.data_ptr() == first:
            break


def another_module(snn: tp.SpikingNetwork) -> None:
    layer = copy.deepcopy(snn.network.get_submodule("2"))
    layer.weight.mul_(-1)
    snn.network.set_submodule("2", layer)


def assigned_state(snn: tp.SpikingNetwork) -> None:
    state = {name: value.clone() for name, value in snn.state_dict().items()}
    state["network.2.weight"].mul_(-1)
    snn.load_state_dict(state, assign=True)
    snn.requires_grad_(False)


def pruned_weight(snn: tp.SpikingNetwork) -> None:
    prune.custom_from_mask(snn.network.get_submodule("2"), "weight", torch.arange(144).view(4, 4, 3, 3) % 2)


def pruned_bias(snn: tp.SpikingNetwork) -> None:
    """The mask is the first buffer of its layer."""
    prune.custom_from_mask(snn.network.get_submodule("2"), "bias", torch.tensor([1, 0, 0, 1]))


def parametrized_weight(snn: tp.SpikingNetwork) -> None:
    parametrize.register_parametrization(snn.network.get_submodule("2"), "weight", Negated())


def parametrized_threshold(snn: tp.SpikingNetwork) -> None:
    """Changed in place after a run that has seen it."""
    site = snn.site("3")
    parametrize.register_parametrization(site, "theta", Halved())
    snn(dyadic_batch((1, 2, 6, 6)), steps=1)
    site.parametrizations.theta.original.mul_(0.5)


WAYS = (
    *(in_place, threshold, potential, data_again, another_module, assigned_state, pruned_weight, pruned_bias),
    *(parametrized_weight, parametrized_threshold),
)


@pytest.mark.parametrize("change", WAYS)
def test_a_change_is_noticed(change: Callable[[tp.SpikingNetwork], None]) -> None:
    snn, x = converted()
    with torch.no_grad():
        before = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        change(snn)
        after = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        assert after == counts(snn, x, tp.kernels.KernelPreference.REFERENCE)
        assert after != before
        assert all(stage.events for stage in snn.engine.report().values())


def test_another_network_in_its_place_is_noticed() -> None:
    snn, x = converted()
    with torch.no_grad():
        before = snn(x, steps=6)
        snn.network = copy.deepcopy(snn.network)
        snn.network.get_submodule("4").weight.mul_(-1)
        after = snn(x, steps=6)
        other, _ = converted()
        other.network.get_submodule("4").weight.mul_(-1)
        assert torch.equal(after, other(x, steps=6))
        assert not torch.equal(after, before)


def test_weights_lent_for_one_call_are_given_back() -> None:
    snn, x = converted()
    with torch.no_grad():
        before = snn(x, steps=6)
        lent = {"network.2.weight": -snn.network.get_submodule("2").weight}
        during = torch.func.functional_call(snn, lent, (x,), {"steps": 6})
        assert not torch.equal(during, before)
        assert torch.equal(snn(x, steps=6), before)


def test_data_written_in_place_must_be_said() -> None:
    snn, x = converted()
    with torch.no_grad():
        snn(x, steps=6)
        snn.network.get_submodule("2").weight.data.mul_(-1)  # invisible
        snn.engine.repack()
        fast = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        assert fast == counts(snn, x, tp.kernels.KernelPreference.REFERENCE)


def test_nothing_is_packed_again_without_a_change() -> None:
    snn, x = converted()
    with torch.no_grad():
        snn(x, steps=2)
        reports = snn.engine.report()
        snn(x, steps=4)
        assert snn.engine.report() is reports
        snapshot = WeightSnapshot(snn.network)
        assert snapshot.is_current(snn.network)
        assert not snapshot.is_current(copy.deepcopy(snn.network))
        snn.site("3").activation.register_parameter("unread", nn.Parameter(torch.zeros(1)))
        assert snapshot.is_current(snn.network)
