"""Weights that are computed from other tensors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import transpike as tp
from transpike.errors import TraceError

X = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self, change, normalise=True):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if normalise else nn.Identity()
        self.out = nn.Linear(64, 2)
        change(self.b)
        if normalise:
            self.norm.running_var.fill_(4.0)

    def forward(self, x):
        return self.out(F.relu(self.norm(self.b(F.relu(self.a(x))))).flatten(1))


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def _both(layer):
    parametrizations.weight_norm(layer)
    parametrize.register_parametrization(layer, "bias", Doubled())


PARAMETRIZED = [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal, _both]


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("change", PARAMETRIZED)
def test_parametrized_weights_are_taken_as_they_are(change, normalise, tmp_path):
    model = Net(change, normalise).train()
    kept = copy.deepcopy(model.state_dict())
    assert tp.inspect(model, X).folded == (("norm",) if normalise else ())
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum(tp.PerChannel())), example_inputs=X, calibration=X)
    assert parametrize.is_parametrized(model.b)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in kept.items())
    model.eval()
    torch.testing.assert_close(snn.ann(X), model(X))
    assert not parametrize.is_parametrized(snn.network.get_submodule("b"))
    tp.save(snn, tmp_path / "n.safetensors")
    back = tp.load(tmp_path / "n.safetensors", model=lambda: Net(change, normalise))
    assert torch.equal(back(X, steps=3), snn(X, steps=3))


@pytest.mark.parametrize("change", PARAMETRIZED)
def test_a_tailored_network_goes_on_training_its_parametrizations(change, tmp_path):
    tailored = tp.tailor(Net(change).train(), tp.activations.QCFS(4, theta_init=2.0))
    assert parametrize.is_parametrized(tailored.get_submodule("b"))
    originals = [p for name, p in tailored.named_parameters() if "parametrizations" in name]
    before = [p.detach().clone() for p in originals]
    optimizer = torch.optim.SGD(tailored.parameters(), 0.1)
    tailored(X).square().sum().backward()
    optimizer.step()
    assert any(not torch.equal(p, q) for p, q in zip(originals, before, strict=True))
    tailored.eval()
    snn = tp.convert(tailored, example_inputs=X)
    torch.testing.assert_close(snn.ann(X), tailored(X))
    tp.save(tailored, tmp_path / "n.safetensors")
    back = tp.load_ann(tmp_path / "n.safetensors", model=lambda: Net(change))
    torch.testing.assert_close(back(X), tailored(X))


def _after_a_step(layer):
    nn.utils.weight_norm(layer)
    layer(torch.rand(1, 4, 4, 4))


@pytest.mark.parametrize(
    ("change", "way_out"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.5), "prune.remove(module, 'weight')"),
        (nn.utils.weight_norm, "remove_weight_norm(module, 'weight')"),
        (_after_a_step, "remove_weight_norm(module, 'weight')"),
        (nn.utils.spectral_norm, "remove_spectral_norm(module, 'weight')"),
        (lambda layer: setattr(layer, "scaled", 2 * layer.weight), "make it a parameter or a buffer"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_made_by_hooks_are_refused_with_the_way_out(change, way_out):
    model = Net(change).eval()
    for run in (lambda: tp.inspect(model, X), lambda: tp.tailor(model, tp.activations.QCFS(4))):
        with pytest.raises(TraceError) as caught:
            run()
        assert way_out in caught.value.fix
        assert caught.value.where == "module 'b'"


def test_a_pruned_network_converts_once_the_hook_is_removed():
    model = Net(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)).eval()
    prune.remove(model.b, "weight")
    assert tp.inspect(model, X).convertible
