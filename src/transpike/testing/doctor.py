"""What is installed, what is not and how to mend it, and a short test of the compiled kernels on this machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from transpike.conversion.convert import convert
from transpike.data import ROOT_VARIABLE
from transpike.kernels import KernelPreference, native
from transpike.network.spiking import SpikingNetwork
from transpike.rules import Conversion, Maximum
from transpike.schedules import OffsetSpike, Plain, Schedule
from transpike.serialization.environment import processor_model, usable_cores
from transpike.testing import TOPOLOGIES, record, set_dyadic_thresholds
from transpike.zoo import WEIGHTS_VARIABLE

_NEEDED = ("torch", "numpy", "safetensors", "typer", "rich")
_EXTRAS = {
    "lightning": "transpike[train]",
    "matplotlib": "transpike[plots]",
    "plotly": "transpike[plots]",
    "pandas": "transpike[plots]",
    "torchvision": "transpike[vision]",
    "scikit-learn": "transpike[vision]",
    "onnx": "transpike[onnx]",
    "onnx2torch": "transpike[onnx]",
    "onnxscript": "transpike[onnx]",
    "nir": "transpike[nir]",
    "timm": "timm",
    "onnxruntime": "onnxruntime",
    "spikingjelly": "spikingjelly",
}
_DATA_SETS = {
    "cifar10": ("cifar-10-batches-py", "cifar10"),
    "cifar100": ("cifar-100-python", "cifar100"),
    "imagenet or folder": ("train",),
}
_WEIGHTS = (".safetensors", ".pt", ".pth", ".th")
_REBUILD = native.REBUILD
# A multilayer perceptron, a residual network with padded shortcuts, depthwise convolutions.
_TESTED = ("mlp", "pad_and_slice", "depthwise_relu6")
_SCHEDULES: tuple[Schedule, ...] = (Plain(), OffsetSpike(4))
_STEPS = 8


class Status(Enum):
    """``BROKEN`` is what transpike needs and does not have; ``ABSENT`` is only good to have."""

    OK = "ok"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: what it belongs to, for example ``"versions"``.
        name: what was looked at.
        status: whether it is there.
        value: what was found, or why it is not there.
        fix: what to do, empty where nothing is to be done.
    """

    topic: str
    name: str
    status: Status
    value: str
    fix: str = ""

    def __post_init__(self) -> None:
        if not (self.topic and self.name and self.value):
            raise ValueError(f"topic, name and value must not be empty, got {self}")
        if self.status is Status.BROKEN and not self.fix:
            raise ValueError(f"what is broken needs a fix, got {self}")


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at, topic by topic."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is broken."""
        return all(finding.status is not Status.BROKEN for finding in self.findings)


def diagnose() -> Diagnosis:
    """Looks at versions, processor, kernels, data folders and optional packages, and runs the self test (seconds)."""
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _versions,
        _processor,
        _kernels,
        _accelerators,
        _folders,
        _optional,
    )
    findings = [finding for look in looks for finding in look()]
    return Diagnosis((*findings, self_test()))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "transpike", Status.OK, metadata.version("transpike"))
    yield Finding("versions", "Python", Status.OK, f"{platform.python_version()} ({sys.executable})")
    yield from _packages("versions", dict(zip(_NEEDED, _NEEDED, strict=True)), Status.BROKEN)


def _processor() -> Iterator[Finding]:
    usable = usable_cores()
    yield Finding("processor", "model", Status.OK, processor_model())
    yield Finding("processor", "logical cores", Status.OK, f"{os.cpu_count()}, usable by this process: {usable}")
    threads = torch.get_num_threads()
    fix = "" if threads <= usable else "set OMP_NUM_THREADS, or call torch.set_num_threads"
    yield Finding("processor", "threads of torch", Status.OK, str(threads), fix)


def _kernels() -> Iterator[Finding]:
    module, reason = native.load()
    if module is None:
        yield Finding("native kernels", "module", Status.ABSENT, f"torch operators run instead: {reason}", _REBUILD)
        return
    yield Finding("native kernels", "module", Status.OK, str(module.__file__))
    try:
        others = [name for name in module.instruction_sets() if name != module.instruction_set()]
        widths = f"{module.instruction_set()} (also there: {', '.join(others) or 'none'})"
        threads = int(module.threads())
    except AttributeError as error:
        yield Finding("native kernels", "build", Status.BROKEN, f"of another version: {error}", _REBUILD)
        return
    yield Finding("native kernels", "instruction set", Status.OK, widths)
    yield Finding("native kernels", "threads", Status.OK, str(threads))


def _accelerators() -> Iterator[Finding]:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("accelerators", "CUDA", Status.OK, ", ".join(names))
    elif torch.version.cuda is None and torch.version.hip is None:
        fix = "with an NVIDIA GPU: install a build of torch with CUDA, see pytorch.org"
        yield Finding("accelerators", "CUDA", Status.ABSENT, "this build of torch has none", fix)
    else:
        value = f"torch is built for {torch.version.cuda or torch.version.hip}, but finds no GPU or no driver"
        yield Finding("accelerators", "CUDA", Status.ABSENT, value, "with a GPU: install its driver")
    if torch.backends.mps.is_available():
        yield Finding("accelerators", "MPS", Status.OK, "available")
    else:
        yield Finding("accelerators", "MPS", Status.ABSENT, "only on Macs with Apple's processors")


def _folders() -> Iterator[Finding]:
    yield _folder(ROOT_VARIABLE, "data sets", _data_sets)
    yield _folder(WEIGHTS_VARIABLE, "pretrained weights", _weights)


def _folder(variable: str, content: str, look: Callable[[Path], list[str]]) -> Finding:
    value = os.environ.get(variable)
    if not value:
        return Finding("folders", variable, Status.ABSENT, "not set", f"export {variable}=FOLDER with {content}")
    path = Path(value)
    if not path.is_dir():
        return Finding(
            "folders", variable, Status.ABSENT, f"{value} is no folder", f"set {variable} to one that exists"
        )
    found = look(path)
    if not found:
        return Finding("folders", variable, Status.ABSENT, f"{value} holds no {content}", f"put {content} into it")
    return Finding("folders", variable, Status.OK, f"{value}: {', '.join(found)}")


def _data_sets(folder: Path) -> list[str]:
    return [name for name, parts in _DATA_SETS.items() if any((folder / part).is_dir() for part in parts)]


def _weights(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in _WEIGHTS)


def _optional() -> Iterator[Finding]:
    yield from _packages("optional packages", _EXTRAS, Status.ABSENT)


def _packages(topic: str, packages: Mapping[str, str], missing: Status) -> Iterator[Finding]:
    for package, source in packages.items():
        found = _version(package)
        if found is None:
            yield Finding(topic, package, missing, "not installed", f"pip install '{source}'")
        else:
            yield Finding(topic, package, Status.OK, found)


def self_test() -> Finding:
    """Compares the compiled kernels with the reference on small networks whose sums are exact, spike for spike.

    The kernels of single populations are compared event by event; the event-driven engine, which does not show its
    currents, by the spikes of every site and step and by the answer.
    """
    topic, name = "self test", "native against reference"
    if native.load()[0] is None:
        return Finding(topic, name, Status.ABSENT, "not run, there are no native kernels", _REBUILD)
    spikes = 0
    try:
        for topology in TOPOLOGIES:
            if topology.name not in _TESTED:
                continue
            inputs = topology.dyadic_inputs(4)
            snn = convert(topology.dyadic_model(), Conversion(Maximum()), calibration=[inputs], example_inputs=inputs)
            set_dyadic_thresholds(snn)
            for schedule in _SCHEDULES:
                spikes += _compare(snn, inputs, schedule, f"{topology.name} under {schedule}")
    except Exception as error:  # whatever it is, it is the diagnosis
        return Finding(topic, name, Status.BROKEN, f"{type(error).__name__}: {error}", _REBUILD)
    value = f"{len(_TESTED)} networks, {len(_SCHEDULES)} schedules: all {spikes:,} spikes and all answers are the same"
    return Finding(topic, name, Status.OK, value)


def _compare(snn: SpikingNetwork, inputs: tuple[Tensor, ...], schedule: Schedule, what: str) -> int:
    """Number of spikes compared.

    Raises:
        RuntimeError: they differ, there are none, or the network does not run event by event.
    """
    with torch.no_grad():
        dense = record(snn, *inputs, steps=_STEPS, schedule=schedule, kernel=KernelPreference.NATIVE)
        wanted = record(snn, *inputs, steps=_STEPS, schedule=schedule, kernel=KernelPreference.REFERENCE)
        for stage in snn.engine.report(schedule).values():
            if not stage.events:
                raise RuntimeError(f"{what}, site {stage.site}: does not run event by event: {stage.reason}")
        counts: dict[str, Tensor] = {}
        answer = snn(*inputs, steps=_STEPS, schedule=schedule, count=lambda site, n: counts.update({site: n}))
    spikes = 0
    for site, events in wanted.events.items():
        flipped = int((dense.events[site] != events).sum())
        if flipped:
            raise RuntimeError(f"{what}, site {site}: {flipped} of {events.numel()} events differ")
        number = events.flatten(1).sum(1).long()
        if not torch.equal(counts[site], number):
            found = f"{counts[site].tolist()} spikes in the steps instead of {number.tolist()}"
            raise RuntimeError(f"{what}, site {site}: the event-driven engine sends {found}")
        spikes += int(number.sum())
    if not spikes:
        raise RuntimeError(f"{what} never spikes")
    if not (torch.equal(answer, wanted.answer) and torch.equal(dense.answer, wanted.answer)):
        raise RuntimeError(f"{what}: the answers differ")
    return spikes
