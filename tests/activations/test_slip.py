"""The SlipReLU family against the released code, and its surrogate gradients against derivations written here."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transpike.activations import (
    QCF,
    QCFS,
    Gradient,
    ShiftThresholdReLU,
    SlipActivation,
    SlipReLU,
    SlipReLUMode0,
    SlipReLUMode1,
    ThetaPercentile,
    ThresholdReLU,
)
from transpike.serialization import json_records as config

KINDS = {"SlipReLU": SlipReLU, "ThetaPercentile": ThetaPercentile}
THETA_FLOOR = 1 / 1024


def built(settings: SlipReLU, theta: float) -> SlipActivation:
    """The activation in float64 with this theta in its parameter."""
    module = settings.build().double()
    module.theta.data.fill_(theta)
    return module


def derivatives(module: SlipActivation, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Value, derivative by z, and derivative by theta for each z on its own."""
    inputs = torch.from_numpy(np.array(z, dtype=np.float64)).requires_grad_()
    with_theta_each = module.config.build()
    with_theta_each.theta = torch.nn.Parameter(torch.full_like(inputs, module.theta.item()))
    y = with_theta_each(inputs)
    dz, dtheta = torch.autograd.grad(y.sum(), (inputs, with_theta_each.theta))
    assert torch.equal(module(inputs), y)
    return y.detach().numpy(), dz.numpy(), dtheta.numpy()


# ---- the released code -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", range(33))
def test_slip_relu_equals_the_released_code(row, released_code):
    theta, levels, slope, shift1, shift2 = released_code["act_params_theta_N_c_shift1_shift2"][row]
    settings = SlipReLU(int(levels), slope, shift=shift2, ramp_shift=shift1 / levels, gradient=Gradient.RELEASED)
    module = built(settings, theta)
    z = released_code[f"act{row}_z"]
    y, dz, _ = derivatives(module, z)
    _, _, dtheta = derivatives(module, z[::16])
    np.testing.assert_allclose(y, released_code[f"act{row}_y"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dz, released_code[f"act{row}_dz"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dtheta, released_code[f"act{row}_dtheta_every16"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("levels", "left"), [(1, 0.0), (2, 1 / 3), (4, 3 / 5)])
def test_autograd_through_clamp_depends_on_the_version_of_torch(levels, left):
    """``clamp(floor(N x + 1/2) / N, 0, 1)`` on its range of (N + 1) / N: all levels, or those between 0 and 1."""
    ends = torch.tensor([0.0, 1.0], requires_grad=True)
    ends.clamp(0, 1).sum().backward()
    x = (torch.arange(-0.5, levels + 0.5, 1 / 64) / levels).requires_grad_()
    whole = (x * levels + 0.5).floor().detach() / levels + x - x.detach()
    whole.clamp(0, 1).sum().backward()
    share = float((x.grad != 0).double().mean())
    assert share == pytest.approx(1.0 if bool(ends.grad.all()) else left, abs=1e-6)
    _, ours, _ = derivatives(built(SlipReLU(levels, 0.0), 1.0), x.detach().double().numpy())
    assert (ours == 1).all()


def test_every_row_of_the_released_code_is_tested(released_code):
    assert len(released_code["act_params_theta_N_c_shift1_shift2"]) == 33
    assert sum(key.startswith("qcfs") and key.endswith("_z") for key in released_code) == 3


@pytest.mark.parametrize("row", range(3))
def test_qcfs_equals_the_released_code(row, released_code):
    theta, levels = released_code[f"qcfs{row}_theta_L"]
    y, dz, _ = derivatives(built(QCFS(int(levels)), theta), released_code[f"qcfs{row}_z"])
    np.testing.assert_allclose(y, released_code[f"qcfs{row}_y"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dz, released_code[f"qcfs{row}_dz"], rtol=1e-12, atol=1e-12)


# ---- gradients ---------------------------------------------------------------------------------------------------


class StraightThroughFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.floor()

    @staticmethod
    def backward(ctx, grad):
        return grad


class InclusiveClamp(torch.autograd.Function):
    """clip(x, 0, 1) with derivative one on both ends, as in the torch of the released code; newer torch has zero."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return torch.where((x < 0) | (x > 1), 0.0, grad)


def by_autograd(settings: SlipReLU, theta: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Gradient.RELEASED` as plain autograd through the clamps, with a floor whose derivative is one."""
    inputs = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    each_theta = torch.full_like(inputs, theta).requires_grad_()
    x = inputs / each_theta
    stairs = StraightThroughFloor.apply(settings.levels * x + settings.shift)
    left = InclusiveClamp.apply(x + settings.ramp_shift)
    right = InclusiveClamp.apply(stairs / settings.levels)
    y = each_theta * (settings.slope * left + (1 - settings.slope) * right)
    dz, dtheta = torch.autograd.grad(y.sum(), (inputs, each_theta))
    return y.detach().numpy(), dz.numpy(), dtheta.numpy()


def by_intervals(settings: SlipReLU, theta: float, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`Gradient.PAPER`: one on D1 u D2, in exact fractions; d/dtheta = g - x g'."""
    n, c = settings.levels, settings.slope
    delta, delta1, unit = Fraction(settings.shift), Fraction(settings.ramp_shift), Fraction(theta)
    values, dz = [], []
    for number in z:
        exact = Fraction(float(number))
        in_d1 = -delta1 * unit <= exact <= unit - delta1 * unit
        in_d2 = -delta * unit / n <= exact < unit + (1 - delta) * unit / n
        dz.append(float(in_d1 or in_d2))
        ramp = min(max(exact / unit + delta1, Fraction(0)), Fraction(1))
        stairs = min(max(Fraction(math.floor(n * exact / unit + delta), n), Fraction(0)), Fraction(1))
        values.append(c * float(ramp) + (1 - c) * float(stairs))
    g, slope = np.array(values), np.array(dz)
    return theta * g, slope, g - z / theta * slope


DERIVATIONS = {Gradient.RELEASED: by_autograd, Gradient.PAPER: by_intervals}


def borders(levels: int, shift: float, ramp_shift: float) -> np.ndarray:
    """Every point, in units of theta, where the value or a derivative may jump."""
    steps = (np.arange(-1, levels + 3) - shift) / levels
    return np.concatenate([steps, [-ramp_shift, 1 - ramp_shift, 0.0, 1.0]])


@pytest.mark.parametrize("gradient", Gradient)
@given(
    levels=st.sampled_from([1, 2, 4, 8, 16]),
    slope=st.sampled_from([0.0, 0.125, 0.3, 0.5, 0.9, 1.0]),
    shift=st.integers(-8, 8).map(lambda k: k / 16),
    ramp_shift=st.integers(-16, 16).map(lambda k: k / 16),
    exponent=st.integers(-4, 4),
)
def test_gradients_on_and_beside_every_border(gradient, levels, slope, shift, ramp_shift, exponent):
    """Dyadic settings, so that borders are exact; 2^-20 beside a border is far more than rounding."""
    theta = 2.0**exponent
    points = borders(levels, shift, ramp_shift)
    z = theta * np.concatenate([points, points - 2**-20, points + 2**-20, np.arange(-40, 60) / 16])
    settings = SlipReLU(levels, slope, shift=shift, ramp_shift=ramp_shift, gradient=gradient)
    for ours, expected in zip(
        derivatives(built(settings, theta), z), DERIVATIONS[gradient](settings, theta, z), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gradient", Gradient)
@given(
    levels=st.integers(1, 33),
    slope=st.floats(0, 1),
    shift=st.floats(-0.5, 0.5),
    ramp_shift=st.floats(-1, 1),
    theta=st.floats(0.01, 50),
    seed=st.integers(0, 10_000),
)
def test_gradients_inside_the_intervals(gradient, levels, slope, shift, ramp_shift, theta, seed):
    x = np.random.default_rng(seed).uniform(-1.5, 2.5, 60)
    x = x[np.abs(x[:, None] - borders(levels, shift, ramp_shift)).min(1) > 1e-6]
    settings = SlipReLU(levels, slope, shift=shift, ramp_shift=ramp_shift, gradient=gradient)
    z = theta * x
    for ours, expected in zip(
        derivatives(built(settings, theta), z), DERIVATIONS[gradient](settings, theta, z), strict=True
    ):
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-11)


def test_the_two_gradients_differ_on_the_margins_and_nowhere_else():
    """N = 4, c = 1/4, delta = 1/2, theta = 1: margins [-1/8, 0) and (1, 9/8)."""
    z = np.array([-0.13, -0.125, -0.01, 0.0, 0.5, 1.0, 1.01, 1.12, 1.125, 1.2])
    _, released, _ = derivatives(built(SlipReLU(4, 0.25, gradient=Gradient.RELEASED), 1.0), z)
    _, paper, _ = derivatives(built(SlipReLU(4, 0.25, gradient=Gradient.PAPER), 1.0), z)
    assert released.tolist() == [0, 0.75, 0.75, 1, 1, 1, 0.75, 0.75, 0, 0]
    assert paper.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("gradient", Gradient)
def test_a_gradient_that_arrives_weights_each_element(gradient):
    generator = torch.Generator().manual_seed(0)
    module = built(SlipReLU(4, 0.3, gradient=gradient), 1.25)
    z = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    dz, dtheta = torch.autograd.grad((module(z) * weight).sum(), (z, module.theta))
    _, each_dz, each_dtheta = DERIVATIONS[gradient](module.config, 1.25, z.detach().numpy().ravel())
    np.testing.assert_allclose(dz.numpy().ravel(), each_dz * weight.numpy().ravel(), rtol=1e-12, atol=1e-12)
    assert dtheta.shape == ()
    np.testing.assert_allclose(dtheta.item(), each_dtheta @ weight.numpy().ravel(), rtol=1e-12)


@pytest.mark.parametrize("gradient", Gradient)
@pytest.mark.parametrize("ramp_shift", [0.0, -0.125, 0.25])
def test_the_gradient_of_the_ramp_is_its_true_derivative(gradient, ramp_shift):
    """c = 1 has no floor: central differences know the answer, away from the kinks (and from PAPER's margins)."""
    z = np.array([-2.0, -1.0, 0.7, 1.1, 1.8, 3.0, 5.0])
    theta, h = 2.5, 1e-6
    settings = SlipReLU(8, 1.0, shift=0.0, ramp_shift=ramp_shift, gradient=gradient)

    def value(shifted_z: np.ndarray, shifted_theta: float) -> np.ndarray:
        return built(settings, shifted_theta)(torch.from_numpy(shifted_z)).detach().numpy()

    _, dz, dtheta = derivatives(built(settings, theta), z)
    np.testing.assert_allclose(dz, (value(z + h, theta) - value(z - h, theta)) / (2 * h), atol=1e-8)
    np.testing.assert_allclose(dtheta, (value(z, theta + h) - value(z, theta - h)) / (2 * h), atol=1e-8)


# ---- theta -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [-3.0, 0.0, THETA_FLOOR / 2])
def test_a_threshold_below_the_floor_acts_as_the_floor_and_its_gradient_passes(theta):
    z = np.array([-0.5, 0.25, 0.5, 2.0]) * THETA_FLOOR
    low, floor = built(SlipReLU(4, 0.3), theta), built(SlipReLU(4, 0.3), THETA_FLOOR)
    assert low.threshold.item() == THETA_FLOOR
    assert low.theta.item() == theta
    for ours, expected in zip(derivatives(low, z), derivatives(floor, z), strict=True):
        np.testing.assert_array_equal(ours, expected)
    assert derivatives(low, z)[2][-1] == 1.0  # saturated: theta itself is the output


def test_gradient_descent_brings_a_negative_threshold_back():
    module = built(QCFS(4), -1.0)
    z, target = torch.full((4,), 2.0, dtype=torch.float64), 1.0
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        (0.5 * (module(z) - target) ** 2).mean().backward()
        optimizer.step()
    assert module.threshold.item() == pytest.approx(1.0, abs=1e-3)


def test_theta_starts_where_the_settings_say_and_waits_at_one_for_data():
    assert SlipReLU(4, 0.3).build().theta.item() == 8.0
    assert SlipReLU(4, 0.3, theta_init=2).build().theta.item() == 2.0
    assert SlipReLU(4, 0.3, theta_init=ThetaPercentile(99.0)).build().theta.item() == 1.0
    assert SlipReLU(4, 0.3).build().theta.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_and_gradients_keep_the_type_of_the_network(dtype):
    module = SlipReLU(4, 0.25, theta_init=2.0).build().to(dtype)
    z = torch.tensor([-1.0, 0.5, 1.0, 3.0], dtype=dtype, requires_grad=True)
    y = module(z)
    y.sum().backward()
    assert y.dtype == z.grad.dtype == module.theta.grad.dtype == dtype
    assert y.tolist() == [0, 0.5, 1.0, 2.0]


def test_no_gradient_is_computed_for_what_needs_none():
    module = SlipReLU(4, 0.25).build()
    z = torch.ones(3, requires_grad=True)
    module.theta.requires_grad_(False)
    module(z).sum().backward()
    assert z.grad is not None
    assert module.theta.grad is None
    module.theta.requires_grad_(True)
    module(z.detach()).sum().backward()
    assert module.theta.grad is not None


def test_eight_bit_levels_still_reach_theta():
    module = built(SlipReLU(255, 0.0), 3.0)
    assert module(torch.tensor([2.999, 3.0, 100.0], dtype=torch.float64)).tolist() == [3.0, 3.0, 3.0]


# ---- settings ----------------------------------------------------------------------------------------------------

BAD = [("levels", value) for value in (0, -1, 2.0, 2.5, True, False, "4", None, math.nan)]
BAD += [("slope", value) for value in (-0.01, 1.01, math.nan, math.inf, True, "0.3", None)]
BAD += [("shift", value) for value in (-0.51, 0.51, math.nan, -math.inf, False, "0", None)]
BAD += [("ramp_shift", value) for value in (-1.01, 1.01, math.nan, math.inf, True, [0.0], None)]
BAD += [("theta_init", value) for value in (0.0, -8.0, THETA_FLOOR / 2, math.nan, math.inf, True, "8", None)]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_wrong_settings_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        SlipReLU(**{"levels": 4, "slope": 0.3, field: value})


@pytest.mark.parametrize("value", ["other", 3, None])
def test_a_gradient_outside_the_closed_choice_is_refused(value):
    with pytest.raises(ValueError, match="gradient must be one of"):
        SlipReLU(4, 0.3, gradient=value)


@pytest.mark.parametrize("value", [0.0, -1.0, 100.01, math.nan, math.inf])
def test_a_percentile_outside_its_range_is_refused(value):
    with pytest.raises(ValueError, match="percentile"):
        ThetaPercentile(value)


@pytest.mark.parametrize("shift", [-0.5, 0.5])
@pytest.mark.parametrize("ramp_shift", [-1, 1])
@pytest.mark.parametrize("slope", [0, 1])
def test_the_ends_of_every_range_are_legal(shift, ramp_shift, slope):
    settings = SlipReLU(1, slope, shift=shift, ramp_shift=ramp_shift, theta_init=THETA_FLOOR)
    assert (settings.slope, settings.shift, settings.ramp_shift) == (slope, shift, ramp_shift)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (ThresholdReLU(), (1, 1.0, 0.0, 0.0)),
        (ShiftThresholdReLU(4), (4, 1.0, 0.0, -0.125)),
        (QCF(8), (8, 0.0, 0.0, 0.0)),
        (QCFS(8), (8, 0.0, 0.5, 0.0)),
        (SlipReLUMode0(2, 0.4), (2, 0.4, 0.0, 0.0)),
        (SlipReLUMode1(2, 0.4), (2, 0.4, 0.5, 0.0)),
        (SlipReLU(2, 0.4), (2, 0.4, 0.5, 0.0)),
    ],
)
def test_named_constructors(settings, fields):
    assert (settings.levels, settings.slope, settings.shift, settings.ramp_shift) == fields
    assert (settings.gradient, settings.theta_init, settings.decay_theta) == (Gradient.RELEASED, 8.0, True)


@pytest.mark.parametrize("constructor", [ShiftThresholdReLU, QCF, QCFS])
@pytest.mark.parametrize("levels", [0, -2, True, "4", 2.0, None])
def test_named_constructors_refuse_bad_levels_like_the_record(constructor, levels):
    with pytest.raises(ValueError, match="levels"):
        constructor(levels)


def test_named_constructors_pass_other_settings_on():
    settings = QCFS(4, theta_init=2.0, gradient=Gradient.PAPER, decay_theta=False)
    assert (settings.theta_init, settings.gradient, settings.decay_theta) == (2.0, Gradient.PAPER, False)


def test_named_activations_by_hand():
    """theta = 1; eq. 8 with the constants of each paper."""
    z = np.array([-0.2, 0.1, 0.2, 0.6, 0.9, 1.3])
    values = {
        "TCL": (ThresholdReLU(), [0, 0.1, 0.2, 0.6, 0.9, 1]),
        "RTS": (ShiftThresholdReLU(2), [0, 0, 0, 0.35, 0.65, 1]),
        "QCF": (QCF(4), [0, 0, 0, 0.5, 0.75, 1]),
        "QCFS": (QCFS(4), [0, 0, 0.25, 0.5, 1, 1]),
        "mode 0": (SlipReLUMode0(4, 0.5), [0, 0.05, 0.1, 0.55, 0.825, 1]),
        "mode 1": (SlipReLUMode1(4, 0.5), [0, 0.05, 0.225, 0.55, 0.95, 1]),
    }
    for name, (settings, expected) in values.items():
        y = built(settings, 1.0)(torch.from_numpy(z)).detach().numpy()
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-15, err_msg=name)


# ---- storage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        SlipReLU(4, 0.3),
        SlipReLU(3, 1 / 3, shift=-0.25, ramp_shift=-1 / 3, gradient=Gradient.PAPER, theta_init=0.1, decay_theta=False),
        ShiftThresholdReLU(3, theta_init=ThetaPercentile(99.5)),
    ],
)
def test_settings_survive_json(settings):
    again = config.from_json(json.loads(json.dumps(config.to_json(settings))), KINDS)
    assert again == settings
    assert isinstance(again.gradient, Gradient)
    assert hash(again) == hash(settings)


def test_theta_is_the_only_thing_in_the_state_dict_and_comes_back():
    trained = built(SlipReLU(4, 0.3), 2.75)
    stored = trained.state_dict()
    assert list(stored) == ["theta"]
    fresh = SlipReLU(4, 0.3).build().double()
    fresh.load_state_dict(stored)
    z = torch.linspace(-1, 4, 33, dtype=torch.float64)
    assert torch.equal(fresh(z), trained(z))
    assert fresh.theta.item() == 2.75


def test_printing_shows_the_settings():
    assert "N=4, c=0.3, delta=0.5, delta1=-0.125" in repr(SlipReLU(4, 0.3, ramp_shift=-0.125).build())
