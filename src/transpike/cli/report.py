"""``transpike report``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import BatchSize, DataName, Device, DeviceName, Factory, Images, Root, Steps
from transpike.cli.output import say
from transpike.conversion.config import TABLES

if TYPE_CHECKING:
    from transpike.data import Data
    from transpike.evaluation.report import Report
    from transpike.network.spiking import SpikingNetwork
    from transpike.schedules import Schedule

_DEFAULT = ("plain", "residual", "cos", "accumulate")


@app.command()
def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A converted network, as `transpike convert` writes it, or the folder of a recipe (`transpike run`), "
            "whose rows are shown beside its first converted network.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write, *.html.")] = Path("report.html"),
    steps: Steps = 8,
    schedules: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"Separated by commas: {', '.join(TABLES['schedule'])}; each NAME or NAME:setting=value, or "
            "staggered:budget=8 (see `transpike compare schedules`). All details are about the first. Default: the "
            "network's own, then plain, residual, cos, accumulate.",
        ),
    ] = None,
    probe_steps: Annotated[int, typer.Option(help="rho: steps a layer looks at its input before it fires.")] = 4,
    baseline: Annotated[
        str | None, typer.Option(help="A converted network with plain ReLU, to compare with.", metavar="FILE")
    ] = None,
    dataset: DataName = None,
    data: Root = None,
    images: Images = "all",
    detail_images: Annotated[int, typer.Option(help="Test images for causes, offsets and answers.")] = 200,
    counted_images: Annotated[int, typer.Option(help="Test images for operations and energy.")] = 50,
    image: Annotated[
        int | None, typer.Option(help="Test image whose events are shown (default: one whose answer settles late).")
    ] = None,
    examples: Annotated[int, typer.Option(help="Pictures with their answers.")] = 12,
    batch_size: BatchSize = 50,
    device: DeviceName = Device.AUTO,
    record: Annotated[Path | None, typer.Option("--json", help="Also write all numbers to this file.")] = None,
    factory: Factory = None,
) -> None:
    """Measure a converted network and write one HTML page: accuracy, latency, rates, errors, events, energy.

    The page holds everything it needs, also the plotting library, and makes no request.

    Examples:
    * `transpike report snn.safetensors -o report.html`
    * `transpike report snn.safetensors --images 1000 --steps 8 --schedules plain,cos,staggered:budget=8`
    * `transpike report runs/digits -o digits.html --json digits.json`
    """
    from transpike.cli.find_model import find_converted
    from transpike.cli.work import check_output, check_run, data_for, device_of
    from transpike.errors import ConfigError
    from transpike.experiments.study import StudySettings, study_network
    from transpike.report import check_page_path, need_page_libraries, write_page
    from transpike.serialization.json_records import write_json

    if output.suffix not in (".html", ".htm"):
        raise ConfigError(f"{output.suffix or 'no ending'} is no page", where=str(output), fix="name it *.html")
    need_page_libraries()
    settings = StudySettings(
        steps=steps,
        images=images,
        detail_images=detail_images,
        counted_images=counted_images,
        probe_steps=probe_steps,
        examples=examples,
        raster=image,
        batch_size=batch_size,
    )
    check_run(steps, images, dataset)
    where = device_of(device)
    file, rows = _find(run)
    for written in (output, record):
        if written is not None:
            check_output(written, file, baseline, factory)
    check_page_path(output)
    snn = find_converted(file, factory).to(where)
    other = None if baseline is None else find_converted(baseline, factory).to(where)
    _, found = data_for(snn, dataset, data)
    wanted, at = _schedules(snn, found, schedules, probe_steps)
    study = study_network(
        snn,
        found,
        wanted,
        settings,
        at=at,
        baseline=other,
        rows=rows,
        origin=("transpike " + shlex.join(sys.argv[1:]),),
        progress=True,
        say=say,
    )
    write_page(study, output)
    if record is not None:
        write_json(record, study.to_json())
    size = output.stat().st_size / 2**20
    say(f"written: {output} ({size:.1f} MiB)" + ("" if record is None else f", {record}"))


def _find(run: str) -> tuple[str, dict[str, Report]]:
    """The converted network that is meant, and the rows of the recipe that it belongs to."""
    from transpike.errors import DataError
    from transpike.experiments.record import read_record

    folder = Path(run)
    if not folder.is_dir():
        return run, {}
    record = read_record(folder / "result.json")
    networks = sorted(folder.glob("*-spiking.safetensors"))
    if not networks:
        raise DataError(
            "the folder holds no converted network", where=run, fix="pass a converted network, *.safetensors, itself"
        )
    return str(networks[0]), record.reports


def _schedules(
    snn: SpikingNetwork, data: Data, words: str | None, probe_steps: int
) -> tuple[dict[str, Schedule], dict[str, tuple[int, ...]]]:
    """Schedules by label, and the T of those that are made for one."""
    from transpike.cli.words import read_schedule
    from transpike.cli.work import read_schedules, search_schedules

    if words is not None:
        return search_schedules(read_schedules(words, probe_steps), snn, data)
    own = snn.schedule
    found = {str(own).split(" ")[0]: own}
    for name in _DEFAULT:
        found.setdefault(name, read_schedule(name, probe_steps))
    return found, {}
