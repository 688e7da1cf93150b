"""Runs a sweep: what is left to do, and the record; Ray does the work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from transpike.errors import DataError, count
from transpike.experiments.ray_trials import check_ray, remove_leftovers, run_trials
from transpike.experiments.sweep import Search, Sweep, Trial, first_difference
from transpike.experiments.sweep_record import Scores, SweepRecord, TrialResult, read_sweep
from transpike.experiments.trial import Workshop, digest_sweep_data
from transpike.serialization.digest import digest
from transpike.serialization.environment import Environment, environment
from transpike.serialization.fields import check_count
from transpike.serialization.folder_lock import locked
from transpike.serialization.json_records import to_json, write_json


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    data_root: Path | None = None,
    device: str = "auto",
    cpus_per_trial: int = 1,
    gpus_per_trial: float | None = None,
    address: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> SweepRecord:
    """Trains, converts and measures every trial, as many at once as there are cores, and writes the folder.

    Called again after an interruption it goes on: trials that ended are known by a digest of their settings and data,
    and are not run again; trainings go on after their last whole epoch. What is pruned depends on which trials run side
    by side.

    Args:
        sweep: what to try.
        folder: for ``sweep.json``, the record; ``relu``, the ReLU networks; and ``trials``, a folder for each with its
            network, ready for `transpike.load_ann` and `transpike.convert`.
        data_root: folder with the data sets; None reads TRANSPIKE_DATA.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        cpus_per_trial: cores, and threads of torch, of one trial.
        gpus_per_trial: may be a fraction; None is one where trials run on a GPU.
        address: of a Ray cluster that exists, ``"auto"`` for the one that this machine belongs to; None starts Ray on
            this machine and stops it at the end. Every machine of a cluster needs transpike, the data at the same path,
            and ``folder`` on a shared file system.
        say: called with a line about each network that is trained.

    Raises:
        MissingExtraError: Ray is not installed.
        DataError: data is missing, or the folder holds another sweep.
        OutputError: the folder cannot be written, or another process works in it.
        TrainingError: a ReLU network diverged, or trials were cut off by something other than their training.
    """
    check_ray(sweep)
    check_count("cpus_per_trial", cpus_per_trial)
    folder = folder.resolve()
    before = earlier_sweep(sweep, folder)
    root = None if data_root is None else data_root.resolve()
    data = digest_sweep_data(sweep, root)
    whole = digest({str(seed): found for seed, found in data.items()})
    if before is not None and before.data_digest != whole:
        raise DataError(
            "the folder holds a sweep over other data, or data prepared otherwise", where=str(folder), fix=_FIX
        )
    workshop = Workshop(sweep, folder, root, data, device, cpus_per_trial)
    with locked(folder, wait=False):
        remove_leftovers(folder)
        log = _Log(workshop, whole, 0.0 if before is None else before.seconds, say)
        known = sweep.trials() if before is None else [*(r.trial for r in before.results), *sweep.trials()]
        for trial in dict.fromkeys(known):
            ended = workshop.found(trial)
            if ended is not None:
                log.results[trial] = ended
        if before is not None:
            say(f"{count(len(log.results), 'trial')} of an earlier session")
        complete = before is not None and len(log.results) >= len(before.results)
        log.finished = log.nothing_left() or (before is not None and before.finished and complete)
        if before is not None and before.finished and log.finished and len(before.results) == len(log.results):
            return before
        log.write()
        if not log.finished:
            run_trials(workshop, log.results, log.ended, say, address=address, gpus=gpus_per_trial)
            log.finished = True
        return log.write()


_FIX = "choose another --output, or remove the folder"


def earlier_sweep(sweep: Sweep, folder: Path) -> SweepRecord | None:
    """The record that an earlier session of the same sweep left in the folder.

    Raises:
        DataError: the folder holds another sweep, with the first difference, or a foreign ``sweep.json``.
    """
    file = folder / "sweep.json"
    if not file.exists():
        return None
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, RecursionError, AttributeError):
        kind = None
    if kind != SweepRecord.__name__:
        raise DataError(
            "the file is no record that transpike wrote, and is left as it is",
            where=str(file),
            fix="choose another folder, or remove this file",
        )
    before = read_sweep(file)
    difference = first_difference(before.sweep, sweep)
    if difference:
        raise DataError(f"the folder holds another sweep: {difference}", where=str(file), fix=_FIX)
    return before


@dataclass
class _Log:
    """The trials that ended; ``sweep.json`` is written after each."""

    workshop: Workshop
    data_digest: str
    earlier: float
    say: Callable[[str], None]
    results: dict[Trial, TrialResult] = field(default_factory=dict)
    finished: bool = False
    here: Environment = field(default_factory=environment)
    began: float = field(default_factory=time.perf_counter)

    def nothing_left(self) -> bool:
        """Whether all trials ended; of a search by proposals nobody knows before it has ended."""
        sweep = self.workshop.sweep
        return sweep.search is not Search.OPTUNA and all(trial in self.results for trial in sweep.trials())

    def ended(self, result: TrialResult) -> None:
        """Takes the result of a trial."""
        self.results[result.trial] = result
        self.write()
        sweep = self.workshop.sweep
        grid = len(sweep.grid())
        whole = (grid if sweep.samples is None else min(grid, sweep.samples)) * len(sweep.seeds)
        text = result.state.value if result.reason == "" else f"{result.state.value}: {result.reason}"
        if result.validation is not None:
            text = _numbers(result.validation, sweep.criterion_steps)
        self.say(f"{len(self.results)} of {whole}: {result.trial}: {text}, {result.seconds:.1f} s")

    def write(self) -> SweepRecord:
        """Writes the record."""
        sweep = self.workshop.sweep
        places = {setting: place for place, setting in enumerate(sweep.grid())}
        results = sorted(self.results.values(), key=lambda r: (places[r.trial.setting], r.trial.seed))
        seconds = self.earlier + time.perf_counter() - self.began
        record = SweepRecord(sweep, tuple(results), self.finished, seconds, self.here, self.data_digest)
        write_json(self.workshop.folder / "sweep.json", to_json(record))
        return record


def _numbers(scores: Scores, steps: int) -> str:
    return (
        f"ANN {scores.ann:.2f} %, SNN at T={steps} {scores.snn[steps]:.2f} %, criterion {scores.criterion(steps):.2f}"
    )
