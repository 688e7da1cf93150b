"""FTBC against its pseudo-code, re-derived in NumPy element by element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import transpike as tp
from transpike.testing import TOPOLOGIES, dyadic_batch, make_dyadic, record

CONV = next(topology for topology in TOPOLOGIES if topology.name == "conv_batchnorm")


def ftbc(weights, theta, x, *, steps, alpha, rounds, biased):
    """Biases ``[T, channels]`` of fully connected layers; loops over rounds, layers, steps, samples, channels."""
    found = [np.zeros((steps, len(matrix))) for matrix, _ in weights]
    for _ in range(rounds):
        ann, currents = x, None
        for layer, (matrix, constant) in enumerate(weights):
            z = ann @ matrix.T + constant
            ann = np.maximum(z, 0)
            currents = np.stack([z] * steps) if currents is None else currents @ matrix.T + constant
            total = np.zeros_like(found[layer])
            for n in range(len(x)):
                for channel in range(len(matrix)):
                    v = theta[layer] / 2
                    for t in range(steps):
                        u = v + currents[t, n, channel] - (found[layer][t, channel] if biased else 0.0)
                        e = theta[layer] * (u >= theta[layer]) - ann[n, channel]
                        corrected = u - e
                        v = corrected - theta[layer] * (corrected >= theta[layer])
                        total[t, channel] += e
            found[layer] = found[layer] + alpha * total / len(x)
            sent = np.zeros_like(currents)
            for n in range(len(x)):  # what the next layer sees: the plain neurons, with the new biases
                for channel in range(len(matrix)):
                    v = theta[layer] / 2
                    for t in range(steps):
                        v += currents[t, n, channel] - found[layer][t, channel]
                        sent[t, n, channel] = theta[layer] * (v >= theta[layer])
                        v -= sent[t, n, channel]
            currents = sent
    return found


@pytest.mark.parametrize("replay", tp.rules.Replay)
@pytest.mark.parametrize("rounds", [1, 2])
def test_biases_are_those_of_the_pseudo_code(replay, rounds):
    torch.manual_seed(0)
    model = make_dyadic(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double())
    with torch.no_grad():
        for index in (0, 2):
            model[index].bias.add_(0.75)  # so that no neuron is silent
    x = dyadic_batch((8, 3), 1, torch.float64)  # 8 samples and alpha 1/2: biases stay on a grid, sums are exact
    part = tp.rules.TemporalBiasCorrection(3, alpha=0.5, rounds=rounds, replay=replay)
    snn = tp.convert(model, tp.Conversion.of(tp.rules.Maximum(), part), example_inputs=x, calibration=list(x.split(3)))
    weights = [tuple(p.detach().numpy() for p in model[index].parameters()) for index in (0, 2)]
    theta = [float(snn.site(name).theta) for name in ("1", "3")]
    wanted = ftbc(weights, theta, x.numpy(), steps=3, alpha=0.5, rounds=rounds, biased=replay is tp.rules.Replay.BIASED)
    for name, bias in zip(("1", "3"), wanted, strict=True):
        np.testing.assert_allclose(snn.site(name).bias.numpy(), -bias, atol=1e-12)
        assert bias.any(0).sum() >= 2  # of the channels


def test_one_neuron_by_hand():
    """theta 1, z = a = 0.25, T = 2, alpha 1: u = 0.75 is silent, e = -0.25; corrected u = 1.0 fires, v = 0.

    Step 2: u = 0.25 is silent, e = -0.25. With the biases +0.25 the neuron fires at the first step.
    """
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Hardtanh(0.0, 1.0), nn.Linear(1, 1))
    nn.init.ones_(model[0].weight)
    x = torch.tensor([[0.25]])
    part = tp.rules.TemporalBiasCorrection(2, alpha=1.0, rounds=1)
    snn = tp.convert(model, tp.Conversion.of(part), example_inputs=x, calibration=x)
    assert snn.site("1").bias.tolist() == [[0.25], [0.25]]
    assert record(snn, x, steps=2).events["1"].flatten().tolist() == [1.0, 0.0]


def test_biases_for_few_steps_are_the_first_of_those_for_many():
    x = CONV.random_inputs(16)[0]
    few, many = (
        tp.convert(
            CONV.model(),
            tp.Conversion(tp.rules.Percentile(99.0), corrections=[tp.rules.TemporalBiasCorrection(steps)]),
            example_inputs=x,
            calibration=list(x.split(5)),
        )
        for steps in (2, 5)
    )
    for site in few.sites:
        torch.testing.assert_close(few.site(site.name).bias, many.site(site.name).bias[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("replay", tp.rules.Replay)
def test_the_answers_of_all_steps_come_nearer_on_other_samples(replay):
    """Thresholds are too small and potentials too low, so that errors have a direction."""
    model, (x, new) = CONV.model(), CONV.random_inputs(400)[0].split(200)
    rules = [tp.rules.Percentile(90.0), tp.rules.ZeroPotential()]
    plain = tp.convert(model, tp.Conversion.of(*rules), example_inputs=x, calibration=x)
    part = tp.rules.TemporalBiasCorrection(4, replay=replay)
    better = tp.convert(model, tp.Conversion.of(*rules, part), example_inputs=x, calibration=x)
    with torch.no_grad():
        wanted = model(new)
        torch.testing.assert_close(better.ann(new), plain.ann(new), rtol=0, atol=0)
    before, after = (((snn(new, steps=4) - wanted) ** 2).mean((1, 2)) for snn in (plain, better))
    assert (after < 0.7 * before).all(), (before, after)


def test_the_mean_output_of_the_first_step_comes_nearer_every_round():
    """At the first step the replay is what the neurons do, and the first stage has no errors before it."""
    x, errors = CONV.random_inputs(100)[0], []
    for rounds in (None, 1, 2, 4):
        rules = [tp.rules.Percentile(99.0), tp.rules.ZeroPotential()]
        if rounds is not None:
            rules.append(tp.rules.TemporalBiasCorrection(1, rounds=rounds, replay=tp.rules.Replay.BIASED))
        snn = tp.convert(CONV.model(), tp.Conversion.of(*rules), example_inputs=x, calibration=x)
        name = snn.sites[0].name
        run = record(snn, x, steps=1)
        wanted = (run.drive[name][0] - (snn.site(name).bias if rounds else 0)).clamp_min(0).mean((0, 2, 3))
        found = (snn.site(name).theta * run.events[name][0]).mean((0, 2, 3))
        errors.append(float((wanted - found).abs().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


def test_it_goes_on_from_biases_that_were_set_before():
    x = CONV.random_inputs(8)[0]
    rules = [tp.rules.Percentile(99.0), tp.rules.BiasCorrection(2)]
    before = tp.convert(CONV.model(), tp.Conversion.of(*rules), example_inputs=x, calibration=x)
    after = tp.convert(
        CONV.model(),
        tp.Conversion.of(*rules, tp.rules.TemporalBiasCorrection(3, alpha=2**-20, rounds=1)),
        example_inputs=x,
        calibration=x,
    )
    for site in before.sites:
        one, two = before.site(site.name).bias, after.site(site.name).bias
        assert two.shape[0] == 3
        torch.testing.assert_close(two, one.expand_as(two), rtol=0, atol=1e-4)
        assert one.abs().max() > 1e-2


@pytest.mark.parametrize(
    ("alpha", "message"),
    [*((value, "alpha must lie in") for value in (0.0, -1.0, 1.5)), (float("nan"), "alpha must be a finite number")],
)
def test_settings_that_are_none_are_refused(alpha, message):
    with pytest.raises(ValueError, match=message):
        tp.rules.TemporalBiasCorrection(2, alpha)
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        tp.rules.TemporalBiasCorrection(2, rounds=0)
