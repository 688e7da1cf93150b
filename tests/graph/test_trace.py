"""Tracing: arguments with default values, what is left of them in the graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.errors import InputError
from transpike.testing import assert_same_answer

X = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
PARTS = [tp.rules.Maximum(tp.PerChannel()), tp.rules.HalfThreshold()]


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def body(self, x):
        return self.out(F.relu(self.b(F.relu(self.a(x)))))


class NoneBranch(Base):
    def forward(self, x, mask=None):
        if mask is None:
            return self.body(x * 2)
        return self.body(x * mask)


class Flags(Base):
    def forward(self, x, features=False, scale=2.0, *, double=True):
        hidden = F.relu(self.a(x))
        if features:
            return hidden
        if double:
            hidden = 2 * hidden
        return self.out(F.relu(self.b(hidden))) * scale


class Extras(Base):
    def forward(self, x, *others, **options):
        if len(others) > 0 or options.get("double", False):
            x = 2 * x
        return self.body(x)


MODELS = [NoneBranch, Flags, Extras]


def _convert(model, *inputs):
    return tp.convert(model.eval(), tp.Conversion.of(*PARTS), example_inputs=inputs, calibration=[inputs])


@pytest.mark.parametrize("model", MODELS)
def test_arguments_without_an_input_keep_their_defaults(model):
    model = model().eval()
    assert tp.inspect(model, X).convertible
    snn = _convert(model, X)
    torch.testing.assert_close(snn.ann(X), model(X))
    torch.testing.assert_close(snn(X, steps=512)[-1], model(X), atol=0.05, rtol=0.02)


def test_arguments_with_an_input_are_arguments():
    model, mask = NoneBranch().eval(), torch.rand(4, 3)
    snn = _convert(model, X, mask)
    torch.testing.assert_close(snn.ann(X, mask), model(X, mask))
    assert not torch.allclose(snn.ann(X, mask), model(X), atol=1e-3)


@pytest.mark.parametrize("model", [NoneBranch, Flags])
def test_tailoring_keeps_the_defaults(model):
    model = model().eval()
    tailored = tp.tailor(model, tp.activations.ThresholdReLU(theta_init=1e6))
    torch.testing.assert_close(tailored(X), model(X))
    assert tp.convert(tailored, example_inputs=X).sites


@pytest.mark.parametrize("model", MODELS)
def test_no_trace_of_them_is_left_in_runs_files_and_exports(model, tmp_path):
    snn = _convert(model(), X)
    with pytest.raises(InputError, match="takes 1 input"):
        snn(X, X, steps=2)
    tp.save(snn, tmp_path / "n.safetensors")
    assert_same_answer(tp.load(tmp_path / "n.safetensors", model=model)(X, steps=4), snn(X, steps=4))
    expected, state = snn.step(X)
    exported = torch.export.export(snn.stepper(), (X, state)).module()
    assert_same_answer(exported(X, state)[0], snn.step(X, state)[0])
    torch.compiler.reset()  # earlier tests of the same process use up dynamo's limit of recompilations
    compiled = torch.compile(snn.step, fullgraph=True, backend="aot_eager")
    assert_same_answer(compiled(X)[0], expected)
