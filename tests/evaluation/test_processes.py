"""Two processes that share an evaluation or a training do what one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


def run(folder: Path, *, processes: int) -> list[dict[str, Any]]:
    """What every process found; the environment is that of ``torchrun``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found, running = [], []
    for rank in range(processes):
        shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank}
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": 0}
        environment = os.environ | {key: str(value) for key, value in (shared if processes > 1 else {}).items()}
        environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        own = folder / f"{processes}-{rank}"
        own.mkdir()
        command = [sys.executable, str(SCRIPT), str(own)]
        running.append((own, subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)))
    for own, process in running:
        _, error = process.communicate(timeout=500)
        assert process.returncode == 0, error[-3000:]
        found.append(json.loads((own / "found.json").read_text()))
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    first, second = run(folder, processes=2)
    (alone,) = run(folder, processes=1)
    return {"first": first, "second": second, "alone": alone}


@pytest.mark.parametrize("name", ["plain", "two passes", "poisson", "fewer batches than processes", "cached"])
def test_an_evaluation_is_shared(found: dict[str, dict[str, Any]], name: str) -> None:
    reports = {who: each["reports"][name] for who, each in found.items()}
    for report in reports.values():
        report.pop("seconds")
    assert reports["first"] == reports["alone"]
    assert reports["second"] == reports["alone"]
    assert reports["alone"]["images"] == {"fewer batches than processes": 4}.get(name, 26)


def test_every_image_is_run_once(found: dict[str, dict[str, Any]]) -> None:
    first, second, alone = (found[who]["seen"] for who in ("first", "second", "alone"))
    assert sorted(first + second) == sorted(alone)
    assert first
    assert second


def test_what_is_dealt_out_already_is_refused(found: dict[str, dict[str, Any]]) -> None:
    assert "DistributedSampler, which repeats" in found["first"]["refused"]
    assert found["alone"]["refused"] == ""


def test_batch_norm_over_time_ends_in_the_same_network_everywhere(found: dict[str, dict[str, Any]]) -> None:
    """Each process takes statistics of its own samples, so that one process alone learns something else."""
    first, second = (found[who]["tdbn"] for who in ("first", "second"))
    assert first["weights"] == second["weights"]
    assert first["history"] == second["history"]
    assert first["moved"] > 1e-4


@pytest.mark.parametrize("what", ["fit", "fit, a process without a sample", "fit_snn", "fit_snn, parts"])
def test_two_processes_learn_what_one_does(found: dict[str, dict[str, Any]], what: str) -> None:
    """Two epochs in float64, BatchNorm frozen; of the last batch, of three or one, the processes have unequal parts."""
    for who in ("first", "second"):
        for name, wanted in found["alone"][what]["weights"].items():
            assert found[who][what]["weights"][name] == pytest.approx(wanted, rel=1e-9, abs=1e-11), (who, name)
        assert found[who][what]["history"] == [pytest.approx(row) for row in found["alone"][what]["history"]]
    assert found["first"][what]["weights"] == found["second"][what]["weights"]
    assert found["alone"][what]["moved"] > 1e-4
