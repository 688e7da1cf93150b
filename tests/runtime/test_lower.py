"""What lowering adds to the user's operators: joins, temporal max-pooling, readout; and a whole net by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import transpike as tp
from transpike.runtime.runners import Readout, TemporalMaxPool
from transpike.runtime.sequences import fold, join, unfold
from transpike.testing import dyadic_batch, make_dyadic, record, set_dyadic_thresholds


def test_fold_is_step_major():
    value = torch.arange(24).view(3, 2, 4)
    assert fold(value)[2].tolist() == value[1, 0].tolist()
    assert torch.equal(unfold(fold(value), 2), value)


def test_join_cuts_to_the_shortest_and_repeats_what_is_held():
    long, short = torch.arange(8.0).view(8, 1), torch.arange(100.0, 104.0).view(4, 1)
    still = torch.tensor([[7.0], [9.0]])
    a, b, c = join(2, (False, False, True), ((0, 1),) * 3, False, long, short, still)
    assert a.flatten().tolist() == [0, 1, 2, 3]
    assert b.flatten().tolist() == [100, 101, 102, 103]
    assert c.flatten().tolist() == [7, 9, 7, 9]


def test_readout_is_the_running_mean_whatever_the_chunks():
    rows = torch.tensor([[2.0], [4.0], [-3.0], [1.0]])
    readout = Readout("output")
    whole, _ = readout(rows, None, 1, 4, torch.tensor(0))
    assert whole.flatten().tolist() == [2.0, 3.0, 1.0, 1.0]
    first, memory = readout(rows[:3], None, 1, 3, torch.tensor(0))
    last, memory = readout(rows[3:], memory, 1, 1, torch.tensor(3))
    assert torch.equal(torch.cat([first, last]), whole)
    assert memory[0].tolist() == [[4.0]]


def test_temporal_max_pool_by_hand():
    """Two neurons under one window. Sums 1 0 | 1 2 | 3 2: maxima 1, 2, 3."""
    value = torch.tensor([[1.0, 0.0], [0.0, 2.0], [2.0, 0.0]]).view(3, 1, 2)
    pooled, memory = TemporalMaxPool(nn.MaxPool1d(2))(value, None, 1, 3, torch.tensor(0))
    assert pooled.flatten().tolist() == [1.0, 1.0, 1.0]
    assert memory[0].flatten().tolist() == [3.0, 2.0]


@given(st.lists(st.lists(st.integers(-8, 8), min_size=4, max_size=4), min_size=1, max_size=6), st.integers(1, 6))
def test_temporal_max_pool_sums_to_the_maximum_of_the_sums(rows, cut):
    """Under every split into chunks, for currents of either sign."""
    value = torch.tensor(rows, dtype=torch.float64).view(len(rows), 1, 4)
    pool = TemporalMaxPool(nn.MaxPool1d(2, stride=1))
    parts, memory = [], None
    for chunk in value.split(cut):
        part, memory = pool(chunk, memory, 1, len(chunk), torch.tensor(0))
        parts.append(part)
    sums = np.cumsum(np.array(rows), 0)
    maxima = np.stack([sums[:, i : i + 2].max(1) for i in range(3)], 1)
    np.testing.assert_array_equal(torch.cat(parts).cumsum(0).squeeze(1).numpy(), maxima)


def test_a_residual_convolution_network_equals_a_loop_written_by_hand():
    """Convolution, shared ReLU, in-place add, max-pooling of a shortcut, flatten: one step after the other."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
            self.relu = nn.ReLU(inplace=True)
            self.fc = nn.Linear(12, 4)

        def forward(self, x):
            identity = self.relu(self.conv1(x))
            out = self.conv2(identity)
            out += identity
            out = self.relu(out)
            return self.fc((F.max_pool2d(identity, 2) + F.avg_pool2d(out, 2)).flatten(1))

    torch.manual_seed(0)
    model = make_dyadic(Net())
    x = dyadic_batch((3, 2, 4, 4))
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum(tp.PerChannel())), example_inputs=x, calibration=x)
    set_dyadic_thresholds(snn)
    steps = 9
    run = record(snn, x, steps=steps)

    one, two = snn.site("relu@0"), snn.site("relu@1")
    v1 = one.v_init.expand(3, 3, 4, 4).clone()
    v2 = two.v_init.expand(3, 3, 4, 4).clone()
    total_in, pooled_before, answer = torch.zeros(3, 3, 4, 4), torch.zeros(3, 3, 2, 2), torch.zeros(3, 4)
    with torch.no_grad():
        for t in range(steps):
            v1 = v1 + F.conv2d(x, model.conv1.weight, model.conv1.bias, padding=1)
            spikes1 = (v1 >= one.theta).float()
            v1 = v1 - one.theta * spikes1
            v2 = v2 + F.conv2d(one.theta * spikes1, model.conv2.weight, model.conv2.bias, padding=1)
            v2 = v2 + one.theta * spikes1
            spikes2 = (v2 >= two.theta).float()
            v2 = v2 - two.theta * spikes2
            total_in = total_in + one.theta * spikes1
            pooled = F.max_pool2d(total_in, 2)
            features = (pooled - pooled_before) + F.avg_pool2d(two.theta * spikes2, 2)
            pooled_before = pooled
            answer = answer + F.linear(features.flatten(1), model.fc.weight, model.fc.bias)
            assert torch.equal(run.events["relu@0"][t], spikes1)
            assert torch.equal(run.events["relu@1"][t], spikes2)
            assert torch.equal(run.answer[t], answer / (t + 1))
    assert run.events["relu@1"].any()


@pytest.mark.parametrize("levels", [1, 3, 8])
@pytest.mark.parametrize("theta", [1.0, 0.5, 0.3, 2.7])
@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_equation_7_is_exact_for_one_spiking_layer(levels, theta, shift):
    """Mean output = theta/T * clip(floor((T z + v0)/theta), 0, T), for every T up to 16."""
    settings = tp.activations.SlipReLU(levels=levels, slope=0.3, shift=shift, theta_init=theta)
    model = tp.tailor(nn.Sequential(nn.Identity(), nn.ReLU()), settings).double()
    z = torch.linspace(-1.5 * theta, 2.5 * theta, 1001, dtype=torch.float64).view(1, -1)
    snn = tp.convert(model, example_inputs=z)
    value = float(snn.site("1").theta)
    rows = snn(z, steps=16).squeeze(1).numpy()
    for steps in range(1, 17):
        exact = (steps * z.squeeze(0).numpy() + shift * value) / value
        expected = value / steps * np.clip(np.floor(exact), 0, steps)
        on_the_edge = np.abs(exact - np.round(exact)) < 1e-9  # where adding T times rounds otherwise than T z
        assert on_the_edge.mean() < 0.05
        np.testing.assert_allclose(rows[steps - 1][~on_the_edge], expected[~on_the_edge], rtol=1e-14)


def test_equation_7_on_the_edges_with_dyadic_numbers():
    """No exception at the edges: all values are multiples of 1/64, theta is a power of two."""
    model = tp.tailor(nn.Sequential(nn.Identity(), nn.ReLU()), tp.activations.QCFS(levels=4, theta_init=0.5))
    z = (torch.arange(-96, 97) / 64).view(1, -1)
    snn = tp.convert(model, example_inputs=z)
    rows = snn(z, steps=16)
    for steps in (1, 2, 3, 4, 8, 16):
        count = np.clip(np.floor((steps * z.numpy() + 0.25) / 0.5), 0, steps)
        np.testing.assert_array_equal(rows[steps - 1].numpy(), (0.5 * count).astype(np.float32) / np.float32(steps))
