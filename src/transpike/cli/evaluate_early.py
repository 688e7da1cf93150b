"""``transpike evaluate-early``."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import (
    BatchSize,
    DataName,
    Device,
    DeviceName,
    Factory,
    File,
    Images,
    InputCoding,
    ProbeSteps,
    Root,
    ScheduleName,
    Steps,
)
from transpike.cli.output import note, out, say
from transpike.runtime.encoding import Coding

_FEW = 1000


@app.command()
def evaluate_early(
    file: File,
    confidence: Annotated[
        str, typer.Option(help="Stop an image at this confidence in [0, 1]; auto chooses it on held-back images.")
    ] = "auto",
    dataset: DataName = None,
    data: Root = None,
    steps: Steps = 32,
    images: Images = "all",
    schedule: ScheduleName = None,
    probe_steps: ProbeSteps = None,
    coding: InputCoding = Coding.CONSTANT,
    batch_size: BatchSize = 100,
    device: DeviceName = Device.AUTO,
    calibration_images: Annotated[
        int, typer.Option(help="Of --confidence auto: images held back from training; all if there are fewer.")
    ] = 5000,
    factory: Factory = None,
) -> None:
    """Print accuracy and mean T where every image stops as soon as its answer is confident (early exit).

    Examples:
    * `transpike evaluate-early snn.safetensors --steps 16`
    * `transpike evaluate-early snn.safetensors --steps 16 --confidence 0.95`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.words import schedule_for
    from transpike.cli.work import calibration_batches, check_run, data_for, device_of, test_batches
    from transpike.evaluation.early_exit import evaluate_early as evaluate_network
    from transpike.report.early_exit import early_exit_table, steps_used_table
    from transpike.selection.confidence import choose_confidence

    where = device_of(device)
    check_run(steps, images, dataset)
    snn = find_converted(file, factory).to(where)
    how = schedule_for(snn, schedule, probe_steps)
    threshold = None if confidence == "auto" else _probability(confidence)
    _, found = data_for(snn, dataset, data)
    test = test_batches(found, images, batch_size)
    if threshold is None:
        there = len(found.validation)  # type: ignore[arg-type]
        held_back = calibration_batches(found, min(calibration_images, there), held_back=True)
        chosen = choose_confidence(snn, calibration=held_back, steps=steps, schedule=how, coding=coding, progress=True)
        say(
            f"confidence {chosen.confidence:.6g}, chosen on {chosen.samples:,} held-back training images, where "
            f"{100 * chosen.disagreement:.2f} % of the answers differ from T = {steps} at a mean T of "
            f"{chosen.mean_steps:.3f}"
        )
        if chosen.samples < _FEW:
            note(f"{chosen.samples} images say little about rare answers: on others several times as many may differ")
        threshold = chosen.confidence
    report = evaluate_network(
        snn, test, steps=steps, confidences=[threshold], schedule=how, coding=coding, progress=True
    )
    out.print(early_exit_table(report))
    say("mean T: steps averaged for the answer; mean pipeline: steps from the first input to it, all layers at once")
    out.print(steps_used_table(report))


def _probability(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"--confidence takes a confidence in [0, 1] or auto, not {text!r}") from error
