"""``transpike analyze``: why a converted network errs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import DataName, Device, Factory, ProbeSteps, Root
from transpike.cli.output import out

analyze = typer.Typer(
    help="Look into a converted network: where its answers differ from the ANN's, and why.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
app.add_typer(analyze, name="analyze")


class Feed(StrEnum):
    """What makes the drive of a site whose input is taken as right."""

    ACCUMULATE = "accumulate"
    EXACT = "exact"
    PLAIN = "plain"


@analyze.callback()
def _root() -> None:
    """Look into a converted network: where its answers differ from the ANN's, and why."""


@analyze.command()
def offset(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A converted network, as `transpike convert` writes it.")],
    dataset: DataName = None,
    data: Root = None,
    images: Annotated[
        str, typer.Option(help="fixed (the committed 2,000 test images), all or a number (the first so many).")
    ] = "200",
    probe_steps: ProbeSteps = 4,
    iterations: Annotated[int, typer.Option(help="COS with 0 to so many iterations.")] = 4,
    feed: Annotated[
        Feed,
        typer.Option(
            help="What makes the drive of a site whose input is taken as right: accumulate and exact send the ANN's "
            "counts if rho is L; plain is appendix A.1 of the paper."
        ),
    ] = Feed.ACCUMULATE,
    rhos: Annotated[str, typer.Option(help="Comma-separated: COS with these probe lengths.")] = "1,2,4,8",
    steps: Annotated[int, typer.Option("--steps", "-T", help="The largest T of accuracy and running time.")] = 8,
    batch_size: int = 50,
    device: Device = Device.AUTO,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for offset.json and pictures.")] = None,
    factory: Factory = None,
) -> None:
    """Count offset spikes (COS, ICLR 2023): how many spikes each neuron is short of the ANN's count.

    Their distribution at every site, as the network runs and with right inputs; the four cases of a shift; ratio of
    exact outputs and MSE by iteration; accuracy by probe length; running time.

    Examples:
    * `transpike analyze offset snn.safetensors --images 500 -o offsets`
    * `transpike analyze offset snn.safetensors --probe-steps 8 --iterations 2 --rhos 4,8,16`
    """
    from transpike.cli.resolve import check_writable, dataset_for, resolve_converted, resolve_schedule
    from transpike.data import load_data, loader, test_images
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
    from transpike.serialization.model_info import model_info
    from transpike.training import torch_device

    settings = OffsetSettings(
        probe_steps=probe_steps,
        iterations=iterations,
        feed=resolve_schedule(feed.value, probe_steps=probe_steps, iterations=1, waiting=1),
        rhos=_numbers(rhos),
        steps=steps,
    )
    snn = resolve_converted(file, factory)
    if output is not None:
        check_writable(output / "offset.json")
    name = dataset_for(snn.network, dataset)
    batches = loader(test_images(load_data(name, data, like=model_info(snn.network).inputs), images), batch_size)
    study = study_offsets(snn.to(torch_device(device.value)), batches, settings, progress=True)
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
        out.print(f"written: {output}/ (offset.json, offsets.png, cases.png, convergence.png, influence.png)")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"--rhos takes whole numbers separated by commas, not {text!r}") from error
