"""Environment of a run: machine, versions, commit and date, for every record of numbers."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch


@dataclass(frozen=True)
class Environment:
    """Where and when numbers were made.

    Attributes:
        cpu: model of the processor.
        cores: logical cores that the process may use.
        threads: threads of torch.
        accelerator: name of the first GPU, empty without one.
        python: version.
        torch: version.
        transpike: version.
        commit: of the checkout, with ``+changes`` where files differ from it; empty for an installed package.
        date: UTC, ISO 8601, to the second.
    """

    cpu: str
    cores: int
    threads: int
    accelerator: str
    python: str
    torch: str
    transpike: str
    commit: str
    date: str


def environment() -> Environment:
    """Describes this machine, the versions and the moment."""
    return Environment(
        cpu=processor_model(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        accelerator=torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        python=platform.python_version(),
        torch=str(torch.__version__),
        transpike=library_version(),
        commit=_commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def library_version() -> str:
    """The version of transpike that is installed."""
    try:
        return metadata.version("transpike")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def processor_model() -> str:
    """The name that Linux gives the processor, elsewhere the one that Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _commit() -> str:
    """The checked-out commit, if this file lies in a checkout of transpike."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
