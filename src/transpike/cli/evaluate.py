"""``transpike evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import (
    BatchSize,
    CalibrationImages,
    DataName,
    Device,
    DeviceName,
    Factory,
    File,
    Images,
    InputCoding,
    Plot,
    ProbeSteps,
    Root,
    ScheduleName,
    Steps,
)
from transpike.cli.output import out, say
from transpike.runtime.encoding import Coding

if TYPE_CHECKING:
    from transpike.data import Data
    from transpike.network.spiking import SpikingNetwork


@app.command()
def evaluate(
    file: File,
    dataset: DataName = None,
    data: Root = None,
    steps: Steps = 32,
    images: Images = "all",
    schedule: ScheduleName = None,
    probe_steps: ProbeSteps = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Of --schedule staggered or digits: search lags for an answer after so many pipeline steps."),
    ] = None,
    readout_delay: Annotated[
        str, typer.Option(help="Steps at the start whose output is left out; auto (LTB): till the last layer fires.")
    ] = "0",
    coding: InputCoding = Coding.CONSTANT,
    batch_size: BatchSize = 100,
    device: DeviceName = Device.AUTO,
    sites: Annotated[bool, typer.Option("--sites", help="Also print the activity of every site.")] = False,
    cache: Annotated[Path | None, typer.Option(help="JSON file; an interrupted run goes on from it.")] = None,
    plot: Plot = None,
    calibration_images: CalibrationImages = 512,
    factory: Factory = None,
) -> None:
    """Print accuracy, spikes and latency at every T on test images.

    Examples:
    * `transpike evaluate snn.safetensors --steps 8 --plot accuracy.png`
    * `transpike evaluate snn.safetensors --steps 4 --schedule cos --probe-steps 4`
    * `transpike evaluate snn.safetensors --schedule staggered --budget 8`
    * `transpike evaluate snn.safetensors --steps 32 --readout-delay auto`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.words import schedule_for
    from transpike.cli.work import (
        SEARCHED,
        check_output,
        check_plot,
        check_run,
        data_for,
        device_of,
        search_schedule,
        test_batches,
    )
    from transpike.evaluation.evaluate import evaluate as evaluate_network
    from transpike.report import LATENCY_CAPTION, plot_accuracy, report_table, sites_table
    from transpike.rules import BlockCorrection
    from transpike.serialization.cache import read_cache

    where = device_of(device)
    check_run(steps, images, dataset)
    if cache is not None:
        check_output(cache, file, factory)
        read_cache(cache, "")  # a foreign file is refused before the work
    if plot is not None:
        check_plot(plot)
    snn = find_converted(file, factory).to(where)
    how = schedule_for(snn, schedule, probe_steps)
    if budget is not None and schedule not in SEARCHED:
        raise ValueError("--budget searches lags for one answer: use it with --schedule staggered or digits alone")
    name, found = data_for(snn, dataset, data)
    test = test_batches(found, images, batch_size)
    at = None
    if budget is not None:
        assert schedule is not None
        lags = search_schedule(snn, found, budget, schedule)
        how, steps, at = lags.schedule, lags.steps, [lags.steps]
    report = evaluate_network(
        snn,
        test,
        steps=steps,
        schedule=how,
        coding=coding,
        at=at,
        readout_delay=_delay(snn, readout_delay, found, calibration_images),
        cache=cache,
        progress=True,
    )
    out.print(report_table(report))
    say(LATENCY_CAPTION)
    changed = [part for part in snn.conversion.corrections if isinstance(part, BlockCorrection)]
    if changed:
        say(f"the ANN here has the weights that {changed[0]} changed, not the source's")
    if sites:
        out.print(sites_table(report))
    if plot is not None:
        title = f"{Path(file).name} on {report.images:,} images of {name}"
        plot_accuracy({report.schedule.split(" ")[0]: report}, plot, title)
        say(f"written: {plot}")


def _delay(snn: SpikingNetwork, wanted: str, data: Data, images: int) -> int:
    """A number of steps, or that of `transpike.readout_delay` on training images."""
    from transpike.cli.work import calibration_batches
    from transpike.evaluation.delayed_readout import readout_delay

    if wanted != "auto" and not wanted.isdecimal():
        raise ValueError(f"--readout-delay takes a number of steps or auto, not {wanted!r}")
    if wanted != "auto":
        return int(wanted)
    return readout_delay(snn, calibration=calibration_batches(data, images), progress=True)
