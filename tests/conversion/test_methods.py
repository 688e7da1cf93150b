"""The table of methods: what each says it needs, how it is tuned, and that its schedule stays with the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision

import transpike as tp
from transpike.conversion.methods import METHODS, Composition, Method, Need, convert_by, find_methods
from transpike.neurons import NEURONS, EventKind
from transpike.rules import CORRECTIONS, THRESHOLD_RULES, BlockReconstruction
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Staggered


def quick(method: Method) -> Method:
    """The same method; what trains does it for a few steps only."""

    def compose(steps: int) -> Composition:
        made = method.compose(steps)
        parts = [dataclasses.replace(p, iterations=3) if isinstance(p, BlockReconstruction) else p for p in made.parts]
        return dataclasses.replace(made, parts=tuple(parts))

    return dataclasses.replace(method, compose=compose)


def test_every_rule_calibration_and_neuron_is_in_a_method():
    made = [method.compose(4) for method in METHODS.values()]
    used = {type(part) for composition in made for part in composition.parts}
    assert used >= {*THRESHOLD_RULES.values(), *CORRECTIONS.values()}
    assert {type(composition.neuron) for composition in made} == set(NEURONS.values())


def test_what_methods_need():
    own = {name: set(method.needs) - {Need.DATA} for name, method in METHODS.items()}
    assert {name: needs for name, needs in own.items() if needs} == {
        "snnc-advanced": {Need.WEIGHTS},
        "reconstruction": {Need.WEIGHTS},
        "snm": {Need.NEGATIVE},
        "burst": {Need.SEVERAL},
    }
    assert all(Need.DATA in method.needs for method in METHODS.values())
    free = Method("free", "", lambda _: Composition((tp.rules.HalfThreshold(),)))
    assert free.needs == ()


def test_methods_that_are_tuned_and_their_schedules():
    free = {"maximum", "percentile", "spike-norm", "rmp", "opi", "local-balancing", "snm", "burst"}
    assert {name for name, method in METHODS.items() if not method.tuned} == free & set(METHODS)
    schedules = {name: method.compose(3).schedule for name, method in METHODS.items()}
    probing = {name: schedule for name, schedule in schedules.items() if schedule != Plain()}
    assert isinstance(probing.pop("withhold"), Staggered)
    assert probing == {
        "cos": OffsetSpike(3),
        "accumulate": AccumulateThenFire(3),
        "reconstruction": AccumulateThenFire(3),
    }


@pytest.mark.parametrize("name", METHODS)
def test_converts_and_is_saved_with_its_schedule(name: str, tmp_path: Path):
    torch.manual_seed(0)
    images = torch.rand(12, 1, 8, 8)
    model = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    snn = convert_by(quick(METHODS[name]), model, steps=2, calibration=images, example_inputs=images[:2])
    schedule = METHODS[name].compose(2).schedule
    assert snn.recommended == schedule
    tp.save(snn, tmp_path / "n.safetensors")
    loaded = tp.load(tmp_path / "n.safetensors")
    assert isinstance(loaded, tp.SpikingNetwork)
    assert loaded.recommended == schedule
    answers = [network(images, steps=3, schedule=schedule) for network in (snn, loaded)]
    assert torch.equal(*answers)
    assert snn.neuron.events is EventKind.BINARY or METHODS[name].needs != (Need.DATA,)


@pytest.mark.parametrize("network", ["resnet18", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("name", METHODS)
def test_runs_on_torchvision_networks(name: str, network: str):
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model = getattr(torchvision.models, network)(weights=None, num_classes=5).eval()
    snn = convert_by(quick(METHODS[name]), model, steps=2, calibration=images, example_inputs=images[:2])
    with torch.no_grad():
        answer = snn(images, steps=2, schedule=snn.recommended)
    assert answer.shape == (2, 4, 5)
    assert bool(torch.isfinite(answer).all())


def test_a_plain_conversion_recommends_plain(tmp_path: Path):
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8)
    model = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=images, example_inputs=images)
    assert snn.recommended == Plain()


def test_names():
    assert find_methods("all") == list(METHODS.values())
    assert [method.name for method in find_methods("cos, maximum")] == ["cos", "maximum"]
    with pytest.raises(ValueError, match=r"no method 'fast'; known: maximum, percentile"):
        find_methods("cos,fast")
    assert all(name == method.name and method.paper for name, method in METHODS.items())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        convert_by(METHODS["maximum"], torch.nn.ReLU(), steps=0, calibration=[], example_inputs=torch.ones(1, 1))
