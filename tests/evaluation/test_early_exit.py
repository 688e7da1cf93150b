"""Early exit: stopping one by one, thresholds without labels, accuracy against mean T."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import transpike as tp
from transpike.errors import CalibrationError, DataError, InputError
from transpike.evaluation import early_exit
from transpike.evaluation.early_exit import steps_used
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain
from transpike.selection.confidence import ChosenConfidence
from transpike.testing import TOPOLOGIES, set_dyadic_thresholds

ZOO = {topology.name: topology for topology in TOPOLOGIES}
CLASSIFIERS = ("mlp", "conv", "shared_relu", "max_pool_after_relu", "max_pool_on_spikes", "chunk_and_split", "dropout")
T = 6


def spiking(name: str, samples: int = 24) -> tuple[SpikingNetwork, tuple[torch.Tensor, ...]]:
    topology = ZOO[name]
    inputs = topology.dyadic_inputs(samples)
    model = topology.dyadic_model()
    snn = tp.convert(
        model, tp.Conversion(tp.rules.Maximum(tp.PerChannel())), example_inputs=inputs, calibration=[inputs]
    )
    return set_dyadic_thresholds(snn), inputs


def certainty(rows: torch.Tensor) -> np.ndarray:
    """Largest softmax probability of ``[T, N, classes]``, in NumPy: 1 / sum exp(z - max z)."""
    z = rows.detach().double().numpy()
    return 1.0 / np.exp(z - z.max(-1, keepdims=True)).sum(-1)


def between(confidences: np.ndarray, share: float) -> float:
    """A threshold that ``share`` of the confidences lie below, and that none of them comes near."""
    values = np.unique(confidences.round(9))
    index = int(share * (len(values) - 1))
    return float((values[index] + values[index + 1]) / 2)


def stop(confidences: np.ndarray, threshold: float) -> list[int]:
    """The step of each sample, by a loop."""
    steps, samples = confidences.shape
    found = []
    for n in range(samples):
        t = 1
        while t < steps and confidences[t - 1, n] < threshold:
            t += 1
        found.append(t)
    return found


# ---- stopping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_early_answers_are_rows_of_the_whole_run(name: str, share: float) -> None:
    snn, inputs = spiking(name)
    rows = snn(*inputs, steps=T)
    confidences = certainty(rows)
    threshold = between(confidences, share)
    expected = stop(confidences, threshold)
    assert len(set(expected)) > 1  # the batch did shrink
    answer = tp.answer_early(snn, *inputs, steps=T, confidence=threshold)
    assert answer.steps_used.tolist() == expected
    assert torch.equal(answer.logits, torch.stack([rows[t - 1, n] for n, t in enumerate(expected)]))
    assert answer.mean_steps == pytest.approx(sum(expected) / len(expected))
    assert answer.pipeline_steps.tolist() == expected  # no site of the plain schedule waits
    assert answer.mean_pipeline_steps == answer.mean_steps
    for n in (0, 7):  # alone as in company
        alone = tp.answer_early(snn, *(x[n : n + 1] for x in inputs), steps=T, confidence=threshold)
        assert alone.steps_used.tolist() == [expected[n]]
        assert torch.equal(alone.logits[0], answer.logits[n])


def test_a_threshold_that_is_just_reached_stops() -> None:
    snn, (x,) = spiking("mlp")
    confidences = early_exit.confidence_of(snn(x, steps=T)).numpy()
    for n in range(5):
        threshold = float(confidences[0, n])
        answer = tp.answer_early(snn, x, steps=T, confidence=threshold)
        assert answer.steps_used[n] == 1
        assert answer.steps_used.tolist() == stop(confidences, threshold)


def test_stopped_samples_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    snn, (x,) = spiking("mlp")
    confidences = certainty(snn(x, steps=T))[:4]
    threshold = between(confidences, 0.6)
    expected = np.array(stop(confidences, threshold))
    sizes = []
    step = SpikingNetwork.step

    def counting(self, x, state=None, **settings):
        sizes.append(len(x[0]))
        return step(self, x, state, **settings)

    monkeypatch.setattr(SpikingNetwork, "step", counting)
    tp.answer_early(snn, x, steps=4, confidence=threshold)
    assert sizes == [n for n in (int((expected >= t).sum()) for t in range(1, 5)) if n]
    sizes.clear()
    tp.answer_early(snn, x, steps=50, confidence=0.0)
    assert sizes == [len(x)]


def test_the_ends_of_the_range() -> None:
    snn, (x,) = spiking("mlp")
    rows = snn(x, steps=T)
    first = tp.answer_early(snn, x, steps=T, confidence=0.0)
    assert first.steps_used.tolist() == [1] * len(x)
    assert torch.equal(first.logits, rows[0])
    last = tp.answer_early(snn, x, steps=T, confidence=1.0)
    assert last.steps_used.tolist() == [T] * len(x)
    assert torch.equal(last.logits, rows[-1])
    assert torch.equal(tp.answer_early(snn, x, steps=1, confidence=1.0).logits, rows[0])


def test_initial_potentials_per_neuron_and_per_sample_stop_too() -> None:
    snn, (x,) = spiking("mlp")
    for sample_wise in (False, True):
        for plan in snn.sites:
            generator = torch.Generator().manual_seed(1)
            shape = (len(x), *plan.shape) if sample_wise else plan.shape
            snn.site(plan.name).set_initial_potential(torch.randint(0, 64, shape, generator=generator) / 64)
        rows = snn(x, steps=T)
        threshold = between(certainty(rows), 0.5)
        expected = stop(certainty(rows), threshold)
        answer = tp.answer_early(snn, x, steps=T, confidence=threshold)
        assert answer.steps_used.tolist() == expected
        assert len(set(expected)) > 1
        assert torch.equal(answer.logits, torch.stack([rows[t - 1, n] for n, t in enumerate(expected)]))


def test_several_inputs() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.a(x) + self.b(y)))

    torch.manual_seed(0)
    inputs = torch.randn(30, 6), torch.randn(30, 4)
    model = Sum().double().eval()
    inputs = tuple(x.double() for x in inputs)
    snn = tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=inputs, calibration=[inputs])
    rows = snn(*inputs, steps=T)
    threshold = between(certainty(rows), 0.5)
    answer = tp.answer_early(snn, *inputs, steps=T, confidence=threshold)
    assert answer.steps_used.tolist() == stop(certainty(rows), threshold)
    labels = rows[-1].argmax(-1)
    report = tp.evaluate_early(snn, [(*inputs, labels)], steps=T, confidences=[threshold])
    assert report.full_top1 == 100
    assert report.rows[0].mean_steps == pytest.approx(answer.mean_steps)


@pytest.mark.parametrize("confidence", [-0.1, 1.0001, math.nan, math.inf])
def test_what_is_no_probability_is_refused(confidence: float) -> None:
    snn, (x,) = spiking("mlp", 4)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]"):
        tp.answer_early(snn, x, steps=2, confidence=confidence)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]"):
        tp.evaluate_early(snn, [(x, torch.zeros(4).long())], steps=2, confidences=[0.5, confidence])


def test_what_cannot_stop_says_why() -> None:
    snn, (x,) = spiking("mlp", 4)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        tp.answer_early(snn, x, steps=0, confidence=0.5)
    with pytest.raises(ValueError, match=r"layer after layer over all steps.*evaluate_early"):
        tp.answer_early(snn, x, steps=2, confidence=0.5, schedule=OffsetSpike(2))
    with pytest.raises(InputError, match="only constant currents"):
        tp.answer_early(snn, tp.Poisson(x), steps=2, confidence=0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the batch is empty"):
        tp.answer_early(snn, x[:0], steps=2, confidence=0.5)
    image, inputs = spiking("two_inputs_two_outputs", 4)
    with pytest.raises(InputError, match=r"one output of shape \[N, classes\]"):
        tp.answer_early(image, *inputs, steps=2, confidence=0.5)


# ---- thresholds ----------------------------------------------------------------------------------------------------

grids = arrays.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.integers(1, 8)).map(
    lambda grid: grid / 8
)


@given(grids, st.lists(st.integers(0, 16), min_size=2, max_size=6))
def test_stopping_is_the_loop_and_later_for_a_higher_threshold(confidences: np.ndarray, sixteenths: list[int]) -> None:
    kept = confidences.copy()
    found = [steps_used(confidences, value / 16) for value in sorted(sixteenths)]
    for value, used in zip(sorted(sixteenths), found, strict=True):
        assert used.tolist() == stop(confidences, value / 16)
    assert all(bool((a <= b).all()) for a, b in itertools.pairwise(found))
    assert np.array_equal(confidences, kept)


def brute_force(rows: torch.Tensor, confidences: np.ndarray, share: float) -> tuple[float, float, float]:
    """Tries 0, 1 and every confidence, from the smallest; counts sample by sample."""
    best = rows.argmax(-1).numpy()
    samples = best.shape[1]
    for threshold in [0.0, *sorted(set(confidences.ravel().tolist())), 1.0]:
        used = stop(confidences, threshold)
        different = sum(best[t - 1, n] != best[-1, n] for n, t in enumerate(used))
        if different / samples <= share:
            return threshold, different / samples, sum(used) / samples
    raise AssertionError("even a confidence of 1 is not enough")


@pytest.mark.parametrize("share", [0.0, 0.005, 0.05, 0.15, 0.4, 1.0])
@pytest.mark.parametrize("name", ["mlp", "conv", "max_pool_on_spikes"])
@pytest.mark.parametrize("schedule", [Plain(), AccumulateThenFire(2)], ids=repr)
def test_the_smallest_threshold_is_that_of_brute_force(
    name: str, share: float, schedule: tp.schedules.Schedule
) -> None:
    snn, (x,) = spiking(name, 60)
    rows = snn(x, steps=T, schedule=schedule)
    confidences = early_exit.confidence_of(rows).numpy()
    np.testing.assert_allclose(confidences, certainty(rows), rtol=1e-12)
    expected = brute_force(rows, confidences, share)
    garbage = torch.full((60,), -7)
    for data in (x, list(x.split(17)), list(zip(x.split(25), garbage.split(25), strict=True)), (x.flip(0),)):
        chosen = tp.choose_confidence(snn, calibration=data, steps=T, max_disagreement=share, schedule=schedule)
        assert chosen.samples == 60
        assert (chosen.confidence, chosen.disagreement) == expected[:2]
        assert chosen.mean_steps == pytest.approx(expected[2])


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_stopping_at_the_chosen_threshold_gives_what_was_promised(name: str) -> None:
    snn, (x,) = spiking(name, 60)
    chosen = tp.choose_confidence(snn, calibration=x, steps=T, max_disagreement=0.1)
    rows = snn(x, steps=T)
    assert bool((early_exit.confidence_of(rows) == chosen.confidence).any())
    answer = tp.answer_early(snn, x, steps=T, confidence=chosen.confidence)
    assert answer.mean_steps == pytest.approx(chosen.mean_steps)
    different = answer.logits.argmax(-1) != rows[-1].argmax(-1)
    assert float(different.double().mean()) == pytest.approx(chosen.disagreement)


def test_choosing_is_neither_trivial_nor_monotone_by_luck() -> None:
    """The brute-force test above compares thresholds strictly inside the range."""
    snn, (x,) = spiking("mlp", 60)
    found = [
        tp.choose_confidence(snn, calibration=x, steps=T, max_disagreement=share) for share in (0.0, 0.05, 0.4, 1.0)
    ]
    assert found[-1].confidence == 0.0
    assert found[-1].mean_steps == 1.0
    assert 0 < found[1].confidence < 1
    assert 1 < found[1].mean_steps < T
    means = [chosen.mean_steps for chosen in found]
    assert means == sorted(means, reverse=True)


def test_one_step_leaves_nothing_to_choose() -> None:
    snn, (x,) = spiking("mlp", 8)
    assert tp.choose_confidence(snn, calibration=x, steps=1) == ChosenConfidence(0.0, 0.0, 1.0, 8)


def test_a_softmax_that_is_rounded_to_one_has_no_threshold() -> None:
    """Logits of thousands: the first row is already "certain", and some answers change later."""
    model = ZOO["mlp"].dyadic_model()
    with torch.no_grad():
        model[-1].weight *= 4096
        model[-1].bias *= 4096
    x = ZOO["mlp"].dyadic_inputs(60)[0]
    snn = set_dyadic_thresholds(tp.convert(model, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x))
    with pytest.raises(CalibrationError, match="their softmax is rounded to 1"):
        tp.choose_confidence(snn, calibration=x, steps=T, max_disagreement=0.0)
    assert tp.choose_confidence(snn, calibration=x, steps=T, max_disagreement=1.0).confidence == 0.0


@dataclass(frozen=True)
class Tuned(Plain):
    """Plain, but declared as if rows depended on T."""

    streamable = False
    prefix_consistent = False


def test_nothing_can_be_chosen_from_nothing() -> None:
    snn, (x,) = spiking("mlp", 4)
    with pytest.raises(CalibrationError, match="there is no data"):
        tp.choose_confidence(snn, calibration=[], steps=2)
    with pytest.raises(ValueError, match="rows of tuned depend on T"):
        tp.choose_confidence(snn, calibration=x, steps=2, schedule=Tuned())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        tp.choose_confidence(snn, calibration=x, steps=0)
    for share in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="max_disagreement"):
            tp.choose_confidence(snn, calibration=x, steps=2, max_disagreement=share)


# ---- reports -------------------------------------------------------------------------------------------------------


def labelled(x: torch.Tensor, classes: int, size: int = 16) -> DataLoader:
    labels = torch.randint(classes, (len(x),), generator=torch.Generator().manual_seed(3))
    return DataLoader(TensorDataset(x, labels), batch_size=size)


@pytest.mark.parametrize("schedule", [None, OffsetSpike(2)], ids=repr)
def test_the_report_counts_what_stopping_gives(schedule: tp.schedules.Schedule | None) -> None:
    snn, (x,) = spiking("conv", 50)
    rows = snn(x, steps=T, schedule=schedule)
    batches = labelled(x, rows.shape[-1])
    labels = batches.dataset.tensors[1]
    confidences = certainty(rows)
    thresholds = [0.0, between(confidences, 0.3), between(confidences, 0.7), 1.0]
    report = tp.evaluate_early(snn, batches, steps=T, confidences=thresholds, schedule=schedule)
    full = tp.evaluate(snn, batches, steps=T, schedule=schedule).row(T)
    assert report.images == 50
    assert report.full_top1 == pytest.approx(full.top1)
    assert report.full_pipeline_steps == full.latency.pipeline_steps
    assert report.stops is (schedule is None)
    wait = 0 if schedule is None else 2 * len(snn.sites)  # every site of COS looks for two steps before it fires
    for row, threshold in zip(report.rows, thresholds, strict=True):
        used = stop(confidences, threshold)
        best = [int(rows[t - 1, n].argmax()) for n, t in enumerate(used)]
        assert row.confidence == threshold
        assert row.steps_used == tuple(used.count(t) for t in range(1, T + 1))
        assert row.mean_steps == pytest.approx(sum(used) / 50)
        assert row.mean_pipeline_steps == pytest.approx(wait + sum(used) / 50)
        assert row.top1 == pytest.approx(2.0 * sum(a == int(b) for a, b in zip(best, labels, strict=True)))
        assert row.disagreement == pytest.approx(
            sum(a != int(b) for a, b in zip(best, rows[-1].argmax(-1), strict=True)) / 50
        )
        if schedule is None:
            assert tp.answer_early(snn, x, steps=T, confidence=threshold).steps_used.tolist() == used
    assert report.rows[-1].top1 == report.full_top1
    assert 1 < report.rows[1].mean_steps < report.rows[2].mean_steps < T
    assert json.loads(json.dumps(report.to_json()))["rows"][1]["steps_used"] == list(report.rows[1].steps_used)


def test_poisson_inputs_are_those_of_evaluate() -> None:
    snn, (x,) = spiking("mlp", 40)
    batches = labelled(x, 5)
    full = tp.evaluate(snn, batches, steps=T, coding=tp.runtime.encoding.Coding.POISSON)
    report = tp.evaluate_early(snn, batches, steps=T, confidences=[0.0, 1.0], coding=tp.runtime.encoding.Coding.POISSON)
    assert (report.rows[0].top1, report.rows[1].top1) == pytest.approx((full.row(1).top1, full.row(T).top1))
    constant = tp.evaluate_early(snn, batches, steps=T, confidences=[0.0, 1.0])
    assert constant.rows != report.rows


def test_unusable_batches() -> None:
    snn, (x,) = spiking("mlp", 4)
    good = torch.zeros(4).long()
    for batches, message in (
        ([], "the batches are empty"),
        ([x], r"does not end in 4 whole class indices"),
        ([(x, good.float())], "does not end in 4"),
        ([(x, good[:3])], "does not end in 4"),
        ([(x, good - 1)], "labels run from -1"),
        ([(x, good + 1000)], "to 1000, the network has"),
    ):
        with pytest.raises(DataError, match=message):
            tp.evaluate_early(snn, batches, steps=2, confidences=[0.5])
    with pytest.raises(ValueError, match="at least one threshold"):
        tp.evaluate_early(snn, [(x, good)], steps=2, confidences=[])
    with pytest.raises(ValueError, match="rows of tuned depend on T"):
        tp.evaluate_early(snn, [(x, good)], steps=2, confidences=[0.5], schedule=Tuned())
