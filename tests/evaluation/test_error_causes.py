"""The causes of error, against a derivation in NumPy and on networks that have one cause only."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike.errors import DataError
from transpike.evaluation.causes import CAUSES, error_causes
from transpike.testing import TOPOLOGIES

DOUBLE = torch.float64


def _network(*weights, theta=1.0, v_init=0.0):
    """Linear layers with ReLU behind all but the last, of which one threshold and potential each are set."""
    layers = []
    for matrix in weights:
        matrix = torch.tensor(matrix, dtype=DOUBLE)
        layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False).double()
        layer.weight.data = matrix
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    x = torch.ones(1, len(weights[0][0]), dtype=DOUBLE)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    for site in snn.sites:
        snn.site(site.name).set_threshold(torch.tensor(theta, dtype=DOUBLE))
        snn.site(site.name).set_initial_potential(torch.tensor(v_init, dtype=DOUBLE))
    return snn


def _only(found, cause):
    """Whether one cause is all of the error."""
    assert found.worst == cause
    assert found.error == pytest.approx(found.cause(cause).size, abs=1e-15)
    assert found.error > 0
    assert found.cause(cause).share == pytest.approx(1.0, abs=1e-15)
    assert all(found.cause(other).size == 0 for other in CAUSES if other != cause)


def test_only_clipping():
    snn = _network([[1.0]], [[1.0]])
    (site,) = error_causes(snn, [torch.tensor([[0.25], [2.0], [3.0]], dtype=DOUBLE)], steps=4).sites
    _only(site, "clipping")
    assert site.clipping.size == pytest.approx((1 + 2) / 3)
    assert site.saturated == pytest.approx(2 / 3)


def test_only_quantisation():
    snn = _network([[1.0]], [[1.0]])
    (site,) = error_causes(snn, [torch.tensor([[0.3], [0.9]], dtype=DOUBLE)], steps=2).sites
    _only(site, "quantisation")
    assert site.quantisation.size == pytest.approx((0.3 + 0.4) / 2)


def test_only_unevenness():
    """A spike that comes early and one of the other sign that comes late: their sum is 0, and the neuron fires."""
    snn = _network([[1.0], [1.0]], [[-1.0, 1.0]], [[1.0]])
    first, second = (site.name for site in snn.sites)
    snn.site(first).set_initial_potential(torch.tensor([0.0, 0.5], dtype=DOUBLE))
    one, two = error_causes(snn, [torch.tensor([[0.5]], dtype=DOUBLE)], steps=2).sites
    assert one.error == 0
    _only(two, "unevenness")
    assert two.unevenness.size == 0.5
    assert two.unevenness.bias == -0.5
    assert second == two.site


def test_only_inherited():
    snn = _network([[1.0]], [[1.0]], [[1.0]])
    one, two = error_causes(snn, [torch.tensor([[0.3]], dtype=DOUBLE)], steps=2).sites
    _only(one, "quantisation")
    _only(two, "inherited")
    assert two.silent == 1.0


def test_only_deviation():
    """A QCFS network sends exactly what its staircase says under accumulate-then-fire with rho = L."""
    torch.manual_seed(0)
    x = torch.randn(16, 5, dtype=DOUBLE)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    tailored = tp.tailor(model, tp.activations.QCFS(4, theta_init=1.5)).eval()
    snn = tp.convert(tailored, tp.Conversion(schedule=tp.schedules.AccumulateThenFire(4)), example_inputs=x)
    causes = error_causes(snn, [x], steps=4)
    for site in causes.sites:
        assert site.conversion == pytest.approx(0, abs=1e-12)
        assert site.deviation.share == pytest.approx(1, abs=1e-9)
    assert causes.conversion == pytest.approx(0, abs=1e-12)
    relu = model(x).detach()
    assert causes.deviation == pytest.approx(float((relu - tailored(x).detach()).abs().mean()))
    assert causes.objective(0.25) == pytest.approx(0.25 * causes.deviation, abs=1e-12)
    assert causes.agreement == 1.0


def _run(drive, theta, v):
    """Integrate and fire with subtraction of the threshold, one step after the other."""
    sent = np.zeros_like(v)
    train = []
    for current in drive:
        v = v + current
        spike = (v >= theta).astype(float)
        v = v - theta * spike
        sent += spike
        train.append(theta * spike)
    return train, theta * sent / len(drive)


def test_equals_a_derivation_in_numpy():
    torch.manual_seed(1)
    x = torch.randn(20, 4, dtype=DOUBLE)
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)).double().eval()
    conversion = tp.Conversion(tp.rules.Percentile(90), tp.rules.HalfThreshold())
    snn = tp.convert(model, conversion, example_inputs=x, calibration=x)
    causes = error_causes(snn, [x[:12], (x[12:], torch.zeros(8))], steps=5)
    assert causes.images == 20
    z, train = x.numpy(), [x.numpy()] * 5
    for site, layer in zip(causes.sites, (model[0], model[2]), strict=True):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        theta = float(snn.site(site.site).theta)
        z = z @ weight.T + bias
        drive = [step @ weight.T + bias for step in train]
        mean = sum(drive) / 5
        train, sent = _run(drive, theta, np.full_like(mean, theta / 2))
        even = theta / 5 * np.clip(np.floor((5 * mean + theta / 2) / theta), 0, 5)
        relu = lambda value: np.maximum(value, 0)  # noqa: E731
        expected = {
            "deviation": np.zeros_like(mean),
            "inherited": relu(z) - relu(mean),
            "clipping": relu(mean) - np.clip(mean, 0, theta),
            "quantisation": np.clip(mean, 0, theta) - even,
            "unevenness": even - sent,
        }
        error = relu(z) - sent
        assert site.error == pytest.approx(np.abs(error).mean(), rel=1e-12)
        assert site.scale == pytest.approx(relu(z).mean(), rel=1e-12)
        for name, values in expected.items():
            found = site.cause(name)
            assert found.size == pytest.approx(np.abs(values).mean(), rel=1e-12, abs=1e-15)
            assert found.bias == pytest.approx(values.mean(), rel=1e-9, abs=1e-15)
            assert found.share == pytest.approx((values * error).sum() / (error**2).sum(), rel=1e-9, abs=1e-12)
        assert sum(site.cause(name).share for name in CAUSES) == pytest.approx(1)
        assert site.objective(0.5) == pytest.approx(0.5 * np.abs(error).mean(), rel=1e-12)
        assert site.silent == pytest.approx((sent == 0).all(0).mean())
        z = relu(z)
    with torch.no_grad():
        answer = model(x)
    assert causes.conversion == pytest.approx(float((answer - snn(x, steps=5)[-1]).abs().mean()), rel=1e-9)


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
@pytest.mark.parametrize(
    "schedule",
    [
        tp.schedules.Plain(),
        tp.schedules.OffsetSpike(4),
        tp.schedules.AccumulateThenFire(4),
        tp.schedules.Staggered(2),
        tp.schedules.TwoPasses(2),
        tp.schedules.Radix(4),
        tp.schedules.SignedDigits(4),
    ],
    ids=str,
)
def test_causes_add_up(topology, schedule):
    """Under every kind of schedule, on every topology, to the precision of floats."""
    x = topology.random_inputs(3)
    snn = tp.convert(
        topology.model().eval(),
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        example_inputs=x,
        calibration=[x],
    )
    causes = error_causes(snn, [x], steps=4, schedule=schedule)
    for site in causes.sites:
        assert site.residual <= 1e-12 * max(1.0, site.scale)
        assert sum(site.cause(name).share for name in CAUSES) == pytest.approx(1 if site.error else 0, abs=1e-9)


def test_a_run_in_parts_has_the_same_causes():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    whole, parts = error_causes(snn, [x], steps=8), error_causes(snn, [x[:2], x[2:]], steps=8)
    assert whole.sites[0].error == pytest.approx(parts.sites[0].error)
    rows = whole.rows()
    assert rows[0]["quantisation"] == whole.sites[0].quantisation.size
    assert whole.worst[0] is whole.sites[0]


def test_bad_settings():
    snn = _network([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        error_causes(snn, [torch.ones(1, 1, dtype=DOUBLE)], steps=0)
    with pytest.raises(DataError, match="nothing to analyse"):
        error_causes(snn, [], steps=2)
    with pytest.raises(ValueError, match="weight must lie"):
        error_causes(snn, [torch.ones(1, 1, dtype=DOUBLE)], steps=2).objective(2)


CHAIN = [
    tp.schedules.Plain(),
    tp.schedules.OffsetSpike(4),
    tp.schedules.AccumulateThenFire(4),
    tp.schedules.Staggered(1),
    tp.schedules.SignedDigits(4),
]


@pytest.mark.data
@pytest.mark.parametrize("trained", [False, True], ids=["relu", "qcfs"])
def test_the_split_on_a_trained_network_equals_one_in_float64(pretrained, qcfs_resnet20, data_root, trained):
    """On CIFAR-10, every site, under several schedules; plain also from the definitions, written here."""
    ann = tp.zoo.CifarResNet20().eval()
    tp.zoo.load_weights(ann, pretrained / "resnet20_cifar10_relu.th")
    images = torch.stack([tp.data.load_data("cifar10", data_root).test[index][0] for index in range(8)])
    conversion = tp.Conversion(tp.rules.Percentile(99.0), tp.rules.HalfThreshold())
    if trained:
        ann, conversion = qcfs_resnet20, tp.Conversion()
    snn = tp.convert(ann, conversion, calibration=images, example_inputs=images[:2])
    double = tp.convert(ann, conversion, calibration=images, example_inputs=images[:2]).double()
    for name in (site.name for site in snn.sites):  # the same numbers, not those of a calibration in float64
        double.site(name).theta.data = snn.site(name).theta.double()
        double.site(name).v_init.data = snn.site(name).v_init.double()
    for schedule in CHAIN:
        causes = error_causes(snn, [images], steps=4, schedule=schedule)
        exact = error_causes(double, [images.double()], steps=4, schedule=schedule)
        for site, wanted in zip(causes.sites, exact.sites, strict=True):
            assert site.residual <= 1e-12 * max(1.0, site.scale)  # the sum of the causes, in float64, of these floats
            assert wanted.residual <= 1e-12 * max(1.0, wanted.scale)
            assert sum(site.cause(name).share for name in CAUSES) == pytest.approx(1.0, abs=1e-9)
            # An event that falls on the other side of a rounding goes on, so that single neurons may differ.
            for name in CAUSES:
                assert site.cause(name).size == pytest.approx(wanted.cause(name).size, abs=0.02 * wanted.scale)
        assert causes.sites[0].unevenness.size <= 1e-6 * causes.sites[0].scale  # its drive is the same at every step
        if schedule == tp.schedules.Plain():
            for site, sizes in zip(exact.sites, _derived(double, images.double(), 4), strict=True):
                for name, size in zip(CAUSES, sizes, strict=True):
                    assert site.cause(name).size == pytest.approx(size, rel=1e-9, abs=1e-12)


def _derived(snn, x, steps):
    """Mean absolute sizes of the causes at every site of a plain run, from eq. 7 and a hook on every activation."""
    z, sent, drives = {}, {}, {}
    hooks = []
    for site in snn.sites:
        take = lambda module, args, name=site.name: z.__setitem__(name, args[0])  # noqa: E731
        hooks.append(snn.site(site.name).register_forward_pre_hook(take))
    with torch.no_grad():
        snn.network(x)
        for hook in hooks:
            hook.remove()

        def observe(name, drive, events):
            drives[name], sent[name] = drive.mean(0), snn.site(name).theta * events.mean(0)

        snn(x, steps=steps, observe=observe)
        for site in snn.sites:
            module = snn.site(site.name)
            theta, source = module.theta, module.activation
            values = [z[site.name].clamp_min(0), source(z[site.name]), source(drives[site.name])]
            values.append(torch.minimum(values[-1], theta))
            count = torch.floor((steps * drives[site.name] + module.v_init) / theta).clamp(0, steps)
            values += [theta * count / steps, sent[site.name]]
            yield [float((a - b).abs().mean()) for a, b in itertools.pairwise(values)]
