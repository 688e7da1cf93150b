"""Inputs that differ from step to step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import transpike as tp
from transpike.errors import ConversionError, InputError
from transpike.testing import TOPOLOGIES, assert_same_answer, dyadic_batch, make_dyadic, set_dyadic_thresholds

ZOO = {topology.name: topology for topology in TOPOLOGIES}


def _spiking(topology, batch=3):
    inputs = topology.dyadic_inputs(batch)
    snn = tp.convert(
        topology.dyadic_model(),
        tp.Conversion(tp.rules.Maximum()),
        calibration=[inputs],
        example_inputs=inputs,
    )
    return set_dyadic_thresholds(snn), inputs


@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_equal_frames_are_a_constant_current(topology):
    snn, inputs = _spiking(topology)
    frames = [tp.FrameSequence(x.expand(7, *x.shape)) for x in inputs]
    assert_same_answer(snn(*frames, steps=5), snn(*inputs, steps=5))
    assert_same_answer(snn(*frames, steps=5, chunk=2), snn(*inputs, steps=5))


def test_different_frames_against_a_loop():
    weight, head = dyadic_batch((4, 3), 1), dyadic_batch((2, 4), 2)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    model[0].weight.data, model[2].weight.data = weight, head
    frames = dyadic_batch((6, 5, 3), 3)
    snn = tp.convert(
        model,
        tp.Conversion(tp.rules.Maximum(), tp.rules.HalfThreshold()),
        calibration=frames[0],
        example_inputs=frames[0],
    )
    snn.site("1").set_threshold(torch.tensor(0.5))
    snn.site("1").set_initial_potential(torch.tensor(0.25))
    v, total, expected = np.full((5, 4), 0.25), np.zeros((5, 2)), []
    for t, frame in enumerate(frames.numpy(), start=1):
        u = v + frame @ weight.numpy().T
        spikes = (u >= 0.5).astype(float)
        v = u - 0.5 * spikes
        total += 0.5 * spikes @ head.numpy().T
        expected.append(total / t)
    assert np.array_equal(snn(tp.FrameSequence(frames), steps=6).numpy(), np.float32(expected))


@pytest.mark.parametrize("name", ["conv_batchnorm", "pad_and_slice", "two_inputs_two_outputs", "max_pool_on_spikes"])
def test_a_sequence_is_a_loop_of_steps(name):
    snn, inputs = _spiking(ZOO[name])
    frames = [torch.stack([x * k / 4 for k in (1, 4, 2, 0, 3)]) for x in inputs]
    state = None
    rows = []
    for t in range(5):
        now = tuple(values[t] for values in frames)
        answer, state = snn.step(now if len(now) > 1 else now[0], state)
        rows.append(answer)
    streamed = pytree.tree_map(lambda *values: torch.stack(values), *rows)
    assert_same_answer(snn(*map(tp.FrameSequence, frames), steps=5), streamed)


def test_max_pooling_in_front_pools_the_running_sums():
    """Two pixels that are bright in turn: the maximum of the means is 1/2, the mean of the maxima 1."""
    model = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten())
    model[0].weight.data.fill_(1.0)
    on, off = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    snn = tp.convert(
        model, tp.Conversion(tp.rules.Maximum(), tp.rules.ZeroPotential()), calibration=on, example_inputs=on
    )
    answer = snn(tp.FrameSequence(torch.stack([on, off] * 4)), steps=8)
    assert float(answer[-1]) == 0.5


def test_one_argument_moves_and_one_stays():
    snn, (left, right) = _spiking(ZOO["two_inputs_two_outputs"])
    frames = torch.stack([left * k / 4 for k in (1, 4, 2, 0)])
    mixed = snn(tp.FrameSequence(frames), right, steps=4)
    both = snn(tp.FrameSequence(frames), tp.FrameSequence(right.expand(4, *right.shape)), steps=4)
    assert_same_answer(mixed, both)


def test_poisson_frames_have_the_right_mean_and_values():
    x = torch.tensor([[0.5, -2.0, 0.0, 1.0], [0.1, 0.2, 0.3, -0.4]])
    frames = tp.Poisson(x, seed=3).frames(20_000)
    assert frames.shape == (20_000, 2, 4)
    assert set(frames[:, 0].unique().tolist()) == {-2.0, 0.0, 2.0}
    deviation = 2.0 / np.sqrt(20_000)  # a standard deviation is at most half of the amplitude
    assert float((frames.mean(0) - x).abs().max()) < 4 * deviation / 2
    assert torch.equal(frames, tp.Poisson(x, seed=3).frames(20_000))
    assert not torch.equal(frames, tp.Poisson(x, seed=4).frames(20_000))
    assert torch.equal(tp.Poisson(torch.zeros(2, 3)).frames(4), torch.zeros(4, 2, 3))


def test_poisson_input_converges_slower_than_a_constant_one():
    topology = ZOO["conv"]
    model, inputs = topology.model(), topology.random_inputs(4)
    snn = tp.convert(model, tp.Conversion(tp.rules.Percentile(99.0)), calibration=[inputs], example_inputs=inputs)
    limit = snn.clipped(*inputs)

    def error(x, steps):
        return float((snn(x, steps=steps)[-1] - limit).abs().mean() / limit.abs().mean())

    few, many = (np.mean([error(tp.Poisson(*inputs, seed=s), t) for s in range(4)]) for t in (32, 512))
    assert many < few / 2  # 1 / sqrt(T) would be 4
    assert error(*inputs, 512) < many


def test_errors():
    snn, inputs = _spiking(ZOO["conv"])
    frames = inputs[0].expand(4, *inputs[0].shape).clone()
    with pytest.raises(InputError, match=r"the model takes 1 input\(s\), got 2"):
        snn(tp.FrameSequence(frames), tp.FrameSequence(frames), steps=4)
    with pytest.raises(InputError, match="has 4 frames, the run needs 5"):
        snn(tp.FrameSequence(frames), steps=5)
    with pytest.raises(InputError, match=r"one tensor \[T, N, \*\]"):
        tp.FrameSequence(torch.zeros(3))
    frames[3, 0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="frames of input"):
        snn(tp.FrameSequence(frames), steps=4)
    assert snn(tp.FrameSequence(frames), steps=3).shape[0] == 3
    front = make_dyadic(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    x = dyadic_batch((3, 4))
    kept = tp.convert(front, tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x, leave="GELU")
    assert kept(x, steps=2).shape == (2, 3, 2)
    with pytest.raises(ConversionError, match=r"torch\.nn\.GELU"):
        kept(tp.FrameSequence(x.expand(2, 3, 4)), steps=2)


def test_evaluation_with_poisson_spikes_by_name():
    topology = ZOO["conv"]
    x = topology.random_inputs(20)[0]
    labels = torch.arange(20) % 5
    snn = tp.convert(topology.model(), tp.Conversion(tp.rules.Maximum()), calibration=x, example_inputs=x)
    batches = [(x[:12], labels[:12]), (x[12:], labels[12:])]
    found = tp.evaluate(snn, batches, steps=6, coding=tp.runtime.encoding.Coding.POISSON)
    hits = sum(
        int((snn(tp.Poisson(images, seed), steps=6)[3].argmax(1) == wanted).sum())
        for (images, wanted), seed in zip(batches, (0, 12), strict=True)
    )
    assert found.row(4).top1 == pytest.approx(100 * hits / 20)
    assert found.rows != tp.evaluate(snn, batches, steps=6).rows
