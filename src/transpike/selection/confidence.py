"""The confidence at which samples may stop early, chosen without labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transpike.calibration import CalibrationData
from transpike.calibration.sweep import batches_of
from transpike.errors import CalibrationError
from transpike.evaluation.early_exit import count_below, runs_of
from transpike.network.spiking import SpikingNetwork, converted
from transpike.runtime.encoding import Coding
from transpike.schedules import Schedule
from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.fields import check_count, fitted


@dataclass(frozen=True)
class ChosenConfidence:
    """What `choose_confidence` found.

    Attributes:
        confidence: the threshold.
        disagreement: share of the calibration samples whose early answer differs from that after T steps.
        mean_steps: mean T on the calibration samples.
        samples: number of calibration samples.
    """

    confidence: float
    disagreement: float
    mean_steps: float
    samples: int


def choose_confidence(
    snn: SpikingNetwork,
    *,
    calibration: CalibrationData,
    steps: int,
    max_disagreement: float = 0.005,
    schedule: Schedule | None = None,
    coding: Coding = Coding.CONSTANT,
    progress: bool = False,
) -> ChosenConfidence:
    """The smallest threshold at which few early answers differ from those after T steps. Labels are not looked at.

    Exact over 0, 1 and all confidences that occur in the data; between two of these nothing changes. The mean T grows
    with the threshold, so the smallest one is the fastest. The disagreement need not fall with every larger
    threshold, since a sample may stop at an answer that it gives up later.

    Args:
        snn: the converted network, whose output is ``[N, classes]``.
        calibration: a tensor, or batches as for `convert`: images held back from training. On images that the network
            was trained on it is surer than on others, and on test images nothing may be chosen.
        steps: T.
        max_disagreement: largest accepted share of samples whose early answer differs, in [0, 1].
        schedule: any prefix-consistent schedule; None is the network's own.
        coding: constant current, or Poisson spikes (seeded by the number of the image).
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, a share outside [0, 1], or a schedule whose rows depend on T.
        CalibrationError: no data, confidences that are NaN, or no threshold up to 1 is strict enough.
    """
    snn = converted(snn, "choose_confidence")
    check_count("steps", steps, most=MOST_STEPS)
    if not 0.0 <= fitted("max_disagreement", max_disagreement, float) <= 1.0:
        raise ValueError(f"max_disagreement must lie in [0, 1], got {max_disagreement}")
    schedule = snn.schedule if schedule is None else schedule
    runs = [run for run, _ in runs_of(snn, batches_of(calibration), steps, schedule, coding, progress)]
    if not runs:
        raise CalibrationError(
            "there is no data to choose a confidence on", where="choose_confidence", fix="a used-up iterator gives none"
        )
    best = np.concatenate([run.best for run in runs], 1)
    sure = np.concatenate([run.confidence for run in runs], 1)
    if not bool(np.isfinite(sure).all()):
        raise CalibrationError("a confidence is NaN", where="choose_confidence", fix="look for NaN in the weights")
    # With M_t the largest confidence up to step t, a sample stops after step t at thresholds in (M_{t-1}, M_t].
    samples = best.shape[1]
    reached = np.maximum.accumulate(sure[:-1], 0)
    before = np.concatenate([np.full((1, samples), -np.inf), reached])[:-1]
    wrong = best[:-1] != best[-1]
    candidates = np.unique(np.concatenate([[0.0, 1.0], sure.ravel()]))
    differing = count_below(before[wrong], candidates) - count_below(reached[wrong], candidates)
    allowed = np.flatnonzero(differing / samples <= max_disagreement)
    if not len(allowed):
        raise CalibrationError(
            f"at confidence 1 still {differing[-1]} of {samples} early answers differ: their softmax is rounded to 1",
            where="choose_confidence",
            fix="accept a larger max_disagreement, or divide the last layer's weights by the scale of the logits",
        )
    smallest = allowed[0]
    mean = 1 + count_below(reached.ravel(), candidates)[smallest] / samples
    return ChosenConfidence(float(candidates[smallest]), float(differing[smallest] / samples), float(mean), samples)
