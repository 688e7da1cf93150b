"""Early exit: a sample stops as soon as its answer is confident, and T becomes a mean over samples.

The confidence after t steps is the largest probability in the softmax (float64, no temperature) of the running mean of
the logits. A sample stops after the first step at which it reaches a threshold, at the latest after T steps: the rule
of Dynamic Confidence (Li, Jones and Furber, ICCV 2023) and SEENN-I (Li et al., NeurIPS 2023), one threshold for all
steps. Dynamic Confidence takes it from a Pareto front of accuracy against latency, which needs labels;
`choose_confidence` needs none: it bounds how many answers differ from those after T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from transpike.calibration.progress import track
from transpike.calibration.sweep import inputs_of
from transpike.errors import DataError, InputError
from transpike.graph.walk import argument_count, reference_tensor
from transpike.network.spiking import SpikingNetwork, converted
from transpike.runtime.encoding import Coding
from transpike.schedules import Schedule
from transpike.schedules.contract import MOST_STEPS, check_schedule
from transpike.serialization.fields import check_count, fitted

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_SEEDS = 1_000_003  # images have seeds of their own, up to so many per argument


@dataclass(frozen=True, eq=False)
class EarlyAnswer:
    """What `answer_early` found.

    Attributes:
        logits: running mean of the output at the step at which the sample stopped, ``[N, classes]``.
        steps_used: that step for every sample, whole numbers ``[N]``.
        pipeline_steps: steps from the first input to this answer on a device that steps all layers at once, ``[N]``.
    """

    logits: Tensor
    steps_used: Tensor
    pipeline_steps: Tensor

    @property
    def mean_steps(self) -> float:
        """Mean T."""
        return float(self.steps_used.double().mean())

    @property
    def mean_pipeline_steps(self) -> float:
        """Mean latency on a device that steps all layers at once."""
        return float(self.pipeline_steps.double().mean())


@dataclass(frozen=True)
class EarlyRow:
    """One threshold.

    Attributes:
        confidence: the threshold.
        top1: accuracy in percent.
        disagreement: share of the samples whose early answer differs from that after T steps.
        mean_steps: mean T.
        mean_pipeline_steps: mean latency on a device that steps all layers at once.
        steps_used: number of samples that stopped after step 1, 2, ..., T.
    """

    confidence: float
    top1: float
    disagreement: float
    mean_steps: float
    mean_pipeline_steps: float
    steps_used: tuple[int, ...]


@dataclass(frozen=True)
class EarlyReport:
    """What `evaluate_early` found.

    Attributes:
        images: number of samples.
        steps: T, the largest number of steps.
        full_top1: accuracy of all samples after T steps, in percent.
        full_pipeline_steps: latency of T steps on a device that steps all layers at once.
        rows: one per threshold, in the order given.
        schedule: how the network ran.
        stops: whether `answer_early` can stop a sample under this schedule; else the rows say what stopping would give.
    """

    images: int
    steps: int
    full_top1: float
    full_pipeline_steps: int
    rows: tuple[EarlyRow, ...]
    schedule: str
    stops: bool

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def answer_early(
    snn: SpikingNetwork, *inputs: Tensor, steps: int, confidence: float, schedule: Schedule | None = None
) -> EarlyAnswer:
    """Answers, and stops every sample for good as soon as it is confident.

    The network is stepped; after every step the batch shrinks to the samples that go on, inputs and state alike, so
    that a sample that has stopped costs nothing more.

    Args:
        snn: the converted network, whose output is ``[N, classes]``.
        inputs: one tensor ``[N, *]`` per argument, a constant current.
        steps: T, after which every sample stops.
        confidence: threshold in [0, 1], see `choose_confidence`; 0 stops every sample after one step.
        schedule: a streamable one; None is the network's own. Others run layer after layer over all steps, so that
            stopping saves nothing; `evaluate_early` analyses them.

    Raises:
        ValueError: steps below 1, a confidence outside [0, 1], or a schedule that cannot stream.
        InputError: unusable inputs, encoded ones, or another output.
    """
    snn = converted(snn, "early exit")
    schedule = snn.schedule if schedule is None else check_schedule(schedule)
    _check_settings(steps, confidence)
    if not schedule.streamable:
        raise ValueError(
            f"{schedule} runs layer after layer over all steps, so no sample can stop before the others; "
            "use a streamable schedule, or evaluate_early for what stopping would give"
        )
    if not all(isinstance(value, Tensor) for value in inputs):
        raise InputError(
            "only constant currents can stop early",
            where="answer_early",
            fix="pass tensors [N, *]; evaluate_early analyses Poisson inputs, and step takes an input for every step",
        )
    with torch.no_grad():
        row, state = snn.step(inputs, schedule=schedule)
        logits = _logits(row, 2).clone()
        used = torch.full((len(logits),), steps, device=logits.device)
        going = torch.arange(len(logits), device=logits.device)  # positions of the samples that still run
        for t in range(1, steps):
            stopping = confidence_of(row) >= confidence
            used[going[stopping]] = t
            staying = (~stopping).nonzero().squeeze(1)
            if not len(staying):
                break
            if len(staying) < len(going):
                going = going[staying]
                inputs = tuple(tensor.index_select(0, staying) for tensor in inputs)
                state = state.select(staying)
            row, state = snn.step(inputs, state, schedule=schedule)
            logits[going] = row
    latency = torch.tensor(_pipeline_steps(snn, steps, schedule), device=used.device)
    return EarlyAnswer(logits, used, latency[used - 1])


def confidence_of(logits: Tensor) -> Tensor:
    """Largest probability of the softmax over the last dimension, in float64: ``[*, classes] -> [*]``."""
    return logits.double().softmax(-1).amax(-1)


def evaluate_early(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    *,
    steps: int,
    confidences: Sequence[float],
    schedule: Schedule | None = None,
    coding: Coding = Coding.CONSTANT,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> EarlyReport:
    """Accuracy and mean T at several thresholds, from the rows of one whole run per batch.

    The numbers are those of `answer_early` (but for the rounding of convolutions over smaller batches). Nothing is
    saved here: for schedules that cannot stream the rows say what a device would gain that can stop a sample.

    Args:
        snn: the converted network, whose output is ``[N, classes]``; moved to ``device`` if given.
        batches: the inputs of the model, then class indices ``[N]``.
        steps: T.
        confidences: thresholds in [0, 1].
        schedule: any prefix-consistent schedule; None is the network's own.
        coding: constant current, or Poisson spikes (seeded by the number of the image).
        device: None leaves the network where it is.
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, no or wrong confidences, or a schedule whose rows depend on T.
        InputError, DataError: unusable batches or labels, or another output.
    """
    snn = converted(snn, "early exit")
    schedule = snn.schedule if schedule is None else check_schedule(schedule)
    if not confidences:
        raise ValueError("confidences must hold at least one threshold")
    for confidence in confidences:
        _check_settings(steps, confidence)
    snn = snn if device is None else snn.to(device=device)
    hits, sure, other = [], [], []
    for run, rest in runs_of(snn, batches, steps, schedule, coding, progress):
        labels = _labels(rest, run)
        hits.append(run.best == labels)
        other.append(run.best != run.best[-1])
        sure.append(run.confidence)
    if not hits:
        raise DataError("there is nothing to evaluate: the batches are empty", fix="a used-up iterator gives none")
    hit, differs, certain = (np.concatenate(parts, 1) for parts in (hits, other, sure))
    latency = np.asarray(_pipeline_steps(snn, steps, schedule))
    rows = []
    for confidence in confidences:
        used = steps_used(certain, confidence)
        at = (used - 1, np.arange(used.size))
        rows.append(
            EarlyRow(
                confidence=confidence,
                top1=100.0 * float(hit[at].mean()),
                disagreement=float(differs[at].mean()),
                mean_steps=float(used.mean()),
                mean_pipeline_steps=float(latency[used - 1].mean()),
                steps_used=tuple(np.bincount(used, minlength=steps + 1)[1:].tolist()),
            )
        )
    return EarlyReport(
        images=hit.shape[1],
        steps=steps,
        full_top1=100.0 * float(hit[-1].mean()),
        full_pipeline_steps=int(latency[-1]),
        rows=tuple(rows),
        schedule=str(schedule),
        stops=schedule.streamable,
    )


def steps_used(confidence: _Floats, threshold: float) -> _Integers:
    """The step after which each sample stops: the first whose confidence reaches the threshold, else the last.

    Args:
        confidence: after every step, ``[T, N]``.
        threshold: in [0, 1].
    """
    enough = confidence >= threshold
    enough[-1] = True
    return np.asarray(enough.argmax(0) + 1, dtype=np.int64)


class _Run(NamedTuple):
    """What early exit needs of a run: best class and its confidence after every step, ``[T, N]``."""

    best: _Integers
    confidence: _Floats
    classes: int


def runs_of(
    snn: SpikingNetwork, batches: Iterable[Any], steps: int, schedule: Schedule, coding: Coding, progress: bool
) -> Iterator[tuple[_Run, Any]]:
    """Runs every batch over all steps; yields what it did and the batch."""
    _check_settings(steps, 0.0)
    if not schedule.prefix_consistent:
        raise ValueError(f"the rows of {schedule} depend on T, so it has no answers before T")
    reference, arguments = reference_tensor(snn), argument_count(snn.network)
    seen = 0
    for batch in track(batches, "running", progress):
        inputs = [tensor.to(reference.device, reference.dtype) for tensor in inputs_of(batch, arguments)]
        given = [coding.encode(tensor, seed=seen + index * _SEEDS) for index, tensor in enumerate(inputs)]
        with torch.no_grad():
            rows = _logits(snn(*given, steps=steps, schedule=schedule), 3)
        seen += rows.shape[1]
        yield _Run(rows.argmax(-1).cpu().numpy(), confidence_of(rows).cpu().numpy(), rows.shape[-1]), batch


def _labels(batch: Any, run: _Run) -> _Integers:
    """The class indices at the end of a batch, checked."""
    labels = batch[-1] if isinstance(batch, Sequence) and len(batch) > 1 else None
    samples = run.best.shape[1]
    if not isinstance(labels, Tensor) or labels.dtype.is_floating_point or tuple(labels.shape) != (samples,):
        raise DataError(
            f"a batch does not end in {samples} whole class indices [N]",
            fix="pass a DataLoader over a labelled data set",
        )
    found = labels.cpu().numpy().astype(np.int64)
    if not 0 <= found.min() <= found.max() < run.classes:
        raise DataError(
            f"labels run from {found.min()} to {found.max()}, the network has {run.classes} outputs",
            fix="use class indices from 0, and the network trained for these classes",
        )
    return found


def _logits(answer: Any, dimensions: int) -> Tensor:
    """The answer, if it is one tensor ``[N, classes]`` (2 dimensions) or the rows ``[T, N, classes]`` of one (3)."""
    if not isinstance(answer, Tensor) or answer.dim() != dimensions or answer.shape[-1] < 2:
        raise InputError(
            "early exit needs one output of shape [N, classes], with two classes or more",
            where="the model's answer",
            fix="wrap the model to return its logits",
        )
    return answer


def count_below(values: _Floats, limits: _Floats) -> _Integers:
    """How many values lie below each limit."""
    return np.searchsorted(np.sort(values), limits, side="left").astype(np.int64)


def _pipeline_steps(snn: SpikingNetwork, steps: int, schedule: Schedule) -> list[int]:
    """Pipeline latency of an answer after 1, 2, ..., T steps."""
    return [snn.latency(t, schedule).pipeline_steps for t in range(1, steps + 1)]


def _check_settings(steps: int, confidence: float) -> None:
    check_count("steps", steps, most=MOST_STEPS)
    fitted("confidence", confidence, float)
    if not (math.isfinite(confidence) and 0.0 <= confidence <= 1.0):
        raise ValueError(f"confidence is a probability in [0, 1], got {confidence}")
