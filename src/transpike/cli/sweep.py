"""``transpike sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.activations import Gradient
from transpike.cli.main import app
from transpike.cli.options import CalibrationImages, DataName, Device, DeviceName, Images, Root
from transpike.cli.output import out, say

_SEARCHES = "grid (all), random, or optuna (TPE proposes)"
_AXIS = "0,0.5 or FIRST:LAST:STEP"


@app.command()
def sweep(
    networks: Annotated[
        list[str], typer.Argument(metavar="NETWORK", help="Built-in networks (`transpike models`), one or more.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, and to go on from.")],
    levels: Annotated[str, typer.Option(help="N, separated by commas.")] = "1,2,4,8",
    slopes: Annotated[str, typer.Option(help=f"c: {_AXIS}.")] = "0:0.9:0.1",
    shifts: Annotated[str, typer.Option(help=f"delta: {_AXIS}.")] = "0.5",
    ramp_shifts: Annotated[str, typer.Option(help=f"delta1: {_AXIS}.")] = "0",
    gradients: Annotated[
        str, typer.Option(help=f"Surrogate derivatives: {', '.join(entry.value for entry in Gradient)}.")
    ] = "released",
    theta_percentiles: Annotated[
        str | None, typer.Option(help="Start thresholds at these percentiles of activations (default: 99).")
    ] = None,
    thetas: Annotated[str | None, typer.Option(help="Start thresholds at these numbers (the paper's: 8).")] = None,
    seeds: Annotated[str, typer.Option(help="Separated by commas; the criterion is the mean.")] = "0",
    epochs: Annotated[int, typer.Option(help="Passes through the training set, of each trial.")] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of trials; falls along a cosine.")] = 0.05,
    relu_epochs: Annotated[int, typer.Option(help="Of the ReLU network of each seed.")] = 25,
    relu_learning_rate: Annotated[float, typer.Option(help="Of the ReLU network of each seed.")] = 0.1,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Trials start from fresh weights, not from the ReLU network.")
    ] = False,
    batch_size: Annotated[int, typer.Option(help="Images per step of training.")] = 128,
    at: Annotated[str, typer.Option(help="Every T to measure at.")] = "1,2,4,8,16,32",
    steps: Annotated[
        int, typer.Option("--steps", "-T", help="T of the criterion that settings are chosen by; one of --at.")
    ] = 1,
    search: Annotated[str, typer.Option(metavar="NAME", help=f"{_SEARCHES}.")] = "grid",
    samples: Annotated[int | None, typer.Option(help="Settings that a random or optuna search tries.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Stop bad trials early (ASHA, by the criterion).")] = False,
    dataset: DataName = None,
    data: Root = None,
    images: Images = "all",
    calibration_images: CalibrationImages = 512,
    device: DeviceName = Device.AUTO,
    cpus_per_trial: Annotated[int, typer.Option(help="Cores of a trial; as many trials run as there is room for.")] = 1,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="May be a fraction (default: 1 where trials run on a GPU).")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Of a Ray cluster, or auto; OUTPUT must be on a file system that it shares."),
    ] = None,
) -> None:
    """Train and convert for many N, c and other settings of SlipReLU, and choose by the criterion of its section 4.4.

    Criterion: |ReLU - ANN| / 2 + |ANN - SNN| / 2 of accuracies on the part of the training set that is held back; test
    images are for the tables. The same command goes on after an interruption.

    Examples:
    * `transpike sweep digits-resnet --levels 1,2,4,8 --slopes 0:0.9:0.1 --seeds 0,1 -o sweep`
    * `transpike sweep digits-resnet --levels 2,4 --slopes 0,0.4 --shifts 0,0.5 -o shifts`
    * `transpike sweep cifar-resnet20-conv --search optuna --samples 20 --prune -T 4 --data DIR -o search`
    """
    from transpike import zoo
    from transpike.activations import ThetaPercentile
    from transpike.cli.words import parse_axis, parse_numbers
    from transpike.cli.work import check_output, device_of
    from transpike.errors import ModelError, needs_extra
    from transpike.experiments.recipe import Training
    from transpike.experiments.sweep import Sweep, find_search
    from transpike.experiments.sweep_runner import run_sweep
    from transpike.report import plot_sweep, sweep_notes, sweep_tables
    from transpike.serialization.fields import fitted
    from transpike.serialization.model_info import model_info

    where = device_of(device)
    starts: list[float | ThetaPercentile] = [] if thetas is None else list(parse_axis(thetas, "--thetas"))
    percentiles = theta_percentiles or ("99" if thetas is None else "")
    starts += (
        [ThetaPercentile(value) for value in parse_axis(percentiles, "--theta-percentiles")] if percentiles else []
    )
    inputs = [model_info(zoo.build(name)).inputs for name in networks]
    name = dataset or ("" if inputs[0] is None else inputs[0].dataset)
    if not name:
        raise ModelError("the network does not say what data it is for", where=networks[0], fix="pass --dataset NAME")
    plan = Sweep(
        data=name,
        networks=tuple(networks),
        levels=parse_numbers(levels, "--levels"),
        slopes=parse_axis(slopes, "--slopes"),
        shifts=parse_axis(shifts, "--shifts"),
        ramp_shifts=parse_axis(ramp_shifts, "--ramp-shifts"),
        gradients=fitted("--gradients", gradients.split(","), tuple[Gradient, ...]),
        theta_inits=tuple(starts),
        seeds=parse_numbers(seeds, "--seeds"),
        relu=Training("relu", relu_epochs, relu_learning_rate, batch_size=batch_size),
        training=Training("slip", epochs, learning_rate, start=None if from_scratch else "relu", batch_size=batch_size),
        at=parse_numbers(at, "--at"),
        criterion_steps=steps,
        calibration_images=calibration_images,
        images=images,
        search=find_search(search),
        samples=samples,
        prune=prune,
    )
    check_output(output / "sweep.json")
    with needs_extra("plots", "a picture"):  # they are drawn at the end, after hours
        import matplotlib  # noqa: F401
    record = run_sweep(
        plan,
        output,
        data_root=data,
        device=where,
        cpus_per_trial=cpus_per_trial,
        gpus_per_trial=gpus_per_trial,
        address=address,
        say=say,
    )
    for table in sweep_tables(record):
        out.print(table)
    for line in sweep_notes(record):
        say(line)
    pictures = plot_sweep(record, output)
    names = ", ".join(["sweep.json", *(path.name for path in pictures)])
    say(f"written: {output}/ (relu and trials: networks; {names})")
