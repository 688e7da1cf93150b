"""Biases per time-step (FTBC, forward temporal bias correction, Wu et al., ECCV 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from transpike.kernels import KernelPreference, scan
from transpike.rules.contract import Correction, PerChannel, StageView
from transpike.rules.corrections.correction import check_counts
from transpike.schedules import Plain, Schedule


class Replay(Enum):
    """Whether the errors of a stage are measured with the biases that earlier rounds gave to that stage.

    ``BARE``: as the method is printed, without; every round then measures about the same error anew, and after r rounds
    the bias is about ``r alpha`` times it. ``BIASED``: with, so that the error falls from round to round.
    """

    BARE = "bare"
    BIASED = "biased"


@dataclass(frozen=True)
class TemporalBiasCorrection(Correction):
    """Per step and channel, ``b(t) += alpha mean(SNN output(t) - ANN activation)``; ``-b(t)`` joins the drive.

    The neurons are replayed with the whole error e of every element taken from the drive, which keeps the errors of
    later steps from making up for those of earlier ones::

        u = v + I(t);  e = theta [u >= theta] - a;  v = u - e - theta [u - e >= theta];  b(t) += alpha mean(e)

    For the plain schedule. Errors are causal, so the biases for T steps are the first T of those for more; steps behind
    the last bias take the last one. Needs unlabelled data, no retraining; events stay as the neuron's; stores T numbers
    per channel. Differs from the paper, as far as it is known here: a round takes all calibration samples (released
    code: a new batch of 200, with 3 batches and alpha = 0.4; another reading of it: 2 and 0.5), and the replay's own
    biases are a choice.

    Attributes:
        steps: T.
        alpha: share of the error that a round takes away, in (0, 1].
        rounds: how often to go through the network.
        replay: whether a stage sees its own biases of earlier rounds.
    """

    steps: int
    alpha: float = 0.4
    rounds: int = 3
    replay: Replay = Replay.BARE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(steps=self.steps, rounds=self.rounds)
        if not (math.isfinite(self.alpha) and 0.0 < self.alpha <= 1.0):
            raise ValueError(f"alpha must lie in (0, 1], got {self.alpha}")

    def unsupported_reason(self, schedule: Schedule) -> str | None:
        """Steps have biases of their own where all layers step together."""
        return None if isinstance(schedule, Plain) else "its biases belong to steps that all layers make together"

    def update(self, stage: StageView) -> None:
        """Adds one round to the biases of one site."""
        site = stage.module
        samples = sum(wanted.shape[0] for wanted in stage.wanted)
        errors = sum(self._errors(stage, *pair) for pair in zip(stage.currents, stage.wanted, strict=True))
        assert isinstance(errors, Tensor)
        mean = torch.stack([PerChannel().mean(error) for error in errors / samples])
        steps = max(len(mean), 1 if site.bias.dim() == 0 else len(site.bias))
        rows = stage.drive(mean.new_zeros(steps, 1, *mean.shape[1:])).squeeze(1)  # the biases of all steps
        rows = torch.cat([rows[: len(mean)] - self.alpha * mean, rows[len(mean) :]])  # a longer calibration's go on
        site.set_bias(rows)

    def _errors(self, stage: StageView, currents: Tensor, wanted: Tensor) -> Tensor:
        """``e(t)`` summed over the samples of one batch, ``[T, *]``."""
        parameters, neuron = stage.module.parameters_of_neurons, stage.neuron
        drive = stage.drive(currents) if self.replay is Replay.BIASED else currents

        def step(state: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
            events, _ = neuron.run(current.unsqueeze(0), state, parameters, KernelPreference.AUTO)
            error = parameters.theta * events[0] - wanted
            _, after = neuron.run((current - error).unsqueeze(0), state, parameters, KernelPreference.AUTO)
            return after, error.sum(0, dtype=torch.float64)

        return scan(step, neuron.start(parameters, drive), drive)[1]
