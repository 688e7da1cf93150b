"""All that the COS paper shows about offset spikes, on one network: figures 1 to 6, Tables 3 and S2, appendix A.5."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transpike.evaluation.evaluate import evaluate
from transpike.evaluation.offsets.cases import CaseExample, ShiftCase, find_cases
from transpike.evaluation.offsets.spikes import Offsets, iterated_schedules, offset_spikes
from transpike.evaluation.report import Report
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import AccumulateThenFire, OffsetSpike, Plain, Residual, Schedule
from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.fields import check_count, check_fields
from transpike.serialization.json_records import to_json

VERSION = 1


@dataclass(frozen=True)
class OffsetSettings:
    """What to study.

    Attributes:
        probe_steps: rho, also the T over which offsets are counted; L of a QCFS network in the paper.
        iterations: COS with 0 .. so many iterations.
        feed: makes the sites' drives with the constraint; None is `AccumulateThenFire` with ``probe_steps``.
        rhos: the probe lengths whose influence on accuracy is measured (figure 4).
        steps: the largest T of accuracy and running time; the smaller powers of two come with it.
    """

    probe_steps: int = 4
    iterations: int = 4
    feed: Schedule | None = None
    rhos: tuple[int, ...] = (1, 2, 4, 8)
    steps: int = 8

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("probe_steps", "iterations", "steps"):
            check_count(name, getattr(self, name), most=MOST_STEPS)
        if not self.rhos or min(self.rhos) < 1 or len(set(self.rhos)) < len(self.rhos):
            raise ValueError(f"rhos must be different numbers of at least 1, got {self.rhos}")

    @property
    def feeding(self) -> Schedule:
        """The schedule that feeds the sites with the constraint."""
        return AccumulateThenFire(self.probe_steps) if self.feed is None else self.feed


@dataclass(frozen=True)
class OffsetStudy:
    """What `study_offsets` found.

    Attributes:
        settings: what was asked for.
        free: psi of the network as it runs, by schedule.
        constrained: psi where the sites' inputs are taken as right, by schedule.
        cases: a neuron for each case of figure 2, or None.
        influence: reports of COS by rho.
        running: reports of ``plain``, ``residual`` (the paper's lightweight scheme) and ``cos`` at the same T and rho.
    """

    settings: OffsetSettings
    free: dict[str, Offsets]
    constrained: dict[str, Offsets]
    cases: dict[ShiftCase, CaseExample | None]
    influence: dict[int, Report]
    running: dict[str, Report]

    def to_json(self) -> dict[str, Any]:
        """The study as JSON values; shares and means that follow from the counts are written beside them."""
        return {
            "version": VERSION,
            "settings": {**to_json(self.settings), "feed": to_json(self.settings.feeding)},
            "free": {label: _offsets_json(found) for label, found in self.free.items()},
            "constrained": {label: _offsets_json(found) for label, found in self.constrained.items()},
            "cases": {case.name: None if found is None else _case_json(found) for case, found in self.cases.items()},
            "influence": {str(rho): report.to_json() for rho, report in self.influence.items()},
            "running": {name: report.to_json() for name, report in self.running.items()},
            "seconds_per_image": running_times(self.running),
        }


def study_offsets(
    snn: SpikingNetwork, batches: Iterable[Any], settings: OffsetSettings | None = None, *, progress: bool = False
) -> OffsetStudy:
    """Runs all analyses of offset spikes on the same labelled data.

    Args:
        snn: a classifier of integrate-and-fire neurons with soft reset, on the device where it is to run.
        batches: pairs ``(images [N, *], class indices [N])`` that can be gone through several times, such as a list or
            a DataLoader.
        settings: None is `OffsetSettings` as it stands.
        progress: show progress bars.

    Raises:
        ValueError, InputError, DataError: see `offset_spikes` and `evaluate`.
    """
    snn = converted(snn, "study_offsets")
    settings = OffsetSettings() if settings is None else settings
    rho, feed = settings.probe_steps, settings.feeding
    schedules = iterated_schedules(rho, settings.iterations)
    free = offset_spikes(snn, batches, schedules, probe_steps=rho, progress=progress)
    constrained = offset_spikes(snn, batches, schedules, probe_steps=rho, feed=feed, progress=progress)
    cases = find_cases(snn, batches, feed, probe_steps=rho, progress=progress)
    rows = [2**k for k in range(settings.steps.bit_length()) if 2**k < settings.steps] + [settings.steps]

    def report(schedule: Schedule) -> Report:
        return evaluate(snn, batches, steps=settings.steps, schedule=schedule, at=rows, progress=progress)

    influence = {length: report(OffsetSpike(length)) for length in sorted(settings.rhos)}
    running = {"plain": report(Plain()), "residual": report(Residual(rho))}
    running["cos"] = influence[rho] if rho in influence else report(OffsetSpike(rho))
    return OffsetStudy(settings, free, constrained, cases, influence, running)


def running_times(reports: Mapping[str, Report]) -> dict[str, float]:
    """Wall seconds per image of the spiking network's run to its largest T, spikes counted, by label (appendix A.5)."""
    return {label: report.seconds / report.images for label, report in reports.items()}


def _offsets_json(found: Offsets) -> dict[str, Any]:
    derived = [{**asdict(site), "exact": site.exact, "mse": site.mse} for site in found.sites]
    return {**asdict(found), "sites": derived}


def _case_json(found: CaseExample) -> dict[str, Any]:
    return {
        **asdict(found),
        "case": found.case.value,
        "offset_before": found.offset_before,
        "offset_after": found.offset_after,
    }
