"""One trial of a sweep: trains the network, converts it, and measures it through the runner, in a folder of its own."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transpike.conversion.convert import convert
from transpike.data import Data, load_data, loader, random_subset, test_images
from transpike.errors import CalibrationError, RangeError, TrainingError, TranspikeError
from transpike.evaluation.evaluate import COUNTING_VERSION, evaluate
from transpike.experiments.networks import fresh_network, train_network
from transpike.experiments.recipe import RecipeRow, Run
from transpike.experiments.runner import Runner
from transpike.experiments.sweep import Sweep, Trial
from transpike.experiments.sweep_record import Scores, TrialResult, TrialState, sweep_kinds
from transpike.functional import selection_criterion
from transpike.rules import Conversion
from transpike.serialization.cache import read_cache, write_cache
from transpike.serialization.digest import digest, digest_batches
from transpike.serialization.environment import library_version
from transpike.serialization.folder_lock import locked
from transpike.serialization.json_records import from_json, to_json
from transpike.training import Epoch, torch_device
from transpike.training.fit import digest_data

WORST = 100.0
"""The largest value of the criterion: what failed counts as."""
_VALIDATION = "validation"


@dataclass(frozen=True)
class Workshop:
    """Where and with what trials run; every worker has one.

    Attributes:
        sweep: what is tried.
        folder: of the sweep, absolute; shared by all machines.
        data_root: folder with the data sets, or None.
        data_digests: by seed.
        device: ``"auto"``, ``"cpu"`` or ``"gpu"``.
        threads: of torch.
    """

    sweep: Sweep
    folder: Path
    data_root: Path | None
    data_digests: dict[int, str]
    device: str = "auto"
    threads: int = 1

    def key(self, trial: Trial) -> str:
        """Digest of a trial's settings and data."""
        return self.sweep.key(trial, self.data_digests[trial.seed], f"{COUNTING_VERSION} {library_version()}")

    def place(self, trial: Trial) -> Path:
        """The folder of a trial."""
        a = trial.setting.activation
        name = f"{trial.setting.network.replace(':', '-')}-N{a.levels}-c{a.slope:g}-seed{trial.seed}"
        return self.folder / "trials" / f"{name}-{self.key(trial)[:8]}"

    def found(self, trial: Trial) -> TrialResult | None:
        """The result of a trial that ended."""
        stored = read_cache(self.place(trial) / "trial.json", self.key(trial))
        return None if stored is None else from_json(stored, sweep_kinds())

    def record(self, result: TrialResult) -> None:
        """Keeps the result of a trial that ended."""
        write_cache(self.place(result.trial) / "trial.json", result.digest, to_json(result))


@dataclass(frozen=True)
class _Material:
    """Data of one seed, opened."""

    data: Data
    calibration: list[Tensor]
    images: str


@lru_cache(maxsize=1)  # trials come seed by seed, and a worker runs many
def _material(name: str, root: Path | None, seed: int, calibration_images: int) -> _Material:
    data = load_data(name, root, seed=seed)
    there = len(data.calibration)  # type: ignore[arg-type]
    subset = random_subset(data.calibration, min(calibration_images, there), seed)
    images = digest_batches(loader(data.calibration, 500))
    return _Material(data, [batch for batch, _ in loader(subset)], images)


def digest_sweep_data(sweep: Sweep, root: Path | None) -> dict[int, str]:
    """Digest by seed of all images and labels that a sweep looks at."""
    found = {}
    for seed in sweep.seeds:
        data = load_data(sweep.data, root, seed=seed)
        found[seed] = digest(digest_data(data), digest_batches(loader(test_images(data, sweep.images), 500)))
    return found


def train_start(workshop: Workshop, network: str, seed: int) -> str:
    """Trains a ReLU network, if it is not there.

    Returns:
        A line about it.

    Raises:
        TrainingError, RecipeError: see `train_network`.
    """
    torch.set_num_threads(workshop.threads)
    with locked(workshop.folder / "relu" / f"{network.replace(':', '-')}-seed{seed}"):
        trained, runner = _start(workshop, network, seed)
        accuracy = runner.accuracy(trained, _VALIDATION)
    return f"{network}, ReLU, seed {seed}: validation {accuracy:.2f} %"


def _start(workshop: Workshop, network: str, seed: int) -> tuple[nn.Module, Runner]:
    """The ReLU network of a seed, and a runner over its data."""
    sweep = workshop.sweep
    found = _material(sweep.data, workshop.data_root, seed, sweep.calibration_images)
    folder = workshop.folder / "relu" / f"{network.replace(':', '-')}-seed{seed}"
    fresh = fresh_network(network, found.data, seed)
    trained = train_network(
        sweep.relu,
        fresh,
        found.data,
        found.calibration,
        folder,
        seed=seed,
        images=found.images,
        device=workshop.device,
    )
    return trained, _runner(workshop, found, folder)


def _runner(workshop: Workshop, found: _Material, folder: Path) -> Runner:
    def tests(word: str) -> Iterable[Any]:
        return loader(found.data.validation if word == _VALIDATION else test_images(found.data, word))

    return Runner(found.calibration, tests, folder, device=torch_device(workshop.device))


def run_trial(workshop: Workshop, trial: Trial, on_epoch: Callable[[int, float], None] | None = None) -> TrialResult:
    """Trains and measures one trial, and keeps its result; one that ended is read.

    Args:
        workshop: where.
        trial: which.
        on_epoch: called after every epoch but the last with its number and the criterion on the validation part.

    Raises:
        TranspikeError: what is not the trial's fault, such as missing data. A training that diverges, and a network
            whose drives leave the range of its type, is a result.
    """
    torch.set_num_threads(workshop.threads)
    place = workshop.place(trial)
    with locked(place):  # a search may propose a setting twice at once
        result = workshop.found(trial)
        if result is None:
            result = _measure(workshop, trial, place, on_epoch)
            workshop.record(result)
    return result


def _measure(
    workshop: Workshop, trial: Trial, place: Path, on_epoch: Callable[[int, float], None] | None
) -> TrialResult:
    began, spent = time.perf_counter(), time.process_time()
    sweep, seed = workshop.sweep, trial.seed
    relu, reference = _start(workshop, trial.setting.network, seed)
    found = _material(sweep.data, workshop.data_root, seed, sweep.calibration_images)
    start = relu if sweep.training.start else fresh_network(trial.setting.network, found.data, seed)
    relu_accuracies = {word: reference.accuracy(relu, word) for word in (_VALIDATION, sweep.images)}
    done = 0

    def watch(epoch: Epoch, network: nn.Module) -> None:
        nonlocal done
        done = epoch.epoch
        if on_epoch is not None and epoch.epoch < sweep.training.epochs:
            on_epoch(epoch.epoch, _criterion_now(network, found, relu_accuracies[_VALIDATION], sweep))

    state, why, scores = TrialState.FINISHED, "", {}
    try:
        network = train_network(
            sweep.trained(trial),
            start,
            found.data,
            found.calibration,
            place,
            seed=seed,
            images=found.images,
            device=workshop.device,
            on_epoch=watch,
        )
        runner = _runner(workshop, found, place)
        for word, relu_accuracy in relu_accuracies.items():
            row = RecipeRow(word, sweep.training.name, (Run(Conversion(), sweep.at),), images=word)
            (run,) = runner.measure(row, network, sweep.training.name).runs
            snn = {entry.steps: entry.top1 for entry in run.report.rows}
            scores[word] = Scores(run.report.images, relu_accuracy, run.ann_top1, snn)
    except (TrainingError, CalibrationError, RangeError) as error:
        state, why, scores = TrialState.FAILED, " ".join([error.what, error.where]).strip(), {}
    return TrialResult(
        trial,
        state,
        why,
        epochs=sweep.training.epochs if scores else done,
        validation=scores.get(_VALIDATION),
        test=scores.get(sweep.images),
        seconds=time.perf_counter() - began,
        cpu_seconds=time.process_time() - spent,
        digest=workshop.key(trial),
    )


def _criterion_now(network: nn.Module, found: _Material, relu: float, sweep: Sweep) -> float:
    """The criterion on the validation part of a network that trains on."""
    network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)
    device = next(network.parameters()).device
    try:
        snn = convert(
            network, Conversion(), calibration=found.calibration, example_inputs=found.calibration[0][:4].to(device)
        )
        report = evaluate(snn, loader(found.data.validation), steps=sweep.criterion_steps)
    except TranspikeError:  # of a bad epoch; if the last is no better, the trial fails with the reason
        return WORST
    return selection_criterion(relu, report.ann_top1, report.row(sweep.criterion_steps).top1)
