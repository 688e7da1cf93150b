"""``transpike bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from transpike.network.spiking import SpikingNetwork

from transpike.cli.main import app
from transpike.cli.options import DataName, Factory, Folder, ProbeSteps, Root, ScheduleName
from transpike.cli.output import note, out, say


@app.command()
def bench(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A converted network; without it only single layers run.")
    ] = None,
    dataset: DataName = None,
    data: Root = None,
    batches: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1,16,100",
    steps: Annotated[str, typer.Option("--steps", "-T", help="Values of T, comma-separated.")] = "1,4,8",
    schedule: ScheduleName = None,
    probe_steps: ProbeSteps = None,
    repeats: Annotated[int, typer.Option(help="Calls per row; the fastest counts.")] = 9,
    compile_ann: Annotated[bool, typer.Option("--compile", help="Also time the ANN under torch.compile.")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Let torch operators compute the stages that they compute faster here.")
    ] = False,
    stages: Annotated[
        bool, typer.Option("--stages", help="Also time every stage, at the largest batch and number of steps.")
    ] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Also time single layers by firing rate and by T.")] = False,
    output: Folder = None,
    factory: Factory = None,
) -> None:
    """Time a converted network against its ANN on this CPU: ratios, behind a check of the answers.

    Run it on a quiet machine. Real images are used, since time depends on how many neurons spike.

    Examples:
    * `transpike bench snn.safetensors`
    * `transpike bench snn.safetensors --tune`
    * `transpike bench snn.safetensors --schedule cos --steps 4 --compile`
    * `transpike bench snn.safetensors --stages --batches 16 --steps 4 -o speed`
    * `transpike bench --layers -o speed`
    """
    from transpike.bench import bench as run_bench
    from transpike.bench import cost_stages, sweep
    from transpike.cli.words import parse_numbers, schedule_for
    from transpike.cli.work import check_output
    from transpike.report.bench import bench_table, bench_warning, plot_sweep, stages_table, sweep_table
    from transpike.serialization.json_records import write_json

    record = {}
    if output is not None:
        check_output(output / "bench.json")
    if file is not None:
        numbers, counts = parse_numbers(batches, "--batches"), parse_numbers(steps, "--steps")
        snn, images = _network_and_images(file, dataset, data, max(numbers), factory)
        chosen = schedule_for(snn, schedule, probe_steps)
        report = run_bench(
            snn,
            images,
            batches=numbers,
            steps=counts,
            schedule=chosen,
            repeats=repeats,
            compile_ann=compile_ann,
            tune=tune,
        )
        out.print(bench_table(report))
        if warning := bench_warning(report):
            note(warning)
        if tune:
            dense = [name for name, stage in snn.engine.report(chosen).items() if not stage.events]
            say(f"computed by torch operators: {', '.join(dense) or 'no stage'}")
        record["network"] = {"file": Path(file).name, **report.to_json()}
        if stages:
            costs = cost_stages(snn, images, steps=max(counts), schedule=chosen, repeats=repeats)
            out.print(stages_table(costs))
            record["stages"] = {"file": Path(file).name, **costs.to_json()}
    if layers or file is None:
        found = sweep(repeats=repeats)
        out.print(sweep_table(found))
        record["layers"] = found.to_json()
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            plot_sweep(found, output / "layers.png")
    if output is not None:
        write_json(output / "bench.json", record)
        say(f"written: {output}/")


def _network_and_images(
    file: str, dataset: str | None, data: Path | None, images: int, factory: str | None
) -> tuple[SpikingNetwork, Tensor]:
    import torch

    from transpike.cli.find_model import find_converted
    from transpike.cli.work import data_for

    snn = find_converted(file, factory)
    _, found = data_for(snn, dataset, data, labelled=False)
    return snn, torch.stack([found.test[index][0] for index in range(images)])
