"""Sweeps over the digits that really train, on Ray; killed ones go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sweeps import small_sweep

import transpike as tp
from transpike.errors import DataError, MissingExtraError, OutputError
from transpike.experiments import ray_trials
from transpike.experiments.recipe import Training
from transpike.experiments.sweep import Search, Sweep
from transpike.experiments.sweep_record import SweepRecord, TrialState, read_sweep
from transpike.experiments.sweep_runner import run_sweep
from transpike.experiments.trial import Workshop, digest_sweep_data, run_trial
from transpike.serialization.folder_lock import locked
from transpike.serialization.json_records import to_json

COMMAND = "digits-resnet --levels 1,2 --slopes 0.2,0.5 --relu-epochs 2 --epochs 2 --at 1,4 --calibration-images 200"


def _workshop(sweep: Sweep, folder: Path) -> Workshop:
    return Workshop(sweep, folder, None, digest_sweep_data(sweep, None))


def _numbers(record: SweepRecord) -> Any:
    """All but times, environment and what says so."""
    return [to_json(replace(result, seconds=0.0, cpu_seconds=0.0)) for result in record.results]


def _command(folder: Path) -> list[str]:
    return [sys.executable, "-m", "transpike.cli", "sweep", *COMMAND.split(), "-o", str(folder)]


def _start(folder: Path, log: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own, as a shell starts it."""
    home = os.environ | {"HOME": str(folder.parent / "home")}
    with log.open("wb") as stream:
        return subprocess.Popen(
            _command(folder), start_new_session=True, stdout=stream, stderr=subprocess.STDOUT, env=home
        )


def _wait_for_trials(folder: Path, least: int, process: subprocess.Popen[bytes], log: Path) -> dict[Path, int]:
    for _ in range(3000):
        found = {file: file.stat().st_mtime_ns for file in folder.glob("trials/*/trial.json")}
        if len(found) >= least:
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _processes_of(temporary: str) -> list[str]:
    """Living processes that name Ray's folder or have a file open there: some of Ray's change their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = [(entry / "cmdline").read_text(errors="replace")] if entry.name.isdecimal() else []
            words += [os.readlink(link) for link in (entry / "fd").iterdir()] if words else []
        except OSError:  # gone, or another user's
            continue
        found += [words[0]] if any(temporary in word for word in words) else []
    return found


def _all_gone(temporary: str) -> bool:
    """Waits for Ray's agents, which look once in a while whether what started them is there."""
    for _ in range(1800):
        if not _processes_of(temporary):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_interrupted_and_a_killed_sweep_go_on_without_repeating_a_trial(tmp_path: Path):
    whole = run_sweep(small_sweep(), tmp_path / "whole")
    assert [result.state for result in whole.results] == [TrialState.FINISHED] * 4

    folder, log = tmp_path / "killed", tmp_path / "log"
    (tmp_path / "home").mkdir()
    process = _start(folder, log)
    first = _wait_for_trials(folder, 1, process, log)
    temporary = (folder / "ray" / "temporary").read_text().strip()
    assert _processes_of(temporary)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) == 130, log.read_text()
    assert "goes on when the same command is started again" in " ".join(log.read_text().split())
    assert "Traceback" not in log.read_text()
    assert _all_gone(temporary)
    assert not Path(temporary).exists()
    assert not (folder / "ray").exists()

    first |= {file: file.stat().st_mtime_ns for file in folder.glob("trials/*/trial.json")}
    if len(first) < 4:
        process = _start(folder, log)
        first |= _wait_for_trials(folder, len(first) + 1, process, log)
        temporary = (folder / "ray" / "temporary").read_text().strip()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(120)
        assert _all_gone(temporary)

    done = subprocess.run(_command(folder), capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in first} == first, "a finished trial was run again"
    assert not Path(temporary).exists(), "what the killed session left"
    record = read_sweep(folder)
    assert record.finished
    assert _numbers(record) == _numbers(whole)
    assert not (tmp_path / "home" / ".ray").exists(), "Ray wrote into the user's home"
    names = {entry.name for entry in folder.iterdir()}
    assert names == {".lock", "sweep.json", "relu", "trials", "accuracy.png", "criterion.png"}


def test_a_trial_is_trained_from_its_relu_network_and_measured_on_both_parts(tmp_path: Path):
    sweep = small_sweep(levels=(2,), slopes=(0.5,))
    (trial,) = sweep.trials()
    workshop = _workshop(sweep, tmp_path)
    result = run_trial(workshop, trial)

    data = tp.data.digits(seed=0)
    network = tp.load_ann(workshop.place(trial) / "slip.safetensors")
    relu = tp.load_ann(tmp_path / "relu" / "digits-resnet-seed0" / "relu.safetensors")
    calibration = [images for images, _ in tp.data.loader(data.calibration)]
    snn = tp.convert(network, tp.Conversion(), calibration=calibration, example_inputs=calibration[0][:4])
    for scores, part in ((result.validation, data.validation), (result.test, data.test)):
        images, labels = (torch.stack([torch.as_tensor(pair[k]) for pair in part]) for k in (0, 1))  # type: ignore[attr-defined]
        with torch.no_grad():
            wanted = [100 * float((net(images).argmax(1) == labels).double().mean()) for net in (relu, network)]
            answers = snn(images, steps=4)
        assert scores is not None
        assert (scores.images, scores.relu, scores.ann) == (len(labels), *(pytest.approx(w) for w in wanted))
        for t in (1, 4):
            share = 100 * float((answers[t - 1].argmax(1) == labels).double().mean())
            assert scores.snn[t] == pytest.approx(share)

    start = torch.nn.utils.parameters_to_vector(relu.parameters())
    assert run_trial(workshop, trial) == result  # read, not run
    assert len(start) + 19 == len(torch.nn.utils.parameters_to_vector(network.parameters()))  # one theta at every site


def test_from_scratch_is_another_network(tmp_path: Path):
    tuned = small_sweep(levels=(2,), slopes=(0.5,))
    fresh = replace(tuned, training=replace(tuned.training, start=None))
    found = []
    for sweep in (tuned, fresh):
        workshop, (trial, *_) = _workshop(sweep, tmp_path), sweep.trials()
        result = run_trial(workshop, trial)
        weights = torch.nn.utils.parameters_to_vector(
            tp.load_ann(workshop.place(trial) / "slip.safetensors").parameters()
        )
        assert result.validation is not None
        found.append((weights, result.validation.relu))
    assert found[0][1] == found[1][1]  # of the same ReLU network
    assert (found[0][0] - found[1][0]).norm() > 0.1 * found[0][0].norm()


def test_a_trial_that_diverges_is_a_result(tmp_path: Path):
    sweep = small_sweep(levels=(2,), slopes=(0.2, 0.5), training=Training("slip", 2, 1e30, start="relu"))
    record = run_sweep(sweep, tmp_path)
    assert record.finished
    assert [result.state for result in record.results] == [TrialState.FAILED] * 2
    assert all("the loss became" in result.reason or "infinite" in result.reason for result in record.results)
    assert record.results[0].validation is None
    assert record.cells == []
    # A finished record whose trials are gone is made again; what was there is not lost on the way.
    shutil.rmtree(tmp_path / "trials")
    again = run_sweep(sweep, tmp_path)
    assert again.finished
    assert [(r.trial, r.state) for r in again.results] == [(r.trial, r.state) for r in record.results]


def test_a_sweep_killed_behind_its_last_trial_is_finished_by_the_next_session(tmp_path: Path):
    sweep = small_sweep(levels=(2,), slopes=(0.5,))
    whole = run_sweep(sweep, tmp_path)
    file, (trial,) = tmp_path / "sweep.json", tmp_path.glob("trials/*/trial.json")
    before = trial.stat().st_mtime_ns
    file.write_text(json.dumps(json.loads(file.read_text()) | {"finished": False}))
    assert run_sweep(sweep, tmp_path).finished
    assert read_sweep(tmp_path).finished
    assert read_sweep(tmp_path).results == whole.results
    assert trial.stat().st_mtime_ns == before


def test_a_relu_network_that_diverges_ends_the_sweep(tmp_path: Path):
    sweep = small_sweep(levels=(2,), slopes=(0.2,), relu=Training("relu", 2, 1e30))
    with pytest.raises(tp.errors.TrainingError, match=r"loss became|infinite"):
        run_sweep(sweep, tmp_path)


def test_pruning_stops_trials_whose_criterion_is_worse(tmp_path: Path):
    training = Training("slip", 4, 0.05, start="relu")
    sweep = small_sweep(levels=(1, 2, 8), slopes=(0.2, 0.9), training=training, prune=True)
    lines: list[str] = []
    record = run_sweep(sweep, tmp_path, say=lines.append)
    states = [result.state for result in record.results]
    assert len(states) == 6
    assert TrialState.PRUNED in states
    assert TrialState.FINISHED in states
    for result in record.results:
        assert (result.epochs < 4) == (result.state is TrialState.PRUNED)
        assert result.reason.startswith("after epoch") == (result.state is TrialState.PRUNED)
    assert sum("pruned" in line for line in lines) == states.count(TrialState.PRUNED)
    assert run_sweep(sweep, tmp_path).results == record.results  # pruned ones are not run again


def test_optuna_proposes_settings_of_the_grid(tmp_path: Path):
    sweep = small_sweep(levels=(1, 2, 4, 8), seeds=(0, 1), search=Search.OPTUNA, samples=2)
    record = run_sweep(sweep, tmp_path)
    assert record.finished
    assert {trial.trial.setting for trial in record.results} <= set(sweep.grid())
    assert len(record.cells) in (1, 2)  # it may propose one twice
    assert len(record.results) == 2 * len(record.cells)


def test_places_on_the_axes_and_in_the_grid_are_the_same():
    sweep = small_sweep(levels=(1, 2, 4), slopes=(0.0, 0.5), shifts=(0.0, 0.25, 0.5), seeds=(3,))
    for place, setting in enumerate(sweep.grid()):
        point = ray_trials._point(sweep, place)
        a = setting.activation
        assert sweep.levels[point["levels"]] == a.levels
        assert sweep.slopes[point["slopes"]] == a.slope
        assert sweep.shifts[point["shifts"]] == a.shift
        assert [trial.setting for trial in ray_trials._trials(point, sweep)] == [setting]


def test_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sweep = small_sweep(levels=(2,), slopes=(0.5,))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "sweep.json").write_text("mine")
    with pytest.raises(DataError, match="no record that transpike wrote"):
        run_sweep(sweep, tmp_path / "foreign")
    assert (tmp_path / "foreign" / "sweep.json").read_text() == "mine"

    monkeypatch.setattr("transpike.experiments.sweep_runner.run_trials", lambda *args, **settings: None)
    run_sweep(sweep, tmp_path / "own")
    with pytest.raises(DataError, match=r"levels was \[2\], and is \[4\]"):
        run_sweep(replace(sweep, levels=(4,)), tmp_path / "own")
    stored = json.loads((tmp_path / "own" / "sweep.json").read_text())
    (tmp_path / "own" / "sweep.json").write_text(json.dumps(stored | {"data_digest": "other"}))
    with pytest.raises(DataError, match="other data"):
        run_sweep(sweep, tmp_path / "own")
    with locked(tmp_path / "new"), pytest.raises(OutputError, match="another process works"):
        run_sweep(sweep, tmp_path / "new")


def test_without_ray_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "ray.tune", None)
    with pytest.raises(MissingExtraError, match=r"transpike\[sweep\]"):
        run_sweep(small_sweep(), tmp_path)
    assert list(tmp_path.iterdir()) == []
