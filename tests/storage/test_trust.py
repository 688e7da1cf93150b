"""What a file is trusted with: no more than a user, and no more than its own tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import transpike as tp
from transpike.errors import CheckpointError
from transpike.serialization.container import read_container, write_container


def images() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    rule = tp.Conversion(threshold=tp.rules.Maximum(tp.rules.PerChannel()))
    path = tmp_path_factory.mktemp("trust") / "n.safetensors"
    tp.save(tp.convert(model, rule, example_inputs=images(), calibration=images()), path)
    return path


def site_of(path: Path) -> str:
    return next(name.removesuffix(".theta") for name in sorted(read_container(path)[0]) if name.endswith(".theta"))


def changed(path: Path, to: Path, name: str, value: Tensor) -> Path:
    tensors, header = read_container(path)
    assert name in tensors
    write_container(to, {**tensors, name: value}, header)
    return to


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        *(("theta", torch.tensor(value), "positive and finite") for value in (NAN, INF, -INF, -1.0, 0.0)),
        ("theta", torch.ones(3), "population of shape"),
        ("theta", torch.ones(2, 8, 8), "population of shape"),
        *(("v_init", torch.tensor(value), "must be finite") for value in (NAN, INF)),
        ("v_init", torch.zeros(0, 2, 8, 8), "initial potential"),
        ("v_init", torch.zeros(5), "initial potential"),
        *(("bias", torch.tensor(value), "must be finite") for value in (NAN, -INF)),
        ("bias", torch.zeros(1, 3, 1, 1), "bias"),
        ("theta", torch.ones(2, 1, 1, dtype=torch.int64), "int64"),
        ("v_init", torch.ones((), dtype=torch.bool), "bool"),
        ("bias", torch.zeros((), dtype=torch.float64), "float64"),
    ],
)
def test_numbers_of_sites_pass_the_checks_of_the_setters(
    saved: Path, tmp_path: Path, part: str, value: Tensor, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        tp.load(changed(saved, tmp_path / "bad.safetensors", f"{site_of(saved)}.{part}", value))


def test_a_threshold_per_channel_may_be_flat_and_a_scalar_bias_counts(saved: Path, tmp_path: Path) -> None:
    name = site_of(saved)
    theta = read_container(saved)[0][f"{name}.theta"]
    flat = tp.load(changed(saved, tmp_path / "flat.safetensors", f"{name}.theta", theta.flatten()))
    assert torch.equal(flat(images(), steps=4), tp.load(saved)(images(), steps=4))
    biased = tp.load(changed(saved, tmp_path / "bias.safetensors", f"{name}.bias", torch.tensor(0.25)))
    by_hand = tp.load(saved)
    by_hand.site(name.removeprefix("network.")).set_bias(torch.tensor(0.25))
    assert torch.equal(biased(images(), steps=4), by_hand(images(), steps=4))
    assert not torch.equal(biased(images(), steps=4), flat(images(), steps=4))


@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_no_numbers_are_neither_read_nor_written(saved: Path, tmp_path: Path, value: float) -> None:
    name = next(name for name in read_container(saved)[0] if name.endswith("classifier.weight"))
    weight = read_container(saved)[0][name].clone()
    weight[0, 0] = value
    with pytest.raises(CheckpointError, match=r"classifier\.weight holds (NaN|infinite)"):
        tp.load(changed(saved, tmp_path / "bad.safetensors", name, weight))
    snn = tp.load(saved)
    with torch.no_grad():
        snn.get_parameter(name)[0, 0] = value
    with pytest.raises(CheckpointError, match=r"classifier\.weight holds"):
        tp.save(snn, tmp_path / "never.safetensors")
    assert not (tmp_path / "never.safetensors").exists()


def net(
    stride: int = 1,
    mode: str = "zeros",
    pool: Callable[[Tensor], Tensor] = lambda x: F.max_pool2d(x, 2),
    act: type[nn.Module] = nn.ReLU,
    before: Callable[[Tensor], Tensor] = lambda x: x,
    table: Tensor | None = None,
    swap: bool = False,
) -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.act = nn.Conv2d(3, 8, 3, stride, 1, padding_mode=mode), act()
            self.b, self.end = nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU()
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)
            self.register_buffer("table", torch.ones(3, 1, 1) if table is None else table, persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            y = pool(self.act(self.a(before(x) * self.table)))
            z = self.fc(self.pool(self.end(self.b(y))).flatten(1))
            return -z + 1.0 if swap else 1.0 + -z

    return Net().eval()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor, Tensor]:
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    rule = tp.Conversion(threshold=tp.rules.Maximum(tp.rules.PerChannel()))
    snn = tp.convert(net(), rule, example_inputs=x, calibration=x)
    path = tmp_path_factory.mktemp("own") / "n.safetensors"
    tp.save(snn, path)
    return path, x, snn(x, steps=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 2}, r"nn\.Conv2d\(stride=\(1, 1\)\), the model's is nn\.Conv2d\(stride=\(2, 2\)\)"),
        ({"mode": "circular"}, "padding_mode='circular'"),
        ({"pool": lambda x: F.avg_pool2d(x, 2)}, "max_pool2d.*avg_pool2d"),
        ({"pool": lambda x: F.max_pool2d(x, 2, 1)}, "max_pool2d"),
        ({"act": nn.ReLU6}, "ReLU6"),
        ({"before": lambda x: x * 2}, r"mul\(.*2"),
        ({"before": lambda x: x - 0.5}, r"sub\(.*0\.5"),
        ({"table": torch.tensor([1.0, 1.0, 1.25]).view(3, 1, 1)}, r"value=\[1, 1, 1\].*value=\[1, 1, 1\.25\]"),
        ({"swap": True}, "add"),
    ],
)
def test_a_model_that_computes_something_else_is_refused(
    own: tuple[Path, Tensor, Tensor], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        tp.load(own[0], model=net(**change))
    assert "computes something else" in caught.value.what
    assert "test_trust.py:" in caught.value.where


class Renamed(nn.Module):
    """What `net` computes, in other words."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.act = nn.Conv2d(3, 8, kernel_size=(3, 3), padding=(1, 1)), nn.ReLU(inplace=True)
        self.b, self.end = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.pool, self.fc, self.unused = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5), 3
        self.register_buffer("table", torch.ones(3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        _ = image + 1.0
        hidden = self.act(self.a(image * self.table))
        pooled = F.max_pool2d(input=hidden, kernel_size=2)
        return self.head(pooled)

    def head(self, pooled: Tensor) -> Tensor:
        return 1.0 + -self.fc(self.pool(self.end(self.b(pooled))).flatten(1))


def test_other_names_and_ways_to_write_it_are_the_same_model(own: tuple[Path, Tensor, Tensor]) -> None:
    path, x, answer = own
    assert torch.equal(tp.load(path, model=Renamed)(x, steps=8), answer)


def test_a_file_of_an_older_version_has_no_graph_and_loads(own: tuple[Path, Tensor, Tensor], tmp_path: Path) -> None:
    path, x, answer = own
    tensors, header = read_container(path)
    assert len(header.pop("graph")) > 10
    write_container(tmp_path / "old.safetensors", tensors, header)
    assert torch.equal(tp.load(tmp_path / "old.safetensors", model=net())(x, steps=8), answer)


def test_a_fingerprint_survives_pickling_and_copying(own: tuple[Path, Tensor, Tensor], tmp_path: Path) -> None:
    import pickle

    path, _, _ = own
    snn = tp.load(path, model=net())
    for number, twin in enumerate((copy.deepcopy(snn), pickle.loads(pickle.dumps(snn)))):
        tp.save(twin, tmp_path / f"{number}.safetensors")
        assert read_container(tmp_path / f"{number}.safetensors")[1] == read_container(path)[1]


def test_weights_alone_are_compared_too(tmp_path: Path) -> None:
    tp.save(net(), tmp_path / "n.safetensors")
    assert isinstance(tp.load_ann(tmp_path / "n.safetensors", model=net), nn.Module)
    with pytest.raises(CheckpointError, match="stride"):
        tp.load_ann(tmp_path / "n.safetensors", model=net(stride=2))


def test_a_network_saved_twice_has_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    snn, found = tp.load(saved), set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        tp.save(snn, path)
        found.add(path.read_bytes())
    assert len(found) == 1


@pytest.mark.parametrize(
    ("at", "value"),
    [
        *((("info", "source", "options"), value) for value in ({"width": 4000}, {"blocks": 10**6}, {"blocks": 2000})),
        *((("info", "source", "options"), value) for value in ({"classes": 10**9}, {"width": 10**30}, None, 5)),
        (("info", "source"), {"kind": "ModelSource", "name": "timm:vit_tiny_patch16_224", "options": {"depth": 4000}}),
        (("info", "source"), {"kind": "ModelSource", "name": "torchvision:vgg11", "options": {"num_classes": 4096}}),
        (("info", "source"), {"kind": "ModelSource", "name": "timm:resnet18", "options": {"pretrained": True}}),
        (("info", "source"), {"kind": "ModelSource", "name": "timm:resnet18", "options": {"checkpoint_path": "/x"}}),
        *((("capture", "input_shapes"), value) for value in ([[1, 20000, 20000]], [[1, 3000, 3000]], [[1, -8, 8]], [])),
        (("info", "source"), 5),
        (("sites",), 5),
        (("conversion", "leave"), 5),
        (("conversion", "neuron"), {"kind": "Plain"}),
        (("conversion", "schedule"), {"kind": "OffsetSpike"}),
        (("capture", "max_pooling"), "x"),
        (("graph",), 5),
        (("graph", 0), {"operator": 3}),
        (("format",), True),
        (("inputs",), 1.5),
    ],
)
def test_a_small_file_asks_for_little_and_says_what_it_means(
    saved: Path, tmp_path: Path, at: tuple[Any, ...], value: Any
) -> None:
    if at[0] == "info" and "timm" in str(value):
        pytest.importorskip("timm")
    tensors, header = read_container(saved)
    inner = header
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = value
    write_container(tmp_path / "bad.safetensors", tensors, header)
    peak = _peak()
    with pytest.raises(CheckpointError):
        tp.load(tmp_path / "bad.safetensors")
    assert _peak() - peak < 300 * 2**20


def _peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    import resource

    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
