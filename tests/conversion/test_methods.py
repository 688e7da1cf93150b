"""The table of methods: what each says it needs, how it is tuned, and that its schedule stays with the network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision

import transpike as tp
from transpike.conversion.methods import METHODS, Method, Requirement, find_methods
from transpike.neurons import NEURONS, EventKind
from transpike.rules import CORRECTIONS, THRESHOLD_RULES, BlockReconstruction
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Radix, SignedDigits, Staggered


def quick(method: Method) -> Method:
    """The same method; what trains does it for a few steps only."""

    def make(steps: int) -> tp.Conversion:
        made = method(steps)
        corrections = [
            dataclasses.replace(part, iterations=3) if isinstance(part, BlockReconstruction) else part
            for part in made.corrections
        ]
        return dataclasses.replace(made, corrections=tuple(corrections))

    return dataclasses.replace(method, make=make)


def test_every_rule_calibration_and_neuron_is_in_a_method():
    made = [method(4) for method in METHODS.values()]
    used = {type(part) for conversion in made for part in conversion.parts}
    assert used >= {*THRESHOLD_RULES.values(), *CORRECTIONS.values()}
    assert {type(conversion.neuron) for conversion in made} == set(NEURONS.values())


def test_what_methods_need():
    own = {name: set(method.needs) - {Requirement.DATA} for name, method in METHODS.items()}
    assert {name: needs for name, needs in own.items() if needs} == {
        "snnc-advanced": {Requirement.WEIGHTS},
        "reconstruction": {Requirement.WEIGHTS},
        "snm": {Requirement.NEGATIVE},
        "burst": {Requirement.SEVERAL},
        "digits": {Requirement.NEGATIVE},
    }
    assert all(Requirement.DATA in method.needs for method in METHODS.values())
    free = Method("free", "", lambda _: tp.Conversion(potential=tp.rules.HalfThreshold()))
    assert free.needs == ()


def test_methods_that_are_tuned_and_their_schedules():
    free = {"maximum", "percentile", "spike-norm", "rmp", "opi", "local-balancing", "snm", "burst"}
    assert {name for name, method in METHODS.items() if not method.tuned} == free & set(METHODS)
    schedules = {name: method(3).schedule for name, method in METHODS.items()}
    probing = {name: schedule for name, schedule in schedules.items() if schedule != Plain()}
    assert isinstance(probing.pop("withhold"), Staggered)
    assert probing == {
        "cos": OffsetSpike(3),
        "accumulate": AccumulateThenFire(3),
        "accumulate-finetuned": AccumulateThenFire(3),
        "reconstruction": AccumulateThenFire(3),
        "radix": Radix(3),
        "digits": SignedDigits(3),
    }


@pytest.mark.parametrize("name", METHODS)
def test_converts_and_is_saved_with_its_schedule(name: str, tmp_path: Path):
    torch.manual_seed(0)
    images = torch.rand(12, 1, 8, 8)
    model = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    snn = tp.convert(model, quick(METHODS[name])(2), calibration=images, example_inputs=images[:2])
    schedule = METHODS[name](2).schedule
    assert snn.schedule == schedule
    tp.save(snn, tmp_path / "n.safetensors")
    loaded = tp.load(tmp_path / "n.safetensors")
    assert isinstance(loaded, tp.SpikingNetwork)
    assert loaded.schedule == schedule
    answers = [network(images, steps=3) for network in (snn, loaded)]
    assert torch.equal(*answers)
    assert snn.neuron.events is EventKind.BINARY or METHODS[name].needs != (Requirement.DATA,)


@pytest.mark.parametrize("network", ["resnet18", "shufflenet_v2_x0_5"])
@pytest.mark.parametrize("name", METHODS)
def test_runs_on_torchvision_networks(name: str, network: str):
    torch.manual_seed(0)
    images = torch.randn(4, 3, 32, 32)
    model = getattr(torchvision.models, network)(weights=None, num_classes=5).eval()
    snn = tp.convert(model, quick(METHODS[name])(2), calibration=images, example_inputs=images[:2])
    with torch.no_grad():
        answer = snn(images, steps=2)
    assert answer.shape == (2, 4, 5)
    assert bool(torch.isfinite(answer).all())


def test_a_conversion_without_a_schedule_is_plain():
    torch.manual_seed(0)
    images = torch.rand(4, 1, 8, 8)
    model = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=images, example_inputs=images)
    assert snn.schedule == Plain()


def test_names():
    assert find_methods("all") == list(METHODS.values())
    assert [method.name for method in find_methods("cos, maximum")] == ["cos", "maximum"]
    with pytest.raises(ValueError, match=r"no method 'fast'; known: maximum, percentile"):
        find_methods("cos,fast")
    assert all(name == method.name and method.paper for name, method in METHODS.items())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        METHODS["maximum"](0)
