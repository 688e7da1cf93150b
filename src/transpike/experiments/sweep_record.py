"""What a sweep leaves: the accuracies of every trial, the criterion of section 4.4, and the choice by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from statistics import fmean
from typing import Any

from transpike.activations import SlipReLU, ThetaPercentile
from transpike.errors import DataError
from transpike.experiments.recipe import Training
from transpike.experiments.sweep import Setting, Sweep, Trial, theta_words
from transpike.functional import selection_criterion
from transpike.serialization.environment import Environment
from transpike.serialization.json_records import from_json


class TrialState(StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Scores:
    """Top-1 accuracies on one part of the data, in percent.

    Attributes:
        images: how many.
        relu: of the plain ReLU network of the same seed.
        ann: of the network with the trained activation.
        snn: of the spiking network, by T.
    """

    images: int
    relu: float
    ann: float
    snn: Mapping[int, float]

    def __post_init__(self) -> None:  # JSON has no numbers as keys
        object.__setattr__(self, "snn", {int(t): float(value) for t, value in self.snn.items()})

    def criterion(self, steps: int) -> float:
        """Section 4.4, with the spiking network at T = ``steps``."""
        return selection_criterion(self.relu, self.ann, self.snn[steps])


@dataclass(frozen=True)
class TrialResult:
    """One trial.

    Attributes:
        trial: which.
        state: how it ended.
        reason: why it failed or was pruned, else empty.
        epochs: that were trained.
        validation: accuracies on the part of the training set that choices are made on; None unless finished.
        test: accuracies on test images, for tables only; None unless finished.
        seconds: wall time.
        cpu_seconds: processor time of the trial's process.
        digest: of settings and data.
    """

    trial: Trial
    state: TrialState
    reason: str
    epochs: int
    validation: Scores | None
    test: Scores | None
    seconds: float
    cpu_seconds: float
    digest: str


@dataclass(frozen=True)
class Cell:
    """One setting with all its seeds, all finished.

    Attributes:
        setting: network and activation.
        results: one per seed.
    """

    setting: Setting
    results: tuple[TrialResult, ...]

    def criterion(self, steps: int) -> float:
        """Mean over seeds of the criterion on the validation part."""
        return self.mean("validation", lambda scores: scores.criterion(steps))

    def mean(self, part: str, value: Callable[[Scores], float]) -> float:
        """Mean over seeds of a value of ``"validation"`` or ``"test"``."""
        return fmean(self.values(part, value))

    def values(self, part: str, value: Callable[[Scores], float]) -> list[float]:
        """A value of ``"validation"`` or ``"test"``, seed by seed."""
        return [value(getattr(result, part)) for result in self.results]


@dataclass(frozen=True)
class SweepRecord:
    """What a sweep found; ``sweep.json`` holds it.

    Attributes:
        sweep: what was tried.
        results: the trials that ended, sorted by setting and seed.
        finished: whether all ended.
        seconds: wall time of the sessions that worked on it.
        environment: of the session that worked on it last.
        data_digest: of the data of every seed.
    """

    sweep: Sweep
    results: tuple[TrialResult, ...]
    finished: bool
    seconds: float
    environment: Environment
    data_digest: str

    @property
    def cells(self) -> list[Cell]:
        """Settings whose seeds are all finished, in the order of the grid."""
        found: dict[Setting, list[TrialResult]] = {}
        for result in self.results:
            if result.state is TrialState.FINISHED:
                found.setdefault(result.trial.setting, []).append(result)
        whole = len(self.sweep.seeds)
        return [Cell(s, tuple(found[s])) for s in self.sweep.grid() if len(found.get(s, ())) == whole]

    def choose(self, steps: int | None = None) -> Cell:
        """The setting with the least criterion on the validation part; test images play no role.

        Of equal ones, as small validation parts give, the one whose spiking network is the most accurate there, then
        the first of the grid.

        Args:
            steps: T of the criterion; None takes the sweep's.

        Raises:
            DataError: no setting is finished.
        """
        t = self.sweep.criterion_steps if steps is None else steps
        return min(self._whole(), key=lambda cell: (cell.criterion(t), -cell.mean("validation", lambda s: s.snn[t])))

    def best_in_hindsight(self, steps: int) -> Cell:
        """The setting whose spiking network is the most accurate on test images at T = ``steps``: not for choosing.

        Raises:
            DataError: no setting is finished.
        """
        return max(self._whole(), key=lambda cell: cell.mean("test", lambda s: s.snn[steps]))

    def _whole(self) -> list[Cell]:
        if not self.cells:
            raise DataError("no setting is finished with all seeds", fix="let the sweep run on, or look at `results`")
        return self.cells

    def rows(self) -> list[dict[str, Any]]:
        """Flat records for `pandas.DataFrame`: one per trial and T, and one for a trial without numbers."""
        found = []
        for result in self.results:
            a = result.trial.setting.activation
            row: dict[str, Any] = {
                "network": result.trial.setting.network,
                "levels": a.levels,
                "slope": a.slope,
                "shift": a.shift,
                "ramp_shift": a.ramp_shift,
                "gradient": a.gradient.value,
                "theta_init": theta_words(a.theta_init),
                "seed": result.trial.seed,
                "state": result.state.value,
                "epochs": result.epochs,
                "seconds": result.seconds,
                "cpu_seconds": result.cpu_seconds,
            }
            if result.validation is None or result.test is None:
                found.append(row)
                continue
            for t in self.sweep.at:
                accuracies = {"steps": t, "criterion": result.validation.criterion(t)}
                for part, scores in (("validation", result.validation), ("test", result.test)):
                    accuracies |= {f"{part}_relu": scores.relu, f"{part}_ann": scores.ann}
                    accuracies[f"{part}_snn"] = scores.snn[t]
                found.append(row | accuracies)
        return found


def sweep_kinds() -> dict[str, type]:
    """All records that a `SweepRecord` may hold, by name."""
    own = (SweepRecord, Sweep, TrialResult, Trial, Setting, Scores, Training, SlipReLU, ThetaPercentile, Environment)
    return {cls.__name__: cls for cls in own}


def read_sweep(path: Path) -> SweepRecord:
    """Reads what a sweep wrote.

    Args:
        path: ``sweep.json``, or the sweep's folder.

    Raises:
        DataError: the file is missing, no record of a sweep, or one of another version.
    """
    file = path / "sweep.json" if path.is_dir() else path
    try:
        record = from_json(json.loads(file.read_text(encoding="utf-8")), sweep_kinds())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"the record of the sweep cannot be read: {error}", where=str(file), fix="pass the folder of a sweep"
        ) from error
    if not isinstance(record, SweepRecord):
        raise DataError(f"the file holds a {type(record).__name__}", where=str(file), fix="pass a sweep's sweep.json")
    return record
