"""Every form of arguments that PyTorch takes: the stage is compiled or runs dense, and never fails."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import transpike as tp
from transpike.engine.drive import DriveBuilder

DENSE = tp.kernels.KernelPreference.EAGER

COMPILED = {
    "sizes": lambda y: F.avg_pool2d(y, (y.size(2), y.size(3))),
    "sizes in a list": lambda y: F.avg_pool2d(y, [y.shape[2], y.shape[3]]),
    "shape": lambda y: F.avg_pool2d(y, y.shape[2:]),
    "shape from behind": lambda y: F.avg_pool2d(y, kernel_size=y.size()[-2:], stride=1),
    "named size": lambda y: F.avg_pool2d(y, y.size(dim=-1)),
    "half": lambda y: F.avg_pool2d(y, y.shape[-1] // 2),
    "arithmetic": lambda y: F.avg_pool2d(y, 2 * y.shape[-1] - y.shape[2] - 3),
    "one of one": lambda y: F.avg_pool2d(y, (6,)),
    "empty stride": lambda y: F.avg_pool2d(y, 3, ()),
    "stride of one": lambda y: F.avg_pool2d(input=y, kernel_size=2, stride=[2]),
    "mixed": lambda y: F.avg_pool2d(y, (y.shape[2], 3)),
    "module of one": nn.AvgPool2d((6,)),
    "module with an empty stride": nn.AvgPool2d(3, ()),
    "convolution of one": nn.Conv2d(8, 8, 3, stride=(2,), padding=(1,), dilation=(1,)),
    "mean by named dimensions": lambda y: y.mean(dim=[-2, -1]),
    "padded channels": lambda y: F.pad(y, (0, 0, 0, 0, 0, y.shape[1])),
}
DENSE_FORMS = {
    "ceil_mode": nn.AvgPool2d(4, ceil_mode=True),
    "padding": nn.AvgPool2d(3, padding=(1,), count_include_pad=False),
    "divisor": lambda y: F.avg_pool2d(y, 3, divisor_override=4),
    "axis": lambda y: y.mean(axis=(2, 3)),
    "all dimensions but the batch": lambda y: y.mean((1, 2, 3), keepdim=True),
    "step from a size": lambda y: y[:, :, :: y.shape[2] // 3],
    "interpolation": lambda y: F.interpolate(y, scale_factor=0.5),
    "convolution with 'same'": nn.Conv2d(8, 8, 3, padding="same"),
    "functional convolution": lambda y: F.conv2d(y, torch.ones(8, 8, 1, 1), stride=(2,)),
}


class Net(nn.Module):
    """One operator between two populations; the first convolution has arguments of length one, too."""

    def __init__(self, operator):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, stride=(1,), padding=(0,))
        self.operator = operator if isinstance(operator, nn.Module) else None
        self.function = operator
        self.last = nn.LazyLinear(4)

    def forward(self, x):
        y = F.relu(self.first(x))
        y = self.function(y) if self.operator is None else self.operator(y)
        return self.last(F.relu(y).flatten(1))


def _converted(operator):
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = Net(operator).eval()
    model(x)
    return tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x), x


def _compare(snn, x):
    with torch.no_grad():
        torch.testing.assert_close(snn(x, steps=7), snn(x, steps=7, kernel=DENSE), rtol=1e-5, atol=1e-5)
    assert snn.summary()


@pytest.mark.parametrize("form", [*COMPILED, *DENSE_FORMS])
def test_every_form_runs_and_equals_dense_operators(form):
    snn, x = _converted({**COMPILED, **DENSE_FORMS}[form])
    _compare(snn, x)
    stage = snn.engine.report()["relu@1"]
    if form in COMPILED:
        assert stage.events or stage.reason == "the population has another shape than its drive", stage
    else:
        assert not stage.events


@pytest.mark.parametrize("form", ["sizes", "shape", "half", "one of one", "empty stride", "module of one"])
def test_forms_in_front_of_a_layer_are_compiled(form):
    """The same between a layer and its neurons' sources: nothing is dense."""
    operator = COMPILED[form]

    class Layered(Net):
        def __init__(self, operator):
            super().__init__(operator)
            self.mix = nn.LazyConv2d(6, 1)

        def forward(self, x):
            y = F.relu(self.first(x))
            y = self.function(y) if self.operator is None else self.operator(y)
            return self.last(F.relu(self.mix(y)).flatten(1))

    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = Layered(operator).eval()
    model(x)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    assert all(stage.events for stage in snn.engine.report().values()), snn.engine.report()
    _compare(snn, x)


def test_a_number_of_samples_is_no_argument_of_a_compiled_stage():
    """``stride`` becomes the number of samples; read as a number of the packing batch it would be wrong for others."""
    with pytest.raises(tp.errors.ConversionError):
        _converted(lambda y: F.avg_pool2d(y, 2, stride=y.size(0)))


@pytest.mark.parametrize("error", [TypeError("not 'Node'"), IndexError("tuple index"), AssertionError()])
def test_a_reader_that_fails_makes_its_stage_dense(error, monkeypatch):
    """A planted failure: the answers are those of dense operators, and the reason is told."""
    snn, x = _converted(nn.AvgPool2d(6))

    def fail(*_):
        raise error

    monkeypatch.setattr(DriveBuilder, "_average", fail)
    _compare(snn, x)
    stage = snn.engine.report()["relu@1"]
    assert not stage.events
    assert "torch.nn.AvgPool2d has arguments that are not understood" in stage.reason
    assert type(error).__name__ in stage.reason
    assert snn.engine.report()["relu@0"].events
    assert stage.reason in snn.summary()
