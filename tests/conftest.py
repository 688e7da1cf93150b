"""Shared fixtures, and the hypothesis profile: the same examples on every run, no time limit per example.

``TRANSPIKE_TEST_NATIVE`` names a file with compiled kernels to test instead of the installed ones (`make sanitize`),
``TRANSPIKE_TEST_THREADS`` how many threads to use.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

# toy networks: threads only cost time, and more on a shared machine
torch.set_num_threads(int(os.environ.get("TRANSPIKE_TEST_THREADS", "1")))
settings.register_profile("transpike", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("transpike")


def _use_native(file: Path) -> None:
    """Makes another build of the compiled kernels, one with sanitizers for example, the one that transpike loads."""
    name = "transpike.kernels._native"
    if name in sys.modules:
        raise pytest.UsageError(f"TRANSPIKE_TEST_NATIVE={file} comes too late, {name} is loaded already")
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise pytest.UsageError(f"TRANSPIKE_TEST_NATIVE={file} is no compiled module")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


if os.environ.get("TRANSPIKE_TEST_NATIVE"):
    _use_native(Path(os.environ["TRANSPIKE_TEST_NATIVE"]))


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
def qcfs_resnet20(pretrained: Path) -> torch.nn.Module:
    """Somebody else's ResNet-20 for CIFAR-10, fine-tuned with QCFS, L = 4: as a tailored network."""
    import transpike as tp  # not above: another build of the kernels may have to come first
    from transpike import zoo

    stored = torch.load(pretrained / "resnet20_cifar10_qcfs4.pt", weights_only=True)
    names = {"theta0": "relu@0.theta", "theta1": "relu@0.theta", "theta2": "relu@1.theta"}
    ann = tp.tailor(zoo.build("cifar-resnet20"), tp.activations.QCFS(4)).eval()
    weights = {}
    for key, value in stored.items():
        path, _, last = key.rpartition(".")
        renamed = names.get(last, last)
        weights[f"{path}.{renamed}" if path else renamed] = value.reshape(()) if last in names else value
    ann.load_state_dict(weights)
    return ann


@pytest.fixture(scope="session")
def released_code() -> dict[str, np.ndarray]:
    """What the papers' released code computes, see fixtures/README.md."""
    with np.load(Path(__file__).parent / "fixtures" / "released_code_core.npz", allow_pickle=False) as stored:
        return dict(stored)
