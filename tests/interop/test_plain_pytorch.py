"""Networks written as Python files: run where transpike cannot be imported, against the network's own run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ExportError, OutputError, VerificationError
from transpike.interop import torch_parts
from transpike.testing.dyadic import dyadic_batch, make_dyadic, set_dyadic_thresholds
from transpike.testing.topologies import TOPOLOGIES

ZOO = {topology.name: topology for topology in TOPOLOGIES}
PLAIN = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold())
ACCUMULATE = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold(), schedule=tp.schedules.AccumulateThenFire(4))
INEXACT = {"pre_activation_cat"}  # its BatchNorms do not fold, so that its numbers leave the grid

RUN = """
import importlib.util, sys
sys.modules["transpike"] = None
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from torch.utils import _pytree as pytree

for code in sorted(Path(sys.argv[1]).glob("*.py")):
    spec = importlib.util.spec_from_file_location(code.stem, code)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    inputs = load_file(code.with_suffix(".inputs"))
    with torch.no_grad():
        answers = module.load()(*(inputs[name] for name in sorted(inputs)), steps=6)
    leaves = [leaf.contiguous() for leaf in pytree.tree_leaves(answers)]
    save_file({str(place): leaf for place, leaf in enumerate(leaves)}, code.with_suffix(".answers"))
"""


def _network(name, conversion=PLAIN):
    topology = ZOO[name]
    inputs = topology.dyadic_inputs(4)
    snn = tp.convert(topology.dyadic_model(), conversion, calibration=[inputs], example_inputs=inputs)
    return set_dyadic_thresholds(snn), inputs


def _run(folder: Path):
    """Runs every file of a folder in one fresh interpreter, in which transpike cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


def _lint(folder: Path):
    """The formatter would change nothing, and the linter finds nothing."""
    ruff = [sys.executable, "-m", "ruff"]
    for words in (["format", "--check"], ["check", "--select", "E,F,W,I,B,SIM,UP"]):
        done = subprocess.run([*ruff, *words, "--isolated", str(folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


class LongNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.first_projection_of_everything = nn.Conv2d(1, 2, 3, padding=1)
        self.second_projection_of_everything_that_came_before = nn.ConvTranspose2d(
            2, 2, (3, 5), padding=(1, 2), stride=(1, 1), dilation=(1, 1), bias=False
        )
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        first = torch.relu(self.first_projection_of_everything(x))
        second = torch.relu(self.second_projection_of_everything_that_came_before(first))
        both = torch.cat([first, second, first, second], 1)
        both = nn.functional.interpolate(both, scale_factor=0.5, mode="bilinear", align_corners=False)
        return {"logits": self.last(both.mean((2, 3))), "pair": (both.flatten(1)[:, 1:5:2], both[..., 0].sum(-1))}


@pytest.mark.parametrize("conversion", [PLAIN, ACCUMULATE], ids=["plain", "accumulate"])
def test_long_lines_and_nested_answers(tmp_path, conversion):
    x = dyadic_batch((3, 1, 8, 8))
    model = make_dyadic(LongNames())
    snn = set_dyadic_thresholds(tp.convert(model, conversion, calibration=[x], example_inputs=x))
    written = tp.to_torch(snn, tmp_path / "net.py")
    _lint(tmp_path)
    assert max(map(len, written.code.read_text().splitlines())) <= 88
    save_file({"0": x}, tmp_path / "net.inputs")
    _run(tmp_path)
    answers = load_file(tmp_path / "net.answers")
    leaves = pytree.tree_leaves(snn(x, steps=6))
    assert len(leaves) == len(answers) == 3
    assert all(torch.equal(answers[str(place)], leaf) for place, leaf in enumerate(leaves))


@pytest.mark.parametrize("conversion", [PLAIN, ACCUMULATE], ids=["plain", "accumulate"])
def test_the_zoo_gives_the_same_answers_without_transpike(tmp_path, conversion):
    wanted = {}
    for name in ZOO:
        snn, inputs = _network(name, conversion)
        written = tp.to_torch(snn, tmp_path / f"{name}.py")
        assert written.differing == 0
        assert written.lines < 150
        save_file({str(place): each for place, each in enumerate(inputs)}, tmp_path / f"{name}.inputs")
        with torch.no_grad():
            wanted[name] = pytree.tree_leaves(snn(*inputs, steps=6))
    _run(tmp_path)
    for name, answers in wanted.items():
        found = load_file(tmp_path / f"{name}.answers")
        for place, answer in enumerate(answers):
            if name in INEXACT:
                torch.testing.assert_close(found[str(place)], answer, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(found[str(place)], answer), name
    _lint(tmp_path)


def test_the_code_of_a_small_network(tmp_path):
    """Thresholds per channel, potentials per neuron, a bias: as a reader sees them."""
    snn, inputs = _network("conv_batchnorm")
    first, second = (snn.site(site.name) for site in snn.sites)
    first.set_threshold(torch.tensor([0.5, 1.0, 2.0, 0.25]))
    first.set_initial_potential(dyadic_batch((4, 8, 8), seed=3).abs() / 4)
    second.set_bias(torch.full((6,), 0.125))
    written = tp.to_torch(snn, tmp_path / "folder")
    assert (written.code.name, written.weights.name) == ("network.py", "network.weights.safetensors")
    text = written.code.read_text()
    assert (
        """
        self.layer_0 = nn.Conv2d(3, 4, 3, padding=1)
        self.layer_2 = IF(theta=(4, 1, 1), v_init=(4, 8, 8))
        self.layer_3 = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.layer_5 = IF(theta=(), v_init=(), bias=(6, 1, 1))
        self.layer_6 = nn.Flatten()
        self.layer_7 = nn.Linear(96, 5)

    def forward(self, input_1, steps):
        for part in self.modules():
            if isinstance(part, IF):
                part.reset()
        layer_0 = self.layer_0(input_1)
        total_layer_7 = 0
        answers = []
        for t in range(1, steps + 1):
            layer_2 = self.layer_2(layer_0)
            layer_3 = self.layer_3(layer_2)
            layer_5 = self.layer_5(layer_3)
            layer_6 = self.layer_6(layer_5)
            layer_7 = self.layer_7(layer_6)
            total_layer_7 = total_layer_7 + layer_7
            mean_layer_7 = total_layer_7 / t
            answers.append(mean_layer_7)
        return torch.stack(answers)
"""
        in text
    )
    assert "transpike" not in text.replace("written by transpike", "")
    save_file({"0": inputs[0]}, tmp_path / "folder" / "network.inputs")
    _run(tmp_path / "folder")
    answers = load_file(tmp_path / "folder" / "network.answers")["0"]
    assert torch.equal(answers, snn(*inputs, steps=6))
    before = (written.code.read_bytes(), written.weights.read_bytes())
    tp.to_torch(snn, tmp_path / "folder")
    assert (written.code.read_bytes(), written.weights.read_bytes()) == before


def test_hard_reset_and_double_precision(tmp_path):
    hard = tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold(), neuron=tp.neurons.IF(tp.neurons.Reset.HARD))
    snn, (x,) = _network("mlp", hard)
    snn.double()
    assert tp.to_torch(snn, tmp_path / "net.py").differing == 0
    save_file({"0": x.double()}, tmp_path / "net.inputs")
    _run(tmp_path)
    answers = load_file(tmp_path / "net.answers")["0"]
    assert answers.dtype == torch.float64
    assert torch.equal(answers, snn(x.double(), steps=6))


def test_a_trained_network_differs_by_rounding_only(tmp_path):
    topology = ZOO["shared_relu"]
    inputs = topology.random_inputs(8)
    snn = tp.convert(topology.model(), PLAIN, calibration=[inputs], example_inputs=inputs)
    written = tp.to_torch(snn, tmp_path / "net.py")
    assert written.differing <= 1
    assert "of 4 samples differ" in str(written)


class Odd(nn.Module):
    def forward(self, x):
        return torch.roll(x, 1, 1)


class WithOdd(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.odd, self.out = nn.Linear(4, 4), Odd(), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(torch.relu(self.fc(self.odd(x))))


def test_what_has_no_text_is_named_with_all_reasons(tmp_path):
    x = torch.rand(3, 4)
    snn = tp.convert(WithOdd(), PLAIN, calibration=[x], example_inputs=x, leaf_modules=["odd"])
    with pytest.raises(ExportError, match=r"Odd \(node 'odd'\)[\s\S]*self.odd\(x\)[\s\S]*no module of torch.nn"):
        tp.to_torch(snn, tmp_path / "net.py")
    snn, _ = _network("mlp", tp.methods["cos"](steps=4))
    snn.half()
    with pytest.raises(ExportError) as caught:
        tp.to_torch(snn, tmp_path / "net.py")
    message = str(caught.value)
    assert "cannot be exported to plain PyTorch, for 2 reasons" in message
    assert "only Plain or AccumulateThenFire can be written" in message
    assert "the type torch.float16" in message
    assert not list(tmp_path.iterdir())


def test_functions_and_digits_are_refused(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))
    x = torch.rand(3, 4)
    snn = tp.convert(model, tp.methods["digits"](steps=8), calibration=[x], example_inputs=x)
    with pytest.raises(ExportError, match=r"SignedDigits|digits[\s\S]*follow another function than ReLU"):
        tp.to_torch(snn, tmp_path / "net.py")


def test_code_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    snn, _ = _network("mlp")
    monkeypatch.setattr(torch_parts, "_IF", torch_parts._IF.replace("u >= self.theta", "u >= 2 * self.theta"))
    with pytest.raises(VerificationError, match="answers differently"):
        tp.to_torch(snn, tmp_path / "net.py")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "net").write_text("")
    snn, _ = _network("mlp")
    with pytest.raises(OutputError):
        tp.to_torch(snn, tmp_path / "net")
