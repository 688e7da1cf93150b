"""The numbers of an evaluation, as records and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transpike.schedules import Latency
from transpike.serialization.json_records import from_json, to_json


@dataclass(frozen=True)
class Row:
    """One number of time-steps.

    Attributes:
        steps: T.
        top1: accuracy in percent.
        top5: accuracy in percent, counting the five largest outputs; equals 100 with five classes or fewer.
        events: spikes per sample that are sent for this answer, all sites and passes together: sites in front of
            lagging or probing ones send more than T steps.
        latency: the four latency figures.
    """

    steps: int
    top1: float
    top5: float
    events: float
    latency: Latency


@dataclass(frozen=True)
class SiteActivity:
    """Activity of one site over the longest run.

    Attributes:
        name: the site.
        neurons: size of the population.
        events: spikes per sample.
        rate: spikes per neuron and step in which it sends.
    """

    name: str
    neurons: int
    events: float
    rate: float


@dataclass(frozen=True)
class Report:
    """What `evaluate` found.

    Attributes:
        images: number of test samples.
        ann_top1: accuracy of the source network on the same samples, in percent; where a reconstruction changed the
            weights, with these.
        ann_top5: the same for the five largest outputs.
        rows: one per number of steps, ascending.
        sites: activity per site in the longest run.
        seconds: wall time of running the spiking network and counting its spikes (ANN and data loading not counted); of
            several processes the sum.
        schedule: how the network ran.
        dtype: floating type.
        device: where it ran.
        readout_delay: steps at the start whose output does not count for the answer.
    """

    images: int
    ann_top1: float
    ann_top5: float
    rows: tuple[Row, ...]
    sites: tuple[SiteActivity, ...]
    seconds: float
    schedule: str
    dtype: str
    device: str
    readout_delay: int = 0

    def row(self, steps: int) -> Row:
        """The row of T = ``steps``.

        Raises:
            KeyError: the run has no such row.
        """
        for row in self.rows:
            if row.steps == steps:
                return row
        raise KeyError(f"no row for T = {steps}; rows: {[row.steps for row in self.rows]}")

    def __str__(self) -> str:
        lines = [
            f"{self.images:,} images, ANN {self.ann_top1:.2f} %, {self.schedule}",
            f"{'T':>5} {'top-1 %':>8} {'to ANN':>8} {'events/image':>14} {'pipeline':>9}",
        ]
        for row in self.rows:
            if row.steps & (row.steps - 1) == 0 or row is self.rows[-1]:
                behind, events = row.top1 - self.ann_top1, f"{row.events:,.0f}"
                pipeline = row.latency.pipeline_steps
                lines.append(f"{row.steps:>5} {row.top1:>8.2f} {behind:>+8.2f} {events:>14} {pipeline:>9}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        record: dict[str, Any] = to_json(self)
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Report:
        """Rebuilds a report written by `to_json`.

        Raises:
            ValueError: it is no report, or one of another version.
        """
        report = from_json(record, REPORT_KINDS)
        if not isinstance(report, cls):
            raise ValueError(f"a {type(report).__name__} is no report")
        return report


REPORT_KINDS: Mapping[str, type] = {cls.__name__: cls for cls in (Report, Row, SiteActivity, Latency)}
"""The records that a report is made of, by name."""
