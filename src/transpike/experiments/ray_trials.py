"""The trials of a sweep on Ray: one process per core, each of which runs one trial after another."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from transpike.errors import TrainingError, TranspikeError, count, needs_extra
from transpike.experiments.sweep import AXES, Search, Sweep, Trial
from transpike.experiments.sweep_record import TrialResult, TrialState
from transpike.experiments.trial import WORST, Workshop, run_trial, train_start
from transpike.serialization.environment import usable_cores
from transpike.training import torch_device

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the record says it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the program's
    "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # Ray's own state is not what a sweep goes on from
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
_TOKEN_MODE = "RAY_AUTH_MODE"
_TEMPORARY = "transpike-ray-"
_NOTE = Path("ray", "temporary")  # in the sweep's folder; names the temporary folder
_STORE_BYTES = 200_000_000


def check_ray(sweep: Sweep) -> None:
    """Makes sure that what a sweep needs is installed.

    Raises:
        MissingExtraError: it is not.
    """
    with _environment(), needs_extra("sweep", "a sweep"):
        import ray.tune

        if sweep.search is Search.OPTUNA:
            import optuna  # noqa: F401
    assert ray.tune


def run_trials(
    workshop: Workshop,
    results: Mapping[Trial, TrialResult],
    ended: Callable[[TrialResult], None],
    say: Callable[[str], None],
    *,
    address: str | None,
    gpus: float | None,
) -> None:
    """Runs what is not among ``results``.

    Args:
        workshop: what, where and with what.
        results: trials that ended; what ``ended`` gets is there afterwards.
        ended: called with each trial that ends.
        say: called with a line about each ReLU network.
        address: of a cluster, or None.
        gpus: per trial; None is one where trials run on a GPU.

    Raises:
        TrainingError: a ReLU network diverged, or trials were cut off.
        TranspikeError: data is missing on a machine, or the folder holds foreign files.
    """
    if gpus is None:
        gpus = 0.0 if torch_device(workshop.device) == "cpu" else 1.0
    resources = {"cpu": float(workshop.threads), "gpu": gpus}
    with _environment(), _ray(workshop.folder, address):
        _train_starts(workshop, resources, results, say)
        _tune(workshop, resources, results, ended)


def _train_starts(
    workshop: Workshop,
    resources: dict[str, float],
    results: Mapping[Trial, TrialResult],
    say: Callable[[str], None],
) -> None:
    """Trains the ReLU network of each network and seed that there are trials of, once."""
    import ray

    work = ray.remote(num_cpus=resources["cpu"], num_gpus=resources["gpu"], max_retries=0)(train_start)
    sweep = workshop.sweep
    left = [trial for trial in sweep.trials(sweep.grid()) if trial not in results]
    needed = dict.fromkeys((trial.setting.network, trial.seed) for trial in left)
    waiting = [work.remote(workshop, network, seed) for network, seed in needed]
    try:
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            say(ray.get(done))
    except ray.exceptions.RayTaskError as error:
        raise _own_error(error) from None


def _tune(
    workshop: Workshop,
    resources: dict[str, float],
    results: Mapping[Trial, TrialResult],
    ended: Callable[[TrialResult], None],
) -> None:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    sweep = workshop.sweep
    epochs = sweep.training.epochs * (len(sweep.seeds) if sweep.search is Search.OPTUNA else 1)
    scheduler = None
    if sweep.prune:
        grace = max(1, sweep.training.epochs // 4)
        scheduler = ASHAScheduler("epoch", max_t=epochs + 1, grace_period=grace, reduction_factor=2)
    settings: dict[str, Any] = {"scheduler": scheduler, "metric": "criterion", "mode": "min", "reuse_actors": True}
    if sweep.search is Search.OPTUNA:
        space, more = _proposals(sweep, results)
        settings |= more
    else:
        left = [index for index, trial in enumerate(sweep.trials()) if trial not in results]
        space = {"trial": tune.grid_search(left)}
    if settings.get("num_samples") == 0:
        return
    storage = workshop.folder / "ray"
    callback = _callback(workshop, results, ended)
    try:
        run_config = tune.RunConfig(name="tune", storage_path=str(storage), verbose=0, callbacks=[callback])
        trainable = tune.with_resources(tune.with_parameters(_ray_trial, workshop=workshop), resources)
        tuner = tune.Tuner(trainable, param_space=space, tune_config=tune.TuneConfig(**settings), run_config=run_config)
        grid = tuner.fit()
        if grid.errors:
            raise _own_error(grid.errors[0], len(grid.errors))
    finally:
        _remove(storage)


def _own_error(error: BaseException, trials: int = 0) -> TranspikeError:
    """What a worker raised, as an error of ours."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TranspikeError):
        return cause
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    what = f"{count(trials, 'trial')} did not end" if trials else "a ReLU network was not trained"
    return TrainingError(
        f"{what}: {lines[-1].strip() if lines else type(cause).__name__}",
        fix="mend this and start the same sweep again: it goes on with what did not end",
    )


def _trials(config: Mapping[str, Any], sweep: Sweep) -> list[Trial]:
    """The trials that one of Ray's stands for: one, or a proposed setting with all seeds."""
    if "trial" in config:
        return [sweep.trials()[config["trial"]]]
    sizes = [len(getattr(sweep, axis)) for axis in ("networks", *AXES)]
    place = 0
    for axis, size in zip(("networks", *AXES), sizes, strict=True):
        place = place * size + config[axis]
    return sweep.trials([sweep.grid()[place]])


def _ray_trial(config: dict[str, Any], workshop: Workshop) -> None:
    """What a worker does for one trial of Ray's."""
    from ray import tune

    trials = _trials(config, workshop.sweep)
    criteria: list[float] = []
    epochs = workshop.sweep.training.epochs
    for index, trial in enumerate(trials):

        def on_epoch(epoch: int, criterion: float, before: int = index * epochs) -> None:
            tune.report({"epoch": before + epoch, "criterion": criterion})

        result = run_trial(workshop, trial, on_epoch if workshop.sweep.prune else None)
        scores = result.validation
        criteria.append(WORST if scores is None else scores.criterion(workshop.sweep.criterion_steps))
    tune.report({"epoch": len(trials) * epochs, "criterion": sum(criteria) / len(criteria)})


def _proposals(sweep: Sweep, results: Mapping[Trial, TrialResult]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The space that Optuna proposes settings from, and the searcher, which knows what earlier sessions found."""
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    axes = ("networks", *AXES)
    space = {axis: tune.randint(0, len(getattr(sweep, axis))) for axis in axes}
    points, rewards, tried = [], [], 0
    grid = sweep.grid()
    for setting in dict.fromkeys(trial.setting for trial in results):
        found = [results.get(trial) for trial in sweep.trials([setting])]
        if any(result is not None and result.state is TrialState.PRUNED for result in found):
            tried += 1
        elif all(found):
            tried += 1
            scores = [None if result is None else result.validation for result in found]
            criteria = [WORST if score is None else score.criterion(sweep.criterion_steps) for score in scores]
            points.append(_point(sweep, grid.index(setting)))
            rewards.append(sum(criteria) / len(criteria))
    searcher = OptunaSearch(
        metric="criterion",
        mode="min",
        seed=sweep.seeds[0],
        points_to_evaluate=points or None,
        evaluated_rewards=rewards or None,
    )
    assert sweep.samples is not None
    return space, {"search_alg": searcher, "num_samples": max(0, sweep.samples - tried)}


def _point(sweep: Sweep, place: int) -> dict[str, int]:
    """The place of a setting on each axis, from its place in the grid."""
    found = {}
    for axis in reversed(("networks", *AXES)):
        place, found[axis] = divmod(place, len(getattr(sweep, axis)))
    return found


def _callback(workshop: Workshop, results: Mapping[Trial, TrialResult], ended: Callable[[TrialResult], None]) -> Any:
    """Tells what ended; a trial of Ray's that ended without a result was pruned."""
    from ray.tune import Callback

    class Ended(Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._look(trial, final=True)

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
        ) -> None:
            self._look(trial, final=False)

        def _look(self, trial: Any, *, final: bool) -> None:
            for own in _trials(trial.config, workshop.sweep):
                if own in results:
                    continue
                found = workshop.found(own)
                if found is None and final:
                    found = self._pruned(own, trial)
                    workshop.record(found)
                if found is None:
                    return
                ended(found)
                if found.state is TrialState.PRUNED:
                    return

        def _pruned(self, own: Trial, trial: Any) -> TrialResult:
            last, epochs = trial.last_result, workshop.sweep.training.epochs
            trained = last["epoch"] - epochs * ((last["epoch"] - 1) // epochs)
            why = f"after epoch {trained}, at criterion {last['criterion']:.2f}"
            seconds = float(last.get("time_total_s", 0.0))
            return TrialResult(own, TrialState.PRUNED, why, trained, None, None, seconds, seconds, workshop.key(own))

    return Ended()


@contextlib.contextmanager
def _environment(settings: Mapping[str, str] = _QUIET) -> Iterator[None]:
    """Environment variables for Ray, without its messages; all is as before afterwards."""
    before = {name: os.environ.get(name) for name in (*settings, _TOKEN_MODE)}  # Ray sets the mode itself
    os.environ.update(settings)
    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _token(temporary: Path) -> dict[str, str]:
    """Where the token lies without which nobody may use our Ray: Ray would write one into the user's home."""
    given = any(name in os.environ for name in (_TOKEN_MODE, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or (Path.home() / ".ray" / "auth_token").exists():
        return {}
    file = temporary / "token"  # in a folder that other users cannot read
    file.write_text(_token_of_process(), encoding="utf-8")
    return {"RAY_AUTH_TOKEN_PATH": str(file)}


@cache
def _token_of_process() -> str:
    return secrets.token_hex(32)  # one for all sessions: Ray reads it once in a process


@contextlib.contextmanager
def _ray(folder: Path, address: str | None) -> Iterator[None]:
    """Ray: the one that this process is connected to, a cluster, or one of our own, which ends with it."""
    import ray

    if ray.is_initialized():
        yield
        return
    if address is not None:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        try:
            yield
        finally:
            ray.shutdown()
        return
    note = folder / _NOTE
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY))  # not in the folder: paths of sockets must be short
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{temporary}\n", encoding="utf-8")
    try:
        with _environment(_token(temporary)):
            ray.init(
                num_cpus=usable_cores(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                object_store_memory=_STORE_BYTES,
                _temp_dir=str(temporary),
                _node_ip_address="127.0.0.1",  # nothing outside of this machine can reach it
            )
            yield
    finally:
        ray.shutdown()
        _remove_temporary(temporary)
        _remove(note.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed session left of its Ray."""
    note = folder / _NOTE
    if note.is_file():
        _remove_temporary(Path(note.read_text(encoding="utf-8").strip()))
    _remove(note.parent)


def _remove_temporary(path: Path) -> None:
    if path.name.startswith(_TEMPORARY) and path.parent == Path(tempfile.gettempdir()):
        _remove(path)


def _remove(folder: Path, seconds: float = 10.0) -> None:
    """Removes a folder into which processes of Ray that are about to end may still write."""
    until = time.monotonic() + seconds
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > until:
            return
        time.sleep(0.05)
