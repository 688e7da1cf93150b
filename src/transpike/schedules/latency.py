"""How long an answer takes, counted in four ways."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """The four ways to count how long an answer takes, in time-steps.

    Attributes:
        answer_steps: T, the steps that are read out for the answer: averaged, or of digits added up.
        claimed_steps: as the schedule's own paper counts.
        pipeline_steps: from the first input to the answer on a device that steps all layers at once.
        interval: steps that the busiest layer is busy with one sample; with lags, the first of the chain.
    """

    answer_steps: int
    claimed_steps: int
    pipeline_steps: int
    interval: int
