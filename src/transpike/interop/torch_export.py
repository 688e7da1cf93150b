"""A network as a Python file that needs PyTorch alone, with its weights beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.errors import ExportError, VerificationError
from transpike.graph.capture import source_of
from transpike.graph.example_run import shapes_of
from transpike.graph.operators import leave_name, operator_name
from transpike.graph.walk import reference_tensor
from transpike.interop import torch_parts
from transpike.interop.python_text import text_block
from transpike.interop.refusals import Refusals, quantised
from transpike.interop.torch_code import Code
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import IF, Reset
from transpike.schedules import AccumulateThenFire, Plain
from transpike.serialization.json_records import check_output, write_atomically

_WEIGHTS = ".weights.safetensors"
"""What a file of weights ends in, which is not the ending of a network's own file."""
_SAMPLES = 4
_STEPS = 5


@dataclass(frozen=True)
class TorchExport:
    """What `to_torch` wrote.

    Attributes:
        code: the Python file.
        weights: the safetensors file.
        lines: number of lines of the Python file.
        samples: number of random samples on which it was compared with the network.
        differing: number of samples whose answers differ by more than 1e-4 of the largest, at any of 5 steps.
        difference: the largest difference, relative to the largest answer.
    """

    code: Path
    weights: Path
    lines: int
    samples: int
    differing: int
    difference: float

    def __str__(self) -> str:
        files = f"{self.code.name} ({self.lines} lines) and {self.weights.name}"
        return f"{files}: {self.differing} of {self.samples} samples differ, by at most {self.difference:.2g}"


def to_torch(snn: SpikingNetwork, path: str | Path) -> TorchExport:
    """Writes a network as a readable Python file that runs without transpike, and its weights as safetensors.

    The file holds the neurons in a few lines, a module with the layers of the source model, and a ``forward`` with one
    line for each operator: ``load()(x, steps=8)`` gives ``[T, N, *]`` as the network itself does. It needs PyTorch and
    safetensors. Before anything is written, the code is run on random inputs and compared with the network.

    Args:
        snn: a network under `transpike.schedules.Plain` or `transpike.schedules.AccumulateThenFire`, with
            integrate-and-fire neurons, in float32 or float64.
        path: ``NAME.py``, with ``NAME.weights.safetensors`` beside it; or a folder, for ``network.py`` and
            ``network.weights.safetensors`` in it. Existing files are replaced.

    Returns:
        What was written, and how it compares.

    Raises:
        ExportError: the network holds what has no text; nothing is written.
        VerificationError: the code computes something else than the network; nothing is written.
        OutputError: the path is no place for a file.
    """
    path = Path(path)
    code = check_output(path if path.suffix == ".py" else path / "network.py")
    weights = check_output(code.with_suffix(_WEIGHTS))
    refusals = Refusals(snn, "plain PyTorch")
    if snn.conversion.quantise is not None:
        raise ExportError([quantised("plain PyTorch")], refusals.target)
    _refuse(refusals)
    refusals.raise_if_any()
    example = [torch.zeros(2, *shape) for shape in snn.capture.input_shapes]
    reference = reference_tensor(snn.network)
    shapes = shapes_of(snn.network, [each.to(reference) for each in example])
    schedule = snn.schedule
    rho = schedule.probe_steps if isinstance(schedule, AccumulateThenFire) else None
    written = Code(snn, rho, {node.name: shape for node, shape in shapes.items()})
    text = _source(snn, written)
    for node, reason in written.unsupported:
        refusals.add(
            operator_name(node, written.modules),
            reason,
            "write it with operators and modules of torch in the model, or take tp.to_onnx",
            source_of(node),
            leave_name(node),
        )
    refusals.raise_if_any()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in written.tensors.items()}
    record = _checked(snn, text, tensors, code, weights)
    write_atomically(weights, lambda temporary: save_file(tensors, str(temporary)))
    write_atomically(code, lambda temporary: _write(temporary, text))
    return record


def _refuse(refusals: Refusals) -> None:
    refusals.schedule(
        refusals.snn.schedule,
        (Plain, AccumulateThenFire),
        "convert for one of these, or keep the network in transpike: tp.save",
    )
    accumulates = type(refusals.snn.schedule) is AccumulateThenFire
    refusals.neuron((Reset.SOFT,) if accumulates else (Reset.SOFT, Reset.HARD))
    refusals.function_sites()
    refusals.potentials_of_samples()
    refusals.biases_of_steps()
    refusals.precision((torch.float32, torch.float64))


def _source(snn: SpikingNetwork, written: Code) -> str:
    """The whole file."""
    inputs = [written.names[node.name] for node in snn.network.graph.find_nodes(op="placeholder")]
    forward = written.forward(inputs[: len(snn.capture.input_shapes)])
    biased = any(snn.site(site.name).bias.dim() for site in snn.sites)
    assert isinstance(snn.neuron, IF)
    if written.rho is None:
        neurons = torch_parts.neurons(bias=biased, soft=snn.neuron.reset is Reset.SOFT)
    else:
        neurons = torch_parts.accumulating_neurons(bias=biased)
    parts = neurons + torch_parts.pools(running=written.pooled, whole=written.reduced)
    if written.rho is not None:
        parts += torch_parts.running_mean()
    body = "\n".join([*written.made, "", *forward])
    double = ".double()" if reference_tensor(snn.network).dtype is torch.float64 else ""
    modules = {"import math": "math.", "import torch.nn.functional as F": "F."}
    used = {line: any(word in each for each in body.split() for word in [start]) for line, start in modules.items()}
    about = f'"""Spiking network with {snn.neuron} neurons and the schedule {snn.schedule}, written by transpike.'
    head = [
        *text_block(about.split(), 0),
        "",
        "    net = load()",
        f"    answers = net({', '.join(inputs[: len(snn.capture.input_shapes)])}, steps=8)",
        "",
        "Row t - 1 of the answers, [T, N, ...], is the mean answer of the first t steps.",
        '"""',
        "",
        *(["import math"] if used["import math"] else []),
        "from pathlib import Path",
        "",
        "import torch",
        *(["import torch.nn.functional as F"] if used["import torch.nn.functional as F"] else []),
        "from safetensors.torch import load_file",
        "from torch import nn",
        "",
    ]
    network = f'''
class Network(nn.Module):
    """The layers and neurons, in the names of the source model."""

    def __init__(self):
        super().__init__()
{body}
'''
    load = f'''
def load(path=None):
    """The network with its weights, by default those beside this file."""
    path = path or Path(__file__).with_suffix("{_WEIGHTS}")
    net = Network(){double}
    net.load_state_dict(load_file(path))
    return net.eval()
'''
    pieces = [piece.strip("\n") for piece in (*_split(parts), network, load)]
    return "\n".join(head) + "\n\n" + "\n\n\n".join(pieces) + "\n"


def _split(parts: str) -> list[str]:
    """The classes and functions of a text, one by one."""
    return [
        piece
        for piece in parts.replace("\nclass ", "\0class ").replace("\ndef ", "\0def ").split("\0")
        if piece.strip()
    ]


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _checked(snn: SpikingNetwork, text: str, tensors: Mapping[str, Tensor], code: Path, weights: Path) -> TorchExport:
    """Runs the code in memory: in float64, where it must give the same, and in the network's type, for the record."""
    namespace: dict[str, Any] = {"__name__": code.stem, "__file__": str(code)}
    exec(compile(text, str(code), "exec"), namespace)
    net: nn.Module = namespace["Network"]()
    dtype = reference_tensor(snn.network).dtype
    net = net.to(dtype)
    net.load_state_dict(dict(tensors))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.rand(_SAMPLES, *shape, generator=generator) for shape in snn.capture.input_shapes]
    exact = copy.deepcopy(snn).cpu().double()
    wrong, _ = _difference(exact, copy.deepcopy(net).double().eval(), [each.double() for each in inputs])
    if wrong > _SAMPLES // 4:  # a sum in another order may still move a spike
        raise VerificationError(
            f"the written code answers differently for {wrong} of {_SAMPLES} random samples",
            where=str(code),
            fix="report the model as a bug; tp.to_onnx is another way out",
        )
    same = copy.deepcopy(snn).cpu() if reference_tensor(snn.network).device.type != "cpu" else snn
    differing, difference = _difference(same, net.eval(), [each.to(dtype) for each in inputs])
    return TorchExport(code, weights, text.count("\n"), _SAMPLES, differing, difference)


def _difference(snn: SpikingNetwork, net: nn.Module, inputs: list[Tensor]) -> tuple[int, float]:
    """How many samples differ, and by how much at most, relative to the largest answer."""
    with torch.no_grad():
        ours, theirs = snn(*inputs, steps=_STEPS), net(*inputs, steps=_STEPS)
    pairs = list(zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True))
    pairs = [(a, b) for a, b in pairs if isinstance(a, Tensor)]
    largest = max(max(float(a.abs().max()) for a, _ in pairs), 1e-30)
    apart = torch.stack([(a - b).abs().transpose(0, 1).flatten(1).amax(1) for a, b in pairs]).amax(0) / largest
    return int((apart > 1e-4).sum()), float(apart.max())
