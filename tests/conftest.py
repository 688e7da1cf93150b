"""Shared fixtures, and the hypothesis profile: the same examples on every run, no time limit per example."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # toy networks; threads only cost time, and more on a shared machine
settings.register_profile("transpike", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("transpike")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return Path(value)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the real data sets."""
    return _folder("TRANSPIKE_DATA")


@pytest.fixture(scope="session")
def pretrained() -> Path:
    """The folder that holds pretrained weights."""
    return _folder("TRANSPIKE_PRETRAINED")


@pytest.fixture(scope="session")
def released_code() -> dict[str, np.ndarray]:
    """What the papers' released code computes, see fixtures/README.md."""
    with np.load(Path(__file__).parent / "fixtures" / "released_code_core.npz", allow_pickle=False) as stored:
        return dict(stored)
