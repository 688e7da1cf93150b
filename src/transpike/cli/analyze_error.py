"""``transpike analyze error``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.main import analyze
from transpike.cli.options import BatchSize, DataName, Device, DeviceName, Factory, File, Folder, Images, Root, named
from transpike.cli.output import out, say
from transpike.conversion.config import TABLES


@analyze.command()
def error(
    file: File,
    steps: Annotated[int, typer.Option("--steps", "-T", help="T, the number of time-steps.")] = 8,
    schedule: Annotated[
        str | None,
        named("--schedule", TABLES["schedule"], "How the network runs (default: as it was converted)"),
    ] = None,
    weight: Annotated[
        float, typer.Option("--weight", "-w", min=0.0, max=1.0, help="w of the unified objective (SlipReLU, eq. 5).")
    ] = 0.5,
    dataset: DataName = None,
    data: Root = None,
    images: Images = "200",
    batch_size: BatchSize = 50,
    device: DeviceName = Device.AUTO,
    output: Folder = None,
    factory: Factory = None,
) -> None:
    """Split the error of every site into its causes, and say what to change.

    Causes: the trained activation is no ReLU (deviation), earlier sites sent something else (inherited), the neurons
    cannot send more (clipping), T steps know T + 1 values (quantisation), the input comes unevenly (unevenness).

    Examples:
    * `transpike analyze error snn.safetensors --steps 8`
    * `transpike analyze error snn.safetensors -T 4 --schedule cos -o causes`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.words import read_schedule
    from transpike.cli.work import check_output, check_run, data_for, device_of, test_batches
    from transpike.evaluation.causes import error_causes
    from transpike.report import bounds_table, causes_table, error_advice, objective_table, plot_causes
    from transpike.serialization.json_records import write_json

    check_run(steps, images, dataset)
    where = device_of(device)
    snn = find_converted(file, factory).to(where)
    chosen = None if schedule is None else read_schedule(schedule, steps)
    if output is not None:
        check_output(output / "error.json")
    name, found = data_for(snn, dataset, data, labelled=False)
    batches = test_batches(found, images, batch_size)
    causes = error_causes(snn, batches, steps=steps, schedule=chosen, progress=True)
    out.print(causes_table(causes))
    out.print(objective_table(causes, weight))
    bounds = bounds_table(snn, causes)
    if bounds is not None:
        out.print(bounds)
    if causes.agreement is not None:
        say(f"same answer as the ANN for {100 * causes.agreement:.1f} % of {causes.images:,} images of {name}")
    for line in error_advice(causes):
        say(f"- {line}")
    if output is not None:
        write_json(output / "error.json", causes.to_json())
        about = f"{Path(file).name}, T = {steps}, {causes.schedule}, {causes.images:,} images of {name}"
        plot_causes(causes, output / "causes.png", f"error by cause: {about}")
        say(f"written: {output}/ (error.json, causes.png)")
