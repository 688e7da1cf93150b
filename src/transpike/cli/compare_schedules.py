"""``transpike compare schedules``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.main import compare
from transpike.cli.options import (
    BatchSize,
    DataName,
    Device,
    DeviceName,
    Factory,
    File,
    Folder,
    Images,
    Root,
    Steps,
)
from transpike.cli.output import out, say
from transpike.conversion.config import TABLES


@compare.command("schedules")
def compare_schedules(
    file: File,
    schedules: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help=f"Separated by commas: {', '.join(TABLES['schedule'])}; each NAME or NAME:setting=value. "
            "staggered:budget=8 and digits:budget=8 have lags searched on training images for an answer after 8 "
            "pipeline steps, and are shown at that point only.",
        ),
    ] = "plain,residual,cos,cos:iterations=2,cos:iterations=4,exact,accumulate,staggered:budget=4,srp",
    dataset: DataName = None,
    data: Root = None,
    steps: Steps = 8,
    images: Images = "all",
    long_steps: Annotated[int | None, typer.Option(help="A second table up to this T, on --long-images.")] = None,
    long_images: Annotated[str, typer.Option(help="Like --images, for the second table.")] = "fixed",
    probe_steps: Annotated[int, typer.Option(help="rho: steps a layer looks at its input before it fires.")] = 4,
    batch_size: BatchSize = 100,
    device: DeviceName = Device.AUTO,
    output: Folder = None,
    factory: Factory = None,
) -> None:
    """Run several schedules on one converted network: accuracy at every T, and the pipeline steps it takes.

    Examples:
    * `transpike compare schedules snn.safetensors --schedules plain,cos,accumulate --steps 8 -o comparison`
    * `transpike compare schedules snn.safetensors --steps 8 --long-steps 32 -o comparison`
    * `transpike compare schedules snn.safetensors --schedules plain,staggered:budget=2,staggered:budget=8`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.work import (
        check_output,
        check_run,
        data_for,
        device_of,
        read_schedules,
        search_schedules,
        test_batches,
    )
    from transpike.experiments.compare import TestSet
    from transpike.experiments.compare import compare_schedules as run
    from transpike.report import plot_latency, schedules_table

    wanted = read_schedules(schedules, probe_steps)
    check_run(steps, images, dataset)
    if output is not None:
        check_output(output / "result.json")
    where = device_of(device)
    snn = find_converted(file, factory).to(where)
    name, found = data_for(snn, dataset, data)
    runs = [(images, steps)] + ([] if long_steps is None else [(long_images, long_steps)])
    tests = [TestSet(test_batches(found, which, batch_size), tuple(range(1, last + 1))) for which, last in runs]
    ready, at = search_schedules(wanted, snn, found)
    reports = run(snn, ready, tests, at=at, dataset=name, folder=output, progress=True, say=say)
    say(f"conversion: {snn.conversion}")
    for table in reports:
        out.print(schedules_table(table))
    if output is not None:
        count = next(iter(reports[-1].values())).images
        plot_latency(reports[-1], output / "latency.png", f"{Path(file).name} on {count:,} images of {name}")
        say(f"written: {output}/ (result.json, latency.png)")
