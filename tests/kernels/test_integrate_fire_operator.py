"""Integrate-and-fire as a torch operator: its gradients, and the rules of the registry."""

from __future__ import annotations

import pytest
import torch

from transpike.kernels import KernelPreference, Surrogate, integrate_fire, native

KERNELS = [KernelPreference.REFERENCE, KernelPreference.EAGER]
if native.load()[0] is not None:
    KERNELS.append(KernelPreference.NATIVE)
ALL = [*KERNELS, KernelPreference.AUTO]


# ---- backward ----------------------------------------------------------------------------------------------------


class Spike(torch.autograd.Function):
    """[u >= theta] whose derivative by u is h((u - theta) / theta) / theta, and the opposite by theta."""

    @staticmethod
    def forward(ctx, u, theta, surrogate):
        ctx.save_for_backward(u, theta)
        ctx.surrogate = surrogate
        return (u >= theta).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        u, theta = ctx.saved_tensors
        distance = u / theta - 1
        if ctx.surrogate is Surrogate.TRIANGLE:
            h = torch.where(distance.abs() < 1, 1 - distance.abs(), 0.0)
        else:
            h = torch.where((distance > -0.5) & (distance < 0.5), 1.0, 0.0)
        slope = grad * h / theta
        return slope, -slope, None


def unrolled(drive, v, theta, soft, surrogate):
    """The neuron step by step, for autograd."""
    theta = theta.expand(v.shape)
    events = []
    for current in drive:
        u = v + current
        s = Spike.apply(u, theta, surrogate)
        v = u - theta * s if soft else u * (1 - s)
        events.append(s)
    return torch.stack(events), v


SHAPES = {  # drive, v, theta
    "scalar theta": ((6, 4), (4,), ()),
    "theta per channel": ((7, 2, 3, 2, 2), (2, 3, 2, 2), (3, 1, 1)),
    "theta per neuron": ((5, 2, 3), (2, 3), (2, 3)),
    "one step": ((1, 3), (3,), (1,)),
}


def drawn(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drive, v, theta = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return (1.6 * drive - 0.4).requires_grad_(), (v * 0.5).requires_grad_(), (0.75 + 0.5 * theta).requires_grad_()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("surrogate", Surrogate)
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("loss_on", ["events", "potential", "both"])
def test_backward_equals_autograd_through_the_unrolled_neuron(name, surrogate, soft, loss_on):
    leaves = drawn(SHAPES[name])
    generator = torch.Generator().manual_seed(1)

    def loss(events, v):
        generator.manual_seed(1)
        weights = torch.randn(events.shape, generator=generator, dtype=torch.float64)
        last = torch.randn(v.shape, generator=generator, dtype=torch.float64)
        return (loss_on != "potential") * (weights * events).sum() + (loss_on != "events") * (last * v).sum()

    def one_output(events, v):
        """The other output takes no part at all, not even with weight zero."""
        return events.pow(2).sum() if loss_on == "events" else v.pow(2).sum()

    for objective in (loss, one_output):
        actual = integrate_fire(*leaves, soft_reset=soft, surrogate=surrogate, kernel=KernelPreference.EAGER)
        expected = unrolled(*leaves, soft, surrogate)
        assert torch.equal(actual[0], expected[0])
        ours = torch.autograd.grad(objective(*actual), leaves)
        theirs = torch.autograd.grad(objective(*expected), leaves)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("surrogate", Surrogate)
def test_the_surrogates_are_seen_in_the_gradient(surrogate):
    """One step, theta = 2, v = 0: d event / d drive = h(u/2 - 1) / 2 at u = 0, 1/2, 1, 3/2, 2, 3, 4, 5."""
    drive = torch.tensor([[0, 0.5, 1, 1.5, 2, 2.75, 3, 4, 5]], dtype=torch.float64, requires_grad=True)
    events, _ = integrate_fire(drive, torch.zeros(9).double(), torch.tensor(2.0).double(), surrogate=surrogate)
    (grad,) = torch.autograd.grad(events.sum(), drive)
    expected = {
        Surrogate.TRIANGLE: [0, 0.125, 0.25, 0.375, 0.5, 0.3125, 0.25, 0, 0],
        Surrogate.RECTANGLE: [0, 0, 0, 0.5, 0.5, 0.5, 0, 0, 0],
    }
    assert grad[0].tolist() == expected[surrogate]


def test_backward_through_expanded_inputs_adds_up():
    x = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
    start = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    theta = torch.tensor(1.0, dtype=torch.float64)
    arguments = x.expand(5, 3, 2), start.expand(3, 2), theta
    ours = torch.autograd.grad(integrate_fire(*arguments)[0].sum(), (x, start))
    theirs = torch.autograd.grad(unrolled(*arguments, True, Surrogate.TRIANGLE)[0].sum(), (x, start))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_chunked_backward_equals_backward_at_once():
    drive, v, theta = drawn(SHAPES["theta per channel"], seed=3)
    events, last = integrate_fire(drive, v, theta)
    first, middle = integrate_fire(drive[:3], v, theta)
    second, end = integrate_fire(drive[3:], middle, theta)
    weights = torch.arange(7, dtype=torch.float64).view(7, 1, 1, 1, 1)
    whole = torch.autograd.grad((weights * events).sum() + last.sum(), (drive, v, theta))
    cut = torch.autograd.grad((weights * torch.cat([first, second])).sum() + end.sum(), (drive, v, theta))
    for a, b in zip(cut, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_reference_has_no_backward():
    leaves = drawn(SHAPES["scalar theta"])
    with pytest.raises(RuntimeError, match="no backward"):
        integrate_fire(*leaves, kernel=KernelPreference.REFERENCE)[0].sum().backward()
    with torch.no_grad():
        events, _ = integrate_fire(*leaves, kernel=KernelPreference.REFERENCE)
    assert not events.requires_grad


# ---- the operator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["reference", "eager"])
@pytest.mark.parametrize("soft", [True, False])
def test_the_operator_keeps_the_rules_of_torch(kernel, soft):
    """opcheck: the schema, the fake tensors (shapes, types, strides), autograd registration and AOT dispatch."""
    leaves = drawn(SHAPES["theta per channel"])
    samples = [
        tuple(leaf.detach() for leaf in leaves),
        (
            leaves[0].detach().expand(7, 2, 3, 2, 2)[:, :, :, :1].expand(7, 2, 3, 2, 2),
            leaves[1].detach().transpose(1, 3).contiguous().transpose(1, 3),
            torch.tensor(1.0, dtype=torch.float64),
        ),
        (
            leaves[0].detach().to(torch.float32),
            torch.rand(3, 2, 2, dtype=torch.float32).expand(2, 3, 2, 2),
            torch.tensor(1.0),
        ),
    ]
    if kernel == "eager":
        samples.append(leaves)
    for drive, v, theta in samples:
        torch.library.opcheck(torch.ops.transpike.integrate_fire.default, (drive, v, theta, soft, "triangle", kernel))


@pytest.mark.parametrize("kernel", KERNELS)
def test_outputs_have_memory_of_their_own(kernel):
    drive, v, theta = torch.zeros(3, 2), torch.zeros(2), torch.tensor(1.0)
    events, last = integrate_fire(drive, v, theta, kernel=kernel)
    events.fill_(7.0)
    last.fill_(7.0)
    assert torch.equal(drive, torch.zeros(3, 2))
    assert torch.equal(v, torch.zeros(2))


@pytest.mark.parametrize(
    ("drive", "v", "theta", "message"),
    [
        ((0, 3), (3,), (), "time-step"),
        ((), (), (), "time-step"),
        ((4, 3), (), (), "v must have the shape"),
        ((4, 3), (4, 3), (), "v must have the shape"),
        ((4, 2, 3), (3,), (), "v must have the shape"),
        ((4, 2, 3), (2, 4), (), "v must have the shape"),
        ((4, 2, 3), (2, 3), (2,), "theta"),
        ((4, 2, 3), (2, 3), (1, 2, 3), "theta"),
        ((4, 1), (1,), (3,), "theta"),
        ((4,), (), (1,), "theta"),
    ],
)
@pytest.mark.parametrize("kernel", ALL)
def test_shapes_that_do_not_fit_are_refused(kernel, drive, v, theta, message):
    with pytest.raises(ValueError, match=message):
        integrate_fire(torch.zeros(drive), torch.zeros(v), torch.ones(theta), kernel=kernel)
