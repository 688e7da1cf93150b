"""``transpike export``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from transpike.cli.main import app
from transpike.cli.options import BatchSize, DataName, Factory, File, Images, Output, Root, named
from transpike.cli.output import note, out, say
from transpike.interop.targets import NIR_TARGETS, NirTarget, Start

if TYPE_CHECKING:
    from torch import Tensor

    from transpike.network.spiking import SpikingNetwork


@dataclass(frozen=True)
class ExportJob:
    """What a row of the table is given.

    Attributes:
        snn: the network.
        output: the file to write.
        steps: T.
        batches: inputs ``[N, *]``, or pairs ``(inputs, class indices)`` where the user named data.
        about: what they are, for example ``1,000 images of digits``.
        samples: how many event trains to write beside the network.
        source: whether the network's own numbers go into the file.
    """

    snn: SpikingNetwork
    output: Path
    steps: int
    batches: list[Any]
    about: str
    samples: int
    source: bool

    @property
    def inputs(self) -> Tensor:
        """The first batch, ``[N, *]``."""
        batch: Tensor | list[Tensor] | tuple[Tensor, ...] = self.batches[0]
        return batch[0] if isinstance(batch, list | tuple) else batch


@dataclass(frozen=True)
class ExportTarget:
    """A row of the table of what networks can be exported to.

    Attributes:
        suffix: of the file.
        text: what it is.
        write: checks, writes and prints; it names everything that stands in the way before it writes anything.
    """

    suffix: str
    text: str
    write: Callable[[ExportJob], None]


def _write_nir(job: ExportJob, target: NirTarget) -> None:
    import torch

    from transpike.interop import compare_with_target, nir_samples, samples_path, to_nir, write_nir
    from transpike.report import target_table

    graph = to_nir(job.snn, target=target.name, steps=job.steps, source=job.source)
    report = compare_with_target(job.snn, job.batches, target=target.name, steps=job.steps)
    samples = None
    if job.samples:
        inputs = torch.cat([batch[0] if isinstance(batch, list | tuple) else batch for batch in job.batches])
        samples = nir_samples(graph, inputs[: job.samples], job.steps)
    write_nir(graph, job.output, samples)
    out.print(target_table(report, job.about))
    say(f"neurons of {target.name}: {target.rule}" + ("" if target.checked else "; not compared with the real one"))
    if target.start is Start.BIAS:
        note(f"v(0) comes in {job.steps} parts with the biases: the file is made for T = {job.steps}")
    if target.note:
        note(f"{target.name}: {target.note}")
    say(f"read it with {target.how}" if target.how else "")
    say(f"written: {job.output}" + (f", {samples_path(job.output)}" if samples is not None else ""))


def _write_onnx(job: ExportJob, form: Literal["step", "quantised", "staircase"]) -> None:
    from transpike.interop import to_onnx

    say(f"written: {to_onnx(job.snn, job.output, form, example_inputs=job.inputs)}")


def _write_pytorch(job: ExportJob) -> None:
    from transpike.interop import to_torch

    say(f"written: {to_torch(job.snn, job.output)}")


def _nir_row(target: NirTarget) -> ExportTarget:
    return ExportTarget(".nir", f"NIR for {target.package or target.how}", lambda job: _write_nir(job, target))


EXPORTS: Mapping[str, ExportTarget] = {
    **{name: _nir_row(target) for name, target in NIR_TARGETS.items()},
    "onnx-step": ExportTarget(".onnx", "ONNX, one time-step with its state", partial(_write_onnx, form="step")),
    "onnx-quantised": ExportTarget(
        ".onnx", "ONNX, the quantised ANN of an accumulate network", partial(_write_onnx, form="quantised")
    ),
    "onnx-staircase": ExportTarget(
        ".onnx", "the same with floors, as the neurons round", partial(_write_onnx, form="staircase")
    ),
    "pytorch": ExportTarget(".py", "a Python file that needs PyTorch alone, and its weights", _write_pytorch),
}
"""What ``--target`` offers, by name."""

_RANDOM = 16
"""Random inputs, where the user names no data."""


@app.command()
def export(
    file: File,
    output: Output,
    target: Annotated[str, named("--target", EXPORTS, "Who will run it")] = "plain",
    steps: Annotated[int, typer.Option("--steps", "-T", help="T, the number of time-steps that it will run.")] = 8,
    dataset: DataName = None,
    data: Root = None,
    images: Images = "1000",
    samples: Annotated[
        int, typer.Option(min=0, help="Event trains of so many inputs, to check the simulator with, beside the file.")
    ] = 0,
    source: Annotated[
        bool, typer.Option(help="Keep the network's own numbers in the file, so that tp.from_nir gives it back.")
    ] = True,
    batch_size: BatchSize = 50,
    factory: Factory = None,
) -> None:
    """Write a converted network for another simulator, ONNX or plain PyTorch, and say what it will answer there.

    Simulators that read NIR differ: some reset to zero, send several spikes in one step, or keep potentials above
    -theta. What they make of the network is simulated here, and printed beside the network itself: its accuracy on test
    images with --dataset or --data, else how often random inputs get the same answer. ONNX files are compared in ONNX
    Runtime where it is installed, Python files by running them.

    Examples:
    * `transpike export snn.safetensors -o net.nir --target sinabs --steps 8 --dataset digits`
    * `transpike export snn.safetensors -o net.nir --target plain --samples 10`
    * `transpike export snn.safetensors -o step.onnx --target onnx-step`
    * `transpike export snn.safetensors -o net.py --target pytorch`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.work import check_output, check_run
    from transpike.errors import ConfigError, known_words

    check_run(steps, images, dataset)
    if target not in EXPORTS:
        raise ConfigError(f"there is no target {target!r}", where="--target", fix=known_words(target, EXPORTS))
    row = EXPORTS[target]
    if output.suffix != row.suffix:
        raise ConfigError(
            f"files for {target} end in {row.suffix}", where=f"-o {output}", fix=f"-o {output.stem}{row.suffix}"
        )
    if samples and row.suffix != ".nir":
        raise ConfigError(f"{target} has no event trains", where="--samples", fix="leave it out")
    check_output(output, file, factory)
    snn = find_converted(file, factory)
    batches, about = _inputs(snn, dataset, data, images, batch_size, samples)
    row.write(ExportJob(snn, output, steps, batches, about, samples, source))


def _inputs(
    snn: SpikingNetwork, dataset: str | None, data: Path | None, images: str, batch_size: int, samples: int
) -> tuple[list[Any], str]:
    """Test images if the user names data, else random numbers."""
    import torch

    from transpike.cli.work import data_for, test_batches

    if dataset is None and data is None:
        count = max(_RANDOM, samples)
        shape = snn.capture.input_shapes[0]
        x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
        return list(torch.split(x, batch_size)), f"{count} random inputs (name images with --dataset)"
    name, found = data_for(snn, dataset, data)
    batches = list(test_batches(found, images, batch_size))
    return batches, f"{sum(len(batch[0]) for batch in batches):,} test images of {name}"
