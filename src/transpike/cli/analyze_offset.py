"""``transpike analyze offset``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.main import analyze
from transpike.cli.options import BatchSize, DataName, Device, DeviceName, Factory, File, Folder, Images, Root, named
from transpike.cli.output import out, say
from transpike.conversion.config import TABLES


@analyze.command()
def offset(
    file: File,
    dataset: DataName = None,
    data: Root = None,
    images: Images = "200",
    probe_steps: Annotated[int, typer.Option(help="rho: steps a layer looks at its input before it fires.")] = 4,
    iterations: Annotated[int, typer.Option(help="COS with 0 to so many iterations.")] = 4,
    feed: Annotated[
        str,
        named(
            "--feed",
            TABLES["schedule"],
            "What makes the drive of a site whose input is taken as right (accumulate and exact send the ANN's counts "
            "if rho is L; plain is appendix A.1 of the paper)",
        ),
    ] = "accumulate",
    rhos: Annotated[str, typer.Option(help="Comma-separated: COS with these probe lengths.")] = "1,2,4,8",
    steps: Annotated[int, typer.Option("--steps", "-T", help="The largest T of accuracy and running time.")] = 8,
    batch_size: BatchSize = 50,
    device: DeviceName = Device.AUTO,
    output: Folder = None,
    factory: Factory = None,
) -> None:
    """Count offset spikes (COS, ICLR 2023): how many spikes each neuron is short of the ANN's count.

    Their distribution at every site, as the network runs and with right inputs; the four cases of a shift; ratio of
    exact outputs and MSE by iteration; accuracy by probe length; running time.

    Examples:
    * `transpike analyze offset snn.safetensors --images 500 -o offsets`
    * `transpike analyze offset snn.safetensors --probe-steps 8 --iterations 2 --rhos 4,8,16`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.words import parse_numbers, read_schedule
    from transpike.cli.work import check_output, data_for, device_of
    from transpike.data import loader, test_images
    from transpike.evaluation.offsets import OffsetSettings, study_offsets
    from transpike.report import (
        cases_table,
        convergence_table,
        influence_table,
        offsets_table,
        plot_cases,
        plot_convergence,
        plot_influence,
        plot_offsets,
        running_table,
    )
    from transpike.serialization.json_records import write_json

    settings = OffsetSettings(
        probe_steps=probe_steps,
        iterations=iterations,
        feed=read_schedule(feed, probe_steps),
        rhos=parse_numbers(rhos, "--rhos"),
        steps=steps,
    )
    where = device_of(device)
    snn = find_converted(file, factory).to(where)
    if output is not None:
        check_output(output / "offset.json")
    name, found = data_for(snn, dataset, data)
    batches = loader(test_images(found, images), batch_size)
    study = study_offsets(snn, batches, settings, progress=True)
    out.print(offsets_table(study.free["plain"]))
    out.print(offsets_table(study.constrained["plain"]))
    out.print(convergence_table(study.free, study.constrained))
    out.print(cases_table(study.cases))
    out.print(influence_table(study.influence))
    out.print(running_table(study.running))
    if output is not None:
        what = f"{Path(file).name}, {study.running['plain'].images:,} images of {name}"
        about = f"{what}, rho = {probe_steps}"
        write_json(output / "offset.json", study.to_json())
        plot_offsets(study.free, study.constrained, output / "offsets.png", f"offset spikes: {about}")
        plot_cases(study.cases, output / "cases.png", f"four cases of a shift: {about}")
        plot_convergence(study.free, output / "convergence.png", f"COS iterations: {about}")
        plot_influence(study.influence, output / "influence.png", f"probe length of COS: {what}")
        say(f"written: {output}/ (offset.json, offsets.png, cases.png, convergence.png, influence.png)")
