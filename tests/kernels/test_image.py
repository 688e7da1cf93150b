"""The convolution in front of the first neurons, in one stage with them: against torch, in numbers float32 holds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from maps import pack
from torch import Tensor, nn
from torchvision import tv_tensors

import transpike as tp
from transpike.engine.image import image_source
from transpike.engine.rules import Rule, RuleKind
from transpike.engine.spike_map import Halo, MapShape, Source, Tap
from transpike.engine.stage import EventStage
from transpike.errors import InputError
from transpike.kernels import KernelPreference
from transpike.network.backends import Backends
from transpike.schedules import AccumulateThenFire, Plain
from transpike.testing import assert_same_answer, make_dyadic, set_dyadic_thresholds

compiled = pytest.importorskip("transpike.kernels._native")
NONE = Halo(0, 0, 0, 0)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, Tensor]:
    """Any convolution without groups, on images of any size that it fits."""
    each = st.tuples
    kernel = draw(each(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(each(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(each(st.integers(0, 3), st.integers(0, 3)))
    stride = draw(each(st.integers(1, 3), st.integers(1, 3)))
    least = [max(1, (k - 1) * d + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    size = [draw(st.integers(low, low + 20)) for low in least]
    channels, out = draw(st.integers(1, 4)), draw(st.sampled_from([1, 8, 17, 40, 64, 70]))
    torch.manual_seed(draw(st.integers(0, 99)))
    layer = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False)
    layer.weight.copy_(torch.randint(-32, 33, layer.weight.shape) / 64)
    return layer, torch.randint(-64, 65, (draw(st.integers(1, 3)), channels, *size)) / 64


@pytest.mark.parametrize("instruction_set", compiled.instruction_sets())
@settings(max_examples=40, deadline=None)
@given(case=convolutions(), steps=st.integers(1, 5), spiking=st.booleans(), counts=st.booleans())
def test_neurons_behind_any_convolution(
    case: tuple[nn.Conv2d, Tensor], steps: int, spiking: bool, counts: bool, instruction_set: str
) -> None:
    """Spikes of every step, or counts, in float64; also where other neurons send spikes to the same ones."""
    layer, image = case
    currents = F.conv2d(image.double(), layer.weight.double(), None, layer.stride, layer.padding, layer.dilation)
    batch, channels, rows, columns = currents.shape
    probe = steps if counts else 0
    source = image_source(layer, tuple(image.shape[1:]))
    assert source is not None
    shape = MapShape(channels, rows, columns, NONE, probe)
    each = Source("a", (1, 1), (Tap(0, 0, 0),), (torch.eye(channels) / 4,))
    sources = [(each, shape)] if spiking else []
    bias = torch.randint(-8, 9, (channels,)) / 16
    stage = EventStage(shape, sources, bias, torch.ones(channels), source)
    stage.set_potential(stage.pad(torch.full((1, 1, channels), 0.5)))
    events = (torch.rand(batch, 1 if counts else steps, channels, rows, columns) < 0.3).to(torch.uint8)
    best = compiled.instruction_set()
    compiled.use_instruction_set(instruction_set)
    try:
        rule = Rule(RuleKind.ACCUMULATE, probe=steps) if counts else Rule(RuleKind.PLAIN)
        out, _ = stage.run({"a": pack(shape, events)}, image, rule, batch, steps)
    finally:
        compiled.use_instruction_set(best)
    constant = currents + bias.double().view(-1, 1, 1)
    if counts:
        total = steps * constant + (events[:, 0].double() / 4 if spiking else 0)
        wanted = (total + 0.5).floor().clamp(0, steps)
        assert torch.equal(out.bytes, pack(shape, wanted.unsqueeze(1)).bytes)
        return
    found, v = shape.unpack(out, batch, steps, torch.ones(())), torch.full_like(constant, 0.5)
    for step in range(steps):
        v = v + constant + (events[:, step].double() / 4 if spiking else 0)
        assert torch.equal(found[step].double(), (v >= 1).double())
        v = v - (v >= 1).double()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (3, 8, 9)},
        {"shape": (0, 8, 8)},
        {"shape": (2**40, 2**40, 8)},
        {"moves": (0, 1, 1, 1, 1, 1)},
        {"moves": (1, -1, 1, 1, 1, 1)},
        {"moves": (1, 1, 1, 1, 2**40, 1)},
        {"moves": (1, 1, 1, 1, 1, 2**40)},
        {"weights": torch.zeros(3, 3, 3, 8)},
        {"weights": torch.zeros(2, 3, 3, 16)},
        {"weights": torch.zeros(3, 50, 50, 16)},
        {"image": torch.zeros(2, 3, 8, 9)},
        {"image": torch.zeros(1, 3, 8, 8)},
        {"image": None},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change: dict) -> None:
    given = {"shape": (3, 8, 8), "moves": (1, 1, 1, 1, 1, 1), "weights": torch.zeros(3, 3, 3, 16)}
    image = {"image": torch.zeros(2, 3, 8, 8), **change}.pop("image")
    stage = EventStage(MapShape(5, 8, 8, NONE), [], torch.zeros(5), torch.ones(5))
    stage.set_potential(stage.pad(torch.zeros(1, 1, 5)))

    def run() -> None:  # some mistakes are seen only then
        stage.compiled.set_image(**{**given, **{key: value for key, value in change.items() if key in given}})
        stage.run({}, image, Rule(RuleKind.PLAIN), 2, 3)

    with pytest.raises(ValueError, match=r"image|too large"):
        run()


class Stem(nn.Module):
    """A convolution of the image, whose result or whose input another branch may read, too."""

    def __init__(self, stem: nn.Module, branch: str = "") -> None:
        super().__init__()
        self.stem, self.branch = stem, branch
        self.side = nn.Conv2d(3, 6, 3, padding=1)
        self.inner, self.out = nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x):
        z = self.stem(x)
        y = self.inner(torch.relu(z))
        y = y + {"": 0, "result": z, "input": self.side(x)}[self.branch]
        return self.out(torch.relu(y).mean((2, 3)))


def convert(model: nn.Module, image: Tensor) -> tp.SpikingNetwork:
    make_dyadic(model.eval())
    return set_dyadic_thresholds(
        tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=[image], example_inputs=image)
    )


@pytest.mark.parametrize("branch", ["", "result", "input"])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    ("stem", "inside"),
    [
        (nn.Conv2d(3, 6, 3, padding=1), True),
        (nn.Conv2d(3, 6, 3, padding=1, bias=False), True),
        (nn.Conv2d(3, 6, 3, padding="same"), False),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), False),
        (nn.Conv2d(3, 6, 3, padding=1, padding_mode="circular"), False),
        (nn.Conv2d(3, 6, 7, padding=3), False),  # too many values
        (nn.Conv2d(3, 6, (1, 3), padding=(0, 1), dilation=(1025, 1)), False),  # too far apart
        (nn.Sequential(nn.AvgPool2d(1), nn.Conv2d(3, 6, 3, padding=1)), False),
    ],
    ids=str,
)
def test_whole_networks(stem: nn.Module, inside: bool, batch: int, branch: str) -> None:
    image = torch.randint(-16, 17, (batch, 3, 8, 8)) / 16
    snn = convert(Stem(stem, branch), image)
    for schedule in (Plain(), AccumulateThenFire(4)):
        reference = snn(image, steps=4, schedule=schedule, kernel=KernelPreference.REFERENCE)
        for form in (image, image.to(memory_format=torch.channels_last), image.mT.contiguous().mT):
            assert_same_answer(snn(form, steps=4, schedule=schedule), reference)
        engine = Backends(snn.network, snn.plan, snn.neuron, snn.schedule, snn.capture).engine(schedule)
        assert (snn.sites[0].name in engine.images) == inside
        assert engine.execution.constants != inside


@pytest.mark.parametrize(
    "model",
    [Stem(nn.Conv2d(3, 6, 3, padding=1), "input"), nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 6))],
    ids=["branches", "chain"],
)
def test_quantised_networks(model: nn.Module) -> None:
    """The image is rounded in front of the stage; another branch reads the same rounded image."""
    image = torch.rand(3, 3, 8, 8)
    conversion = tp.Conversion(tp.rules.Maximum(), quantise=tp.Quantisation(6, input_bits=5))
    snn = tp.convert(model.eval(), conversion, calibration=[image], example_inputs=image)
    reference = snn(image, steps=4, kernel=KernelPreference.REFERENCE)
    for form in (image, image.mT.contiguous().mT):
        assert torch.equal(snn(form, steps=4), reference)
    engine = Backends(snn.network, snn.plan, snn.neuron, snn.schedule, snn.capture).engine(Plain())
    assert engine.images[snn.sites[0].name].grid is not None


def test_images_of_every_kind() -> None:
    """Views, subclasses, and tensors that want gradients which nobody records."""
    image = torch.randint(-16, 17, (2, 3, 8, 8)) / 16
    snn = convert(Stem(nn.Conv2d(3, 6, 3, padding=1)), image)
    wanted = snn(image, steps=4)
    wanting = image.clone().requires_grad_()
    negated = torch.complex(torch.zeros_like(image), -image).conj().imag
    sliced = torch.stack([image, image], -1)[..., 0]
    for form in (wanting, nn.Parameter(image), tv_tensors.Image(image), negated, sliced):
        assert torch.equal(snn(form, steps=4), wanted)
    with torch.inference_mode():
        assert torch.equal(snn(image.clone(), steps=4), wanted)
    assert torch.equal(snn(image[:1].expand(2, 3, 8, 8), steps=4)[:, 1], wanted[:, 0])


def test_new_weights_and_other_sizes() -> None:
    image = torch.randint(-16, 17, (2, 3, 8, 8)) / 16
    snn = convert(Stem(nn.Conv2d(3, 6, 3, padding=1)), image)
    snn(image, steps=4)
    stem = snn.network.get_submodule("stem")
    for values in (stem.weight, stem.bias):
        values.mul_(-1)
        reference = snn(image, steps=4, kernel=KernelPreference.REFERENCE)
        assert_same_answer(snn(image, steps=4), reference)
    for size in ((16, 16), (8, 9), (4, 16)):
        with pytest.raises(InputError, match=r"converted with \[\[3, 8, 8\]\]"):
            snn(torch.zeros(2, 3, *size), steps=4)
