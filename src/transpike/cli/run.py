"""``transpike run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.main import app
from transpike.cli.options import Compile, Device, DeviceName, Root
from transpike.cli.output import out, say


@app.command()
def run(
    recipe: Annotated[str | None, typer.Argument(metavar="RECIPE", help="Name of a recipe or a *.toml file.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write (default: runs/RECIPE).")
    ] = None,
    data: Root = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Run rows alone whose label or network has this in it; * is anything."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of every training (default: as the recipe says).")] = None,
    limit: Annotated[int | None, typer.Option(help="Training images to use at most (default: all).")] = None,
    images: Annotated[
        str | None, typer.Option(help="Test images: all, fixed or a number (default: as the recipe says).")
    ] = None,
    networks: Annotated[
        list[str] | None,
        typer.Option(
            "--network",
            metavar="NAME=FILE",
            help="Take a checkpoint, or a trained network (`transpike models`), for a network of the recipe or the row "
            "labelled NAME instead of training; repeatable.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, splits and order (default: the recipe's).")] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Comma-separated: make the last training of every row with each; mean and spread are shown."),
    ] = None,
    device: DeviceName = Device.AUTO,
    compile_: Compile = False,
) -> None:
    """Run a recipe: train, convert, evaluate, and write checkpoints, a JSON record and a plot.

    Networks that are trained, and rows that are measured, are read from OUTPUT when the recipe is run again.

    Examples:
    * `transpike run --list`
    * `transpike run digits`
    * `transpike run cos-cifar10 --only resnet20 --epochs 30 --data DIR`
    * `transpike run cos-cifar10 --only resnet20-qcfs --network resnet20-qcfs=qcfs.safetensors --data DIR`
    * `transpike run cifar10-resnet20-qcfs --seeds 1,2,3 --data DIR`
    """
    from transpike.cli.words import parse_given, parse_numbers
    from transpike.cli.work import check_output, device_of
    from transpike.experiments.change_recipe import repeat, resize, select_rows
    from transpike.experiments.recipe import find_recipe, recipes
    from transpike.experiments.runner import run_recipe
    from transpike.report import (
        LATENCY_CAPTION,
        plot_accuracy,
        recipes_table,
        record_offsets_table,
        record_table,
        report_table,
    )

    if list_ or recipe is None:
        out.print(recipes_table({name: entry.about for name, entry in recipes().items()}))
        return
    plan = resize(find_recipe(recipe), epochs=epochs, images=images, seed=seed)
    plan = plan if only is None else select_rows(plan, only)
    plan = plan if seeds is None else repeat(plan, parse_numbers(seeds, "--seeds"))
    folder = output or Path("runs") / plan.name
    check_output(folder / "result.json")
    outcome = run_recipe(
        plan,
        folder,
        data_root=data,
        training_images=limit,
        given=parse_given(networks),
        device=device_of(device),
        compile=compile_,
        progress=True,
        say=say,
    )
    if outcome.rows:
        out.print(record_table(outcome))
    if outcome.offsets:
        out.print(record_offsets_table(outcome))
    if not outcome.reports:
        say(f"written: {folder}/result.json" + ("" if outcome.offsets else ", of rows that are only published"))
        return
    first = next(iter(outcome.reports))
    say(f"{first}:")
    out.print(report_table(outcome.reports[first]))
    say(LATENCY_CAPTION)
    plot_accuracy(outcome.reports, folder / "accuracy.png", plan.about)
    say(f"written: {folder}/ (checkpoints, result.json, accuracy.png)")
