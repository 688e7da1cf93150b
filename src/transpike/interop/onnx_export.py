"""ONNX files of a network: one time-step with its state, or the quantised network that it equals."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from transpike.errors import ConfigError, ExportError, UnsupportedOperator, known_words, needs_extra
from transpike.graph.example_run import Inputs, check_run, first_line, inputs_from
from transpike.graph.walk import reference_tensor
from transpike.interop.onnx_check import OnnxCheck, check_quantised, check_step, has_onnxruntime
from transpike.interop.onnx_quantised import QuantisedModule, refuse_quantised
from transpike.interop.onnx_step import StepModule
from transpike.interop.refusals import Refusals
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import AccumulateThenFire, Plain
from transpike.serialization.json_records import check_output, write_atomically

Form = Literal["step", "quantised", "staircase"]
FORMS = ("step", "quantised", "staircase")
OPSET = 20
"""The version of ONNX's operators that files are written in."""
OLDEST = 18
"""The oldest version that ``torch.onnx.export`` writes."""

_BATCH = 8
_LARGEST = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file, which is one Protocol Buffers message."""
_FIX = "write the operator in another way in the model; tp.to_torch is another way out"


@dataclass(frozen=True)
class OnnxExport:
    """What `to_onnx` wrote.

    Attributes:
        path: the file.
        form: ``step``, ``quantised`` or ``staircase``.
        opset: the version of its operators.
        inputs: names of the model's arguments.
        state: names of the state's tensors, ``steps`` first; what goes on as NAME comes out as ``NAME.next``.
        answers: names of the answers.
        events: names of the sites' events, where they are put out.
        steps: T of the quantised forms, else 0.
        check: how it compares with the network in ONNX Runtime; None where that was not run.
    """

    path: Path
    form: str
    opset: int
    inputs: tuple[str, ...]
    state: tuple[str, ...]
    answers: tuple[str, ...]
    events: tuple[str, ...]
    steps: int
    check: OnnxCheck | None = None

    def __str__(self) -> str:
        text = f"{self.path.name}: {self.form}, opset {self.opset}"
        return text if self.check is None else f"{text}; {self.check}"


def to_onnx(
    snn: SpikingNetwork,
    path: str | Path,
    form: Form = "step",
    *,
    example_inputs: Inputs | None = None,
    events: bool = False,
    opset: int = OPSET,
    check: bool | None = None,
) -> OnnxExport:
    """Writes a network as an ONNX file; the batch size stays open.

    ``step`` is one time-step of a network under `transpike.schedules.Plain`. Inputs are the model's arguments,
    ``steps`` (the number of steps made) and the state, ``v.SITE`` for potentials and ``sum.NAME`` for running sums;
    outputs are the mean answer so far and the new state, as ``NAME.next``. A run begins with zeros for all of it: at
    ``steps`` 0 neurons take their initial potentials, which are in the file.

    ``quantised`` is the quantised ANN whose answer a network under `transpike.schedules.AccumulateThenFire` gives
    after rho steps: at each site ``theta / rho * clip(floor((rho x + v_init) / theta), 0, rho)`` of the mean drive x,
    as QuantizeLinear and DequantizeLinear with uint8 and zero point 0, rho at most 255. QuantizeLinear rounds one half
    to the even number, the neurons round it up, so that counts at exactly one half may differ by one.

    ``staircase`` is the same with Floor and Clip, which rounds as the neurons do.

    Args:
        snn: the network, on the CPU.
        path: the file; an existing one is replaced once the new one is complete.
        form: what to write.
        example_inputs: a batch to trace and check with; None for random numbers.
        events: for ``step``, whether the events of every site are outputs, too, as ``events.SITE``.
        opset: version of ONNX's operators, at least 18
        check: whether the file is compared with the network in ONNX Runtime; None where it is installed.

    Returns:
        What was written, and how it compares.

    Raises:
        ExportError: the network holds what the form does not have; nothing is written.
        MissingExtraError: onnx or onnxscript are not installed, or onnxruntime, where ``check`` asks for it.
        OutputError: the path is no place for a file.
    """
    if form not in FORMS:
        raise ConfigError(f"there is no ONNX form {form!r}", where="form", fix=known_words(str(form), FORMS))
    if opset < OLDEST:
        raise ConfigError(f"opset {opset} is too old", where="opset", fix=f"take {OLDEST} or newer")
    with needs_extra("onnx", "writing ONNX files"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    path = check_output(Path(path))
    inputs = _examples(snn, example_inputs)
    refusals = Refusals(snn, f"ONNX ({form})")
    if form == "step":
        way = "convert with schedule=tp.schedules.Plain(), or write form='quantised' of an accumulate network"
        refusals.schedule(snn.schedule, (Plain,), way)
        refusals.potentials_of_samples()
    else:
        refuse_quantised(refusals, form)
    refusals.off_the_cpu()
    refusals.precision((torch.float32,) if form == "quantised" else (torch.float32, torch.float64))
    refusals.size(_LARGEST)
    refusals.raise_if_any()
    record, module, example = _prepared(snn, path, form, inputs, events, opset)
    outputs = [*record.answers, *(f"{name}.next" for name in record.state), *record.events]
    model = _exported(module, example, [*record.inputs, *record.state], outputs, opset)
    _describe(model, snn, record)
    write_atomically(path, lambda temporary: _write(model, temporary))
    if check or (check is None and has_onnxruntime()):
        record = replace(record, check=check_onnx(snn, record, inputs))
    return record


def check_onnx(snn: SpikingNetwork, record: OnnxExport, inputs: Sequence[Tensor]) -> OnnxCheck:
    """Compares a file with its network on some samples, in ONNX Runtime.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    if record.form == "step":
        return check_step(snn, record.path, inputs, len(record.answers), record.state)
    return check_quantised(snn, record.path, inputs, record.steps)


def _examples(snn: SpikingNetwork, given: Inputs | None) -> tuple[Tensor, ...]:
    """A batch of at least two samples: ``torch.export`` takes a size of one for a constant."""
    if given is None:
        reference = reference_tensor(snn.network)
        generator = torch.Generator().manual_seed(0)
        return tuple(
            torch.rand(_BATCH, *shape, generator=generator).to(reference) for shape in snn.capture.input_shapes
        )
    inputs = inputs_from(given)
    check_run(snn.network, inputs, reference_tensor(snn.network), "to_onnx")
    return tuple(torch.cat([each, each]) if len(each) == 1 else each for each in inputs)


def _prepared(
    snn: SpikingNetwork, path: Path, form: str, inputs: tuple[Tensor, ...], events: bool, opset: int
) -> tuple[OnnxExport, nn.Module, tuple[Tensor, ...]]:
    """The names of everything, the module to export, and its example inputs."""
    placeholders = [node.name for node in snn.network.graph.find_nodes(op="placeholder")][: len(inputs)]

    def record(answers: int, **named: Any) -> OnnxExport:
        names = ("answer",) if answers == 1 else tuple(f"answer.{index}" for index in range(answers))
        return OnnxExport(path=path, form=form, opset=opset, inputs=tuple(placeholders), answers=names, **named)

    if form == "step":
        step = StepModule(snn, snn.schedule, inputs, events)
        fired = tuple(f"events.{site}" for site in step.sites)
        named = record(step.answers, state=("steps", *step.names), events=fired, steps=0)
        return named, step, (*inputs, *step.example)
    assert isinstance(snn.schedule, AccumulateThenFire)
    module = QuantisedModule(snn, form)
    return record(len(module(*inputs)), state=(), events=(), steps=snn.schedule.probe_steps), module, inputs


def _exported(module: nn.Module, example: tuple[Tensor, ...], names: list[str], outputs: list[str], opset: int) -> Any:
    """The ONNX model of a module.

    Raises:
        ExportError: torch.onnx has no form for an operator, or the batch size is fixed in the network.
    """
    batch = torch.export.Dim("batch")
    dynamic = tuple({0: batch} if each.dim() else None for each in example)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                input_names=names,
                output_names=outputs,
                dynamic_shapes=(dynamic,),
                opset_version=opset,
                verbose=False,
            )
    except Exception as error:  # the exporter raises errors of many kinds
        cause = error.__cause__ or error
        found = UnsupportedOperator("", "torch.onnx.export", "(whole network)", first_line(cause), _FIX)
        raise ExportError([found], "ONNX") from error
    assert program is not None
    return program.model_proto


def _write(model: Any, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _describe(model: Any, snn: SpikingNetwork, record: OnnxExport) -> None:
    """Names weights as the model does, writes down what the file is, and takes out what the machine wrote in."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    names = [each.name for each in graph.initializer]
    new = {name: name.removeprefix("prologue.").removeprefix("body.").removeprefix("network.") for name in names}
    taken = [*new.values(), *(each.name for each in (*graph.input, *graph.value_info, *graph.output))]
    new = {name: short for name, short in new.items() if taken.count(short) == 1}
    for each in (*graph.initializer, *graph.value_info):
        each.name = new.get(each.name, each.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
    facts = {
        "form": record.form,
        "neuron": str(snn.neuron),
        "schedule": str(snn.schedule),
        "state": list(record.state),
        "steps": record.steps,
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = "transpike", json.dumps(facts, sort_keys=True)
