"""Compares an ONNX file with the network that it was written from, in ONNX Runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.errors import MissingExtraError
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF
from transpike.runtime.step import State

CHECKED = 8
"""Steps that a step file is checked for."""


@dataclass(frozen=True)
class OnnxCheck:
    """How a file's answers differ from the network's, on some samples.

    Attributes:
        samples: number of samples.
        steps: T.
        difference: the largest difference of an answer at any step, relative to the largest answer.
        potentials: number of potentials that were compared, after each step; 0 for the quantised forms.
        apart: how many of these lie at least half a threshold apart: so many neurons have sent another number of
            spikes.
        differing: number of samples with an answer that differs by more than 1e-4 of the largest.
    """

    samples: int
    steps: int
    difference: float
    potentials: int
    apart: int
    differing: int

    def __str__(self) -> str:
        text = f"in ONNX Runtime {self.differing} of {self.samples} samples differ, by at most {self.difference:.2g}"
        return text + (f"; {self.apart} of {self.potentials} potentials by a spike" if self.potentials else "")


def has_onnxruntime() -> bool:
    """Whether ONNX Runtime is installed."""
    return importlib.util.find_spec("onnxruntime") is not None


def open_session(path: Path) -> Any:
    """A session of ONNX Runtime on the CPU.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"checking ONNX files needs {error.name}, which is not installed",
            fix="pip install onnxruntime, or pass check=False",
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_step(
    snn: SpikingNetwork, path: Path, inputs: Sequence[Tensor], answers: int, state: Sequence[str]
) -> OnnxCheck:
    """Runs a step file and the network side by side.

    Args:
        snn: the network.
        path: the file.
        inputs: a batch for every argument.
        answers: number of answers.
        state: names of the state, ``steps`` first.
    """
    session = open_session(path)
    names = [each.name for each in session.get_inputs()]
    feed = {name: value.detach().numpy() for name, value in zip(names, inputs, strict=False)}
    batch = len(inputs[0])
    for each in session.get_inputs()[len(inputs) :]:
        kind = np.int64 if each.name == "steps" else next(iter(feed.values())).dtype
        feed[each.name] = np.zeros([batch, *each.shape[1:]] if each.shape else (), kind)
    thetas = {f"v.{site.name}": snn.site(site.name).theta.detach() for site in snn.sites if type(snn.neuron) is IF}
    ours: State | None = None
    differences, largest, apart, potentials = [], 0.0, 0, 0
    for _ in range(CHECKED):
        with torch.no_grad():
            answer, ours = snn.step(tuple(inputs), ours)
        found = session.run(None, feed)
        difference, size = _difference(answer, found[:answers])
        differences.append(difference)
        largest = max(largest, size)
        feed |= dict(zip(state, found[answers:], strict=False))
        for name, potential in zip(state[1:], pytree.tree_leaves(ours.memory), strict=True):
            if name in thetas:
                apart += int(((potential - torch.from_numpy(feed[name])).abs() >= thetas[name] / 2).sum())
                potentials += potential.numel()
    return _summary(torch.stack(differences).amax(0), largest, CHECKED, potentials, apart)


def check_quantised(snn: SpikingNetwork, path: Path, inputs: Sequence[Tensor], steps: int) -> OnnxCheck:
    """Compares a quantised file with the network's answer after T = rho steps."""
    session = open_session(path)
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, {name: value.detach().numpy() for name, value in zip(names, inputs, strict=True)})
    with torch.no_grad():
        answer = snn(*inputs, steps=steps)
    last = pytree.tree_map_only(Tensor, lambda rows: rows[steps - 1], answer)
    return _summary(*_difference(last, found), steps, 0, 0)


def _difference(answer: Any, found: Sequence[Any]) -> tuple[Tensor, float]:
    """The largest difference of each sample's answers, and the largest answer."""
    wanted = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]
    pairs = list(zip(wanted, map(torch.from_numpy, found), strict=True))
    differences = torch.stack([(ours - theirs).abs().flatten(1).amax(1) for ours, theirs in pairs]).amax(0)
    return differences, max(float(ours.abs().max()) for ours, _ in pairs)


def _summary(differences: Tensor, largest: float, steps: int, potentials: int, apart: int) -> OnnxCheck:
    relative = differences / max(largest, torch.finfo(differences.dtype).tiny)
    return OnnxCheck(len(differences), steps, float(relative.max()), potentials, apart, int((relative > 1e-4).sum()))
