"""Weights and thresholds that change after they were packed: the next run has them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils.hooks import RemovableHandle

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


def unseen_data(snn: tp.SpikingNetwork) -> None:
    snn.network.get_submodule("2").weight.data.mul_(-1)


def one_value(snn: tp.SpikingNetwork) -> None:
    """Small networks are compared value by value."""
    snn.network.get_submodule("2").weight.data[3, 2, 1, 1] += 64


def numpy_view(snn: tp.SpikingNetwork) -> None:
    snn.network.get_submodule("2").weight.detach().numpy()[...] *= -1


def inference_mode(snn: tp.SpikingNetwork) -> None:
    with torch.inference_mode():
        snn.network.get_submodule("2").weight.mul_(-1)


def other_tensor(snn: tp.SpikingNetwork) -> None:
    """Another tensor that shares the memory."""
    weight = snn.network.get_submodule("2").weight
    torch.empty(0).set_(weight.untyped_storage(), 0, weight.shape, weight.stride()).mul_(-1)


def set_source(snn: tp.SpikingNetwork) -> None:
    weight = snn.network.get_submodule("2").weight
    weight.set_(-weight.detach().clone())


def turned(snn: tp.SpikingNetwork) -> None:
    """The same memory, read in another order."""
    weight = snn.network.get_submodule("2").weight
    weight.data = weight.data.transpose(2, 3)


def fused_step(snn: tp.SpikingNetwork) -> None:
    weight = snn.network.get_submodule("2").weight
    weight.grad = torch.full_like(weight, 2.0)
    torch.optim.SGD([weight], lr=0.5, fused=True).step()


def padding(snn: tp.SpikingNetwork) -> None:
    """Pads so that the layer keeps its size."""
    layer = snn.network.get_submodule("2")
    layer.padding, layer.dilation = (1, 1), (2, 2)


def class_of_layer(snn: tp.SpikingNetwork) -> None:
    snn.network.get_submodule("2").__class__ = Doubled


class Doubled(nn.Conv2d):
    """A convolution with a forward of its own."""

    def forward(self, value):
        return 2 * super().forward(value)


def hook(snn: tp.SpikingNetwork) -> None:
    snn.network.get_submodule("2").register_forward_hook(lambda layer, given, answer: 2 * answer)


def hook_behind_a_parametrization(snn: tp.SpikingNetwork) -> None:
    """A parametrized layer has modules inside."""
    parametrize.register_parametrization(snn.network.get_submodule("2"), "weight", Halved())
    snn(dyadic_batch((1, 2, 6, 6)), steps=1)
    hook(snn)


def pre_hook(snn: tp.SpikingNetwork) -> None:
    snn.network.get_submodule("2").register_forward_pre_hook(lambda layer, given: (2 * given[0],))


def image_hook(snn: tp.SpikingNetwork) -> None:
    """On the convolution of the image, in front of the first neurons."""
    snn.network.get_submodule("0").register_forward_hook(lambda layer, given, answer: -answer)


def global_hook(snn: tp.SpikingNetwork) -> None:
    convolution = snn.network.get_submodule("2")
    handle = nn.modules.module.register_module_forward_hook(
        lambda layer, given, answer: 2 * answer if layer is convolution else None
    )
    HANDLES.append(handle)


def patched(snn: tp.SpikingNetwork) -> None:
    layer = snn.network.get_submodule("2")
    layer.forward = lambda value: nn.functional.conv2d(value, 2 * layer.weight, layer.bias)


HANDLES: list[RemovableHandle] = []

UNCOUNTED = (unseen_data, one_value, numpy_view, inference_mode, other_tensor, set_source, turned, fused_step, padding)
OTHER_CALLS = (hook, hook_behind_a_parametrization, pre_hook, image_hook, global_hook, patched, class_of_layer)

WAYS = (
    *(in_place, threshold, potential, data_again, another_module, assigned_state, pruned_weight, pruned_bias),
    *(parametrized_weight, parametrized_threshold, *UNCOUNTED),
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


@pytest.fixture
def _no_hooks_are_left() -> Iterator[None]:
    yield
    while HANDLES:
        HANDLES.pop().remove()


@pytest.mark.usefixtures("_no_hooks_are_left")
@pytest.mark.parametrize("change", OTHER_CALLS)
def test_what_only_a_call_of_the_layer_shows_runs_dense(change: Callable[[tp.SpikingNetwork], None]) -> None:
    snn, x = converted()
    with torch.no_grad():
        before = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        change(snn)
        after = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        assert after == counts(snn, x, tp.kernels.KernelPreference.REFERENCE)
        assert after != before
        reason = snn.engine.unsupported_reason()
        if change is class_of_layer:  # one stage
            assert [name for name, stage in snn.engine.report().items() if not stage.events] == ["3"]
        else:
            assert reason is not None
            assert "forward" in reason


@pytest.mark.usefixtures("_no_hooks_are_left")
def test_without_its_hook_it_runs_event_by_event_again() -> None:
    snn, x = converted()
    with torch.no_grad():
        before = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        handle = snn.network.get_submodule("2").register_forward_hook(lambda layer, given, answer: 2 * answer)
        assert snn.engine.unsupported_reason() == "layer '2' has forward hooks; remove them"
        handle.remove()
        assert snn.engine.unsupported_reason() is None
        assert counts(snn, x, tp.kernels.KernelPreference.AUTO) == before


def test_a_pruned_weight_follows_its_original() -> None:
    snn, x = converted()
    with torch.no_grad():
        pruned_weight(snn)
        before = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        snn.network.get_submodule("2").weight_orig.mul_(-1)
        after = counts(snn, x, tp.kernels.KernelPreference.AUTO)
        assert after == counts(snn, x, tp.kernels.KernelPreference.REFERENCE)
        assert after != before


@pytest.mark.parametrize("fused", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_step_of_a_fused_optimizer_is_noticed_in_a_large_network(fused: type[torch.optim.Optimizer]) -> None:
    """One that is compared by samples."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 300, 2), nn.ReLU(), nn.Flatten())
    conversion = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())
    snn = tp.convert(model.eval(), conversion, calibration=x, example_inputs=x).requires_grad_(True)
    with torch.no_grad():
        snn(x, steps=4)
        assert snn._backend_cache()._look()._sampled
    snn(x, steps=4).square().sum().backward()
    fused(snn.parameters(), lr=0.05, fused=True).step()
    with torch.no_grad():
        fast, right = snn(x, steps=4), snn(x, steps=4, kernel=tp.kernels.KernelPreference.REFERENCE)
    torch.testing.assert_close(fast, right, rtol=1e-4, atol=1e-4)


def test_packed_weights_go_before_the_snapshot_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another thread could find the snapshot current and run the old weights."""
    snn, x = converted()
    backends = snn._backend_cache()
    with torch.no_grad():
        snn(x, steps=2)
        in_place(snn)
        seen = []
        repack = backends.repack
        monkeypatch.setattr(
            backends, "repack", lambda: (seen.append(backends._snapshot.is_current(snn.network)), repack())
        )
        snn(x, steps=2)
    assert seen == [False]


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
