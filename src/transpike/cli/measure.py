"""The commands that measure a converted network: evaluate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from transpike.data import Data
    from transpike.evaluation.report import Report
    from transpike.network.spiking import SpikingNetwork
    from transpike.schedules import Schedule

from transpike.cli.main import app
from transpike.cli.options import (
    DataName,
    Device,
    Factory,
    InputCoding,
    Options,
    OwnIterations,
    OwnProbeSteps,
    OwnWaiting,
    ProbeSteps,
    Root,
    ScheduleName,
    Waiting,
    Weights,
)
from transpike.cli.output import out


@app.command()
def evaluate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A converted network, as `transpike convert` writes it.")],
    dataset: DataName = None,
    data: Root = None,
    steps: Annotated[int, typer.Option("--steps", "-T", help="The largest T; all smaller ones come with it.")] = 32,
    images: Annotated[str, typer.Option(help="all, fixed (the committed 2,000 test images) or a number.")] = "all",
    schedule: ScheduleName = None,
    probe_steps: OwnProbeSteps = None,
    iterations: OwnIterations = None,
    waiting: OwnWaiting = None,
    budget_steps: Annotated[
        int | None, typer.Option(help="Of staggered: search lags for an answer after so many pipeline steps.")
    ] = None,
    readout_delay: Annotated[
        str, typer.Option(help="Steps at the start whose output is left out; auto (LTB): till the last layer fires.")
    ] = "0",
    coding: Annotated[InputCoding, typer.Option(help="Constant current, or Poisson spikes.")] = InputCoding.CONSTANT,
    batch_size: int = 100,
    device: Device = Device.AUTO,
    sites: Annotated[bool, typer.Option("--sites", help="Also print the activity of every site.")] = False,
    cache: Annotated[Path | None, typer.Option(help="JSON file; an interrupted run goes on from it.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of accuracy against T (*.png, *.svg, *.pdf).")] = None,
    early_exit: Annotated[
        str | None, typer.Option(help="Stop an image at this confidence in [0, 1]; auto chooses it on training images.")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Training images for auto; those for --early-exit are held back from training.")
    ] = 512,
    factory: Factory = None,
) -> None:
    """Print accuracy, spikes and latency at every T on test images; or accuracy and mean T with early exit.

    Examples:
    * `transpike evaluate snn.safetensors --steps 8 --plot accuracy.png`
    * `transpike evaluate snn.safetensors --steps 4 --schedule cos --probe-steps 4`
    * `transpike evaluate snn.safetensors --steps 16 --early-exit auto`
    * `transpike evaluate snn.safetensors --steps 32 --readout-delay auto`
    """
    from transpike.cli.early_exit import print_early_exit
    from transpike.cli.resolve import dataset_for, resolve_converted, schedule_for, search_schedule
    from transpike.data import load_data, loader, test_images
    from transpike.evaluation.evaluate import evaluate as evaluate_network
    from transpike.report import plot_accuracy, report_table, sites_table
    from transpike.rules import BlockCorrection
    from transpike.runtime.encoding import Coding
    from transpike.serialization.model_info import model_info
    from transpike.training import torch_device

    snn = resolve_converted(file, factory)
    stored = model_info(snn.network).inputs
    name = dataset_for(snn.network, dataset)
    found = load_data(name, data, like=stored)
    test = loader(test_images(found, images), batch_size)
    how = schedule_for(snn, schedule, probe_steps, iterations, waiting)
    at = None
    if budget_steps is not None:
        if schedule != "staggered" or early_exit is not None:
            raise ValueError("--budget-steps searches lags for one answer: use it with --schedule staggered alone")
        lags = search_schedule(snn.to(torch_device(device.value)), found, budget_steps, progress=True)
        how, steps, at = lags.schedule, lags.steps, [lags.steps]
    if early_exit is not None:
        if sites or cache is not None or plot is not None or readout_delay != "0":
            raise ValueError(
                "--sites, --cache and --plot show every T, and --readout-delay changes what is confident: leave them "
                "out with --early-exit"
            )
        print_early_exit(
            out,
            snn,
            found,
            test,
            confidence=early_exit,
            calibration_images=calibration_images,
            steps=steps,
            schedule=how,
            coding=Coding(coding.value),
            device=torch_device(device.value),
        )
        return
    report = evaluate_network(
        snn,
        test,
        steps=steps,
        schedule=how,
        coding=Coding(coding.value),
        at=at,
        readout_delay=_delay(snn, readout_delay, found, calibration_images),
        device=torch_device(device.value),
        cache=cache,
        progress=True,
    )
    out.print(report_table(report))
    changed = [part for part in snn.conversion.corrections if isinstance(part, BlockCorrection)]
    if changed:
        out.print(f"the ANN here has the weights that {type(changed[0]).__name__} changed, not the source's")
    if sites:
        out.print(sites_table(report))
    if plot is not None:
        plot_accuracy({Path(file).name: report}, plot, f"{Path(file).name} on {report.images:,} images of {name}")
        out.print(f"written: {plot}")


def _delay(snn: SpikingNetwork, wanted: str, data: Data, images: int) -> int:
    """A number of steps, or that of `transpike.readout_delay` on training images."""
    from transpike.data import loader, random_subset
    from transpike.evaluation.delayed_readout import readout_delay

    if wanted != "auto" and not wanted.isdecimal():
        raise ValueError(f"--readout-delay takes a number of steps or auto, not {wanted!r}")
    if wanted != "auto":
        return int(wanted)
    return readout_delay(snn, loader(random_subset(data.calibration, images, 0)), progress=True)


@app.command()
def compare(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A converted network; with --methods one that is not converted yet.")
    ],
    schedules: Annotated[
        str,
        typer.Option(
            help="Comma-separated; cos:2 is COS with two iterations, staggered:8 has its lags searched on training "
            "images for an answer after 8 pipeline steps and is shown at that point only."
        ),
    ] = "plain,residual,cos,cos:2,cos:4,exact,accumulate,staggered,srp",
    methods: Annotated[
        str | None,
        typer.Option(
            help="Compare methods of conversion, each under its own schedule: all, or names separated by commas."
        ),
    ] = None,
    calibration_images: Annotated[int, typer.Option(help="Of --methods: training images to calibrate with.")] = 512,
    seed: Annotated[int, typer.Option(help="Of --methods: of the choice of training images.")] = 0,
    weights: Weights = None,
    option: Options = None,
    dataset: DataName = None,
    data: Root = None,
    steps: Annotated[int, typer.Option("--steps", "-T", help="The largest T.")] = 8,
    images: Annotated[str, typer.Option(help="all, fixed (the committed 2,000 test images) or a number.")] = "all",
    long_steps: Annotated[
        int | None, typer.Option(help="A second table (--methods: more columns) up to this T, on --long-images.")
    ] = None,
    long_images: Annotated[str, typer.Option(help="Like --images, for the second table.")] = "fixed",
    probe_steps: ProbeSteps = 4,
    waiting: Waiting = 1,
    batch_size: int = 100,
    device: Device = Device.AUTO,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for JSON, caches and the plot.")] = None,
    factory: Factory = None,
) -> None:
    """Run several schedules on one network, or convert it by several methods: accuracy at every T, pipeline latency.

    Examples:
    * `transpike compare snn.safetensors --schedules plain,cos,accumulate --steps 8 -o comparison`
    * `transpike compare snn.safetensors --steps 8 --long-steps 32 -o comparison`
    * `transpike compare snn.safetensors --schedules plain,staggered:2,staggered:4,staggered:8`
    * `transpike compare relu.safetensors --methods all --steps 8 --long-steps 32 -o methods`
    """
    from transpike import zoo
    from transpike.cli.methods import print_methods
    from transpike.cli.resolve import (
        dataset_for,
        parse_options,
        resolve_converted,
        resolve_model,
        resolve_schedule,
        search_schedule,
    )
    from transpike.data import load_data, loader, test_images
    from transpike.evaluation.evaluate import evaluate as evaluate_network
    from transpike.report import plot_latency, schedules_table
    from transpike.serialization.json_records import write_json
    from transpike.serialization.model_info import model_info
    from transpike.training import torch_device

    if methods is not None:
        network = resolve_model(file, parse_options(option or []), model=factory)
        if weights is not None:
            zoo.load_weights(network, weights)
        print_methods(
            out,
            network,
            methods,
            dataset=dataset,
            data=data,
            runs=[(images, steps)] + ([] if long_steps is None else [(long_images, long_steps)]),
            calibration_images=calibration_images,
            seed=seed,
            batch_size=batch_size,
            device=torch_device(device.value),
            output=output,
        )
        return
    snn = resolve_converted(file, factory)
    found = load_data(dataset_for(snn.network, dataset), data, like=model_info(snn.network).inputs)
    runs = {"": (images, steps)} | ({} if long_steps is None else {"-long": (long_images, long_steps)})
    reports: dict[str, dict[str, Report]] = {suffix: {} for suffix in runs}
    for label in schedules.split(","):
        name, _, number = label.partition(":")
        lags = None
        if name == "staggered" and number:
            lags = search_schedule(snn.to(torch_device(device.value)), found, int(number), progress=True)
            schedule: Schedule = lags.schedule
        else:
            schedule = resolve_schedule(name, probe_steps=probe_steps, iterations=int(number or 1), waiting=waiting)
        out.print(f"evaluating {schedule}", markup=False)
        for suffix, (which, last) in runs.items():
            reports[suffix][label] = evaluate_network(
                snn,
                loader(test_images(found, which), batch_size),
                steps=last if lags is None else lags.steps,
                schedule=schedule,
                at=None if lags is None else [lags.steps],
                device=torch_device(device.value),
                cache=None if output is None else output / f"{label.replace(':', '-')}{suffix}.json",
                progress=True,
            )
    for suffix in runs:
        out.print(schedules_table(reports[suffix]))
    if output is not None:
        for suffix in runs:
            record = {label: report.to_json() for label, report in reports[suffix].items()}
            write_json(output / f"comparison{suffix}.json", record)
        title = f"{Path(file).name}: accuracy against pipeline latency"
        plot_latency(reports["-long" if long_steps is not None else ""], output / "latency.png", title)
        out.print(f"written: {output}/ (comparison*.json, latency.png)")
