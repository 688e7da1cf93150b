from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

import transpike as tp
from transpike import zoo
from transpike.errors import CheckpointError, OutputError
from transpike.network.spiking import SpikingNetwork
from transpike.rules import POTENTIAL_RULES
from transpike.serialization.container import read_container, write_container
from transpike.serialization.json_records import to_json
from transpike.serialization.model_info import InputSpec, ModelSource
from transpike.testing import TOPOLOGIES, Topology

DIGITS = InputSpec((1, 8, 8), (0.5,), (0.25,), ("zero", "one"), "digits")


def x(n: int = 4) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def relu_net() -> nn.Module:
    torch.manual_seed(3)
    return zoo.build("digits-resnet", width=4, blocks=1).eval()


def converted(parts=(), model: nn.Module | None = None, neuron=None) -> SpikingNetwork:
    parts = parts or [tp.rules.Percentile(99.0, tp.PerChannel()), tp.rules.HalfThreshold()]
    return tp.convert(
        model or relu_net(), tp.Conversion.of(*parts, neuron=neuron), calibration=x(16), example_inputs=x()
    )


def assert_same(a: SpikingNetwork, b: SpikingNetwork, *inputs: torch.Tensor) -> None:
    assert list(a.state_dict()) == list(b.state_dict())
    assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())
    one, two = a(*inputs, steps=5), b(*inputs, steps=5)
    leaves = torch.utils._pytree.tree_leaves
    assert all(torch.equal(p, q) for p, q in zip(leaves(one), leaves(two), strict=True))


def test_spiking_network_of_the_zoo_needs_nothing_else(tmp_path: Path) -> None:
    snn = converted(neuron=tp.neurons.IF(tp.neurons.Reset.HARD))
    tp.save(snn, tmp_path / "n.safetensors", inputs=DIGITS)
    back = tp.load(tmp_path / "n.safetensors")
    assert_same(snn, back, x())
    assert back.neuron == tp.neurons.IF(tp.neurons.Reset.HARD)
    assert back.sites == snn.sites
    info = tp.serialization.model_info.model_info(back.network)
    assert info.inputs == DIGITS
    assert info.source == ModelSource("digits-resnet", {"width": 4, "blocks": 1})
    assert not back.training
    assert (back.conversion, back.capture) == (snn.conversion, snn.capture)
    tp.save(back, tmp_path / "again.safetensors")
    assert read_container(tmp_path / "again.safetensors")[1] == read_container(tmp_path / "n.safetensors")[1]


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)
def test_every_topology_with_its_own_model(topology: Topology, tmp_path: Path) -> None:
    model = topology.model()
    inputs = tuple(torch.randn(4, *shape) for shape in topology.inputs)
    snn = tp.convert(
        model,
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        calibration=[inputs],
        example_inputs=inputs,
    )
    tp.save(snn, tmp_path / "n.safetensors")
    for given in (topology.build, topology.model(seed=1).train()):  # other weights, which must not matter
        assert_same(snn, tp.load(tmp_path / "n.safetensors", model=given), *inputs)


@pytest.mark.parametrize("threshold", [tp.rules.Maximum(), tp.rules.MinimumMSE(4, tp.PerChannel())], ids=repr)
@pytest.mark.parametrize(
    "potential",
    [cls(**({"shift": 0.25} if name == "shifted" else {})) for name, cls in POTENTIAL_RULES.items()],
    ids=repr,
)
def test_every_part_is_stored(threshold, potential, tmp_path: Path) -> None:
    snn = converted([threshold, potential])
    tp.save(snn, tmp_path / "n.safetensors")
    assert_same(snn, tp.load(tmp_path / "n.safetensors"), x())
    stored = read_container(tmp_path / "n.safetensors")[1]["conversion"]
    assert [stored["threshold"], stored["potential"]] == to_json([threshold, potential])


@pytest.mark.parametrize(
    "activation",
    [
        tp.activations.SlipReLU(3, 0.25, 0.25, -0.125, tp.activations.Gradient.PAPER, 2.0, False),
        tp.activations.QCFS(4),
        tp.activations.SlipReLU(2, 0.2, theta_init=tp.activations.ThetaPercentile(98.0)),
    ],
    ids=repr,
)
def test_tailored_networks_and_their_conversion(activation: tp.activations.SlipReLU, tmp_path: Path) -> None:
    ann = tp.tailor(relu_net(), activation, calibration=x(16))
    with torch.no_grad():
        for name, parameter in ann.named_parameters():
            if name.endswith("theta"):
                parameter += 0.3
    tp.save(ann, tmp_path / "ann.safetensors")
    back = tp.load_ann(tmp_path / "ann.safetensors")
    assert torch.equal(back(x()), ann.eval()(x()))
    assert tp.conversion.tailor.tailoring(back).activation == activation
    assert tp.describe(tmp_path / "ann.safetensors").activation == activation
    snn = tp.convert(back, example_inputs=x())
    tp.save(snn, tmp_path / "snn.safetensors")
    assert_same(snn, tp.load(tmp_path / "snn.safetensors"), x())
    assert tp.describe(tmp_path / "snn.safetensors").kind == "spiking"


class OnlyInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        hidden = torch.relu(self.a(x))
        return self.b(hidden * scale if self.training else hidden)


@pytest.mark.parametrize("training", [True, False])
def test_a_tailored_network_is_traced_again_in_its_mode(training: bool, tmp_path: Path) -> None:
    data, path = torch.rand(4, 3), tmp_path / "n.safetensors"
    tailored = tp.tailor(OnlyInTraining().train(training), tp.activations.QCFS(4), example_inputs=data)
    tp.save(tailored, path)
    for model in (OnlyInTraining, OnlyInTraining().train(), OnlyInTraining().eval()):
        assert torch.equal(tp.load_ann(path, model=model)(data), tailored(data))


def test_networks_tailored_in_two_steps(tmp_path: Path) -> None:
    data, path = torch.rand(4, 3), tmp_path / "n.safetensors"
    once = tp.tailor(OnlyInTraining(), tp.activations.QCFS(4))
    twice = tp.tailor(nn.Sequential(once, nn.ReLU()), tp.activations.QCFS(4))
    tp.save(twice, path)
    loaded = tp.load_ann(path, model=lambda: nn.Sequential(OnlyInTraining(), nn.ReLU()))
    assert torch.equal(loaded(data), twice(data))


def test_plain_network_of_the_zoo(tmp_path: Path) -> None:
    model = relu_net()
    tp.save(model, tmp_path / "m.safetensors", inputs=DIGITS)
    back = tp.load_ann(tmp_path / "m.safetensors")
    assert torch.equal(back(x()), model(x()))
    assert tp.serialization.model_info.model_info(back).inputs == DIGITS


def test_float64_and_potentials_per_sample(tmp_path: Path) -> None:
    model = relu_net().double()
    data = x().double()
    snn = tp.convert(
        model, tp.Conversion(tp.rules.Maximum(), tp.rules.ZeroPotential()), calibration=data, example_inputs=data
    )
    site = snn.sites[2]
    snn.site(site.name).set_initial_potential(torch.rand(4, *site.shape, dtype=torch.float64))
    tp.save(snn, tmp_path / "n.safetensors")
    back = tp.load(tmp_path / "n.safetensors")
    assert next(back.parameters()).dtype == torch.float64
    assert_same(snn, back, data)


def test_own_model_needs_the_model(tmp_path: Path) -> None:
    def own(width: int = 5) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3))

    snn = converted(model=own())
    path = tmp_path / "n.safetensors"
    tp.save(snn, path)
    with pytest.raises(CheckpointError, match=r"not a built-in one[\s\S]*model=MyModel"):
        tp.load(path)
    assert_same(snn, tp.load(path, model=own), x())
    with pytest.raises(CheckpointError, match=r"does not fit the model: .*network\.1\.weight has shape \(5, 64\)"):
        tp.load(path, model=own(6))
    with pytest.raises(CheckpointError, match="other sites"):
        tp.load(path, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Sequential(nn.ReLU()), nn.Linear(5, 3)))
    with pytest.raises(CheckpointError, match=r"cannot be prepared[\s\S]*GELU"):
        tp.load(
            path, model=nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.GELU(), nn.ReLU(), nn.Linear(5, 3))
        )


@dataclass(frozen=True)
class OwnNeuron(tp.neurons.IF):
    leak: float = 0.5


@dataclass(frozen=True)
class OwnRule(tp.rules.Maximum):
    """A part of the user's."""


@dataclass(frozen=True)
class OwnGranularity(tp.PerLayer):
    """A part of a part."""


def impostor() -> tp.Part:
    """A class of the user's that has the name of ours."""
    return dataclass(frozen=True)(type("Maximum", (tp.rules.Maximum,), {}))()


@pytest.mark.parametrize(
    ("parts", "neuron", "name"),
    [
        ((), OwnNeuron(), "OwnNeuron"),
        ([OwnRule()], None, "OwnRule"),
        ([tp.rules.Maximum(OwnGranularity())], None, "OwnGranularity"),
        ([impostor()], None, "rebuilt as another"),
    ],
)
def test_what_cannot_be_rebuilt_is_not_saved(parts, neuron, name: str, tmp_path: Path) -> None:
    snn = converted(parts, neuron=neuron)
    with pytest.raises(CheckpointError, match=f"cannot be saved: .*{name}"):
        tp.save(snn, tmp_path / "n.safetensors")
    assert not list(tmp_path.iterdir())


def test_any_other_module(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    tp.save(model, tmp_path / "m.safetensors", inputs=DIGITS)
    back = tp.load_ann(tmp_path / "m.safetensors", model=lambda: nn.Linear(2, 2))
    assert torch.equal(back(torch.eye(2)), model(torch.eye(2)))
    assert tp.describe(tmp_path / "m.safetensors").info.inputs == DIGITS
    with pytest.raises(CheckpointError, match=r"model=MyModel") as caught:
        tp.load_ann(tmp_path / "m.safetensors")
    assert "--model package.module:factory" in caught.value.shell_message()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transpike.serialization.container as container

    path = tmp_path / "n.safetensors"
    tp.save(relu_net(), path)
    before = path.read_bytes()

    def half(tensors, name, metadata) -> None:
        Path(name).write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(container, "save_file", half)
    with pytest.raises(OutputError, match="disk full"):
        tp.save(relu_net(), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["n.safetensors"]


def test_headers_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    tp.save(relu_net(), path)
    tensors, header = read_container(path)
    for change, message in (
        ({"format": 99}, "format 99"),
        ({"kind": "training"}, "not a network"),
        ({"info": {"kind": "Popen", "args": "x"}}, "malformed"),
        ({"info": {**json.loads(json.dumps(header["info"])), "extra": 1}}, "malformed"),
    ):
        write_container(path, tensors, {**header, **change})
        with pytest.raises(CheckpointError, match=message):
            tp.load(path)
    write_container(path, {k: v for k, v in tensors.items() if "stem" not in k}, header)
    with pytest.raises(CheckpointError, match=r"missing stem\.0\.weight"):
        tp.load(path)
    snn_path = tmp_path / "snn.safetensors"
    tp.save(converted(), snn_path)
    spiking, spiking_header = read_container(snn_path)
    del spiking_header["capture"]["leave"]
    write_container(snn_path, spiking, spiking_header)
    with pytest.raises(CheckpointError, match="Capture lacks leave"):
        tp.load(snn_path)
    unknown = {**header["info"], "source": {**header["info"]["source"], "name": "lenet"}}
    write_container(path, tensors, {**header, "info": unknown})
    with pytest.raises(CheckpointError, match="no built-in network 'lenet'"):
        tp.load(path)
