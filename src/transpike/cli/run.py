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
    device: DeviceName = Device.AUTO,
    compile_: Compile = False,
) -> None:
    """Run a recipe: train, convert, evaluate, and write checkpoints, a JSON record and a plot.

    Examples:
    * `transpike run --list`
    * `transpike run digits`
    """
    from transpike.cli.work import check_output, device_of
    from transpike.experiments.recipe import find_recipe, recipes
    from transpike.experiments.runner import run_recipe
    from transpike.report import LATENCY_CAPTION, comparison_table, plot_accuracy, recipes_table, report_table

    if list_ or recipe is None:
        out.print(recipes_table({name: entry.about for name, entry in recipes().items()}))
        return
    plan = find_recipe(recipe)
    folder = output or Path("runs") / plan.name
    check_output(folder / "result.json")
    outcome = run_recipe(
        plan, folder, data_root=data, device=device_of(device), compile=compile_, progress=True, say=say
    )
    out.print(comparison_table(outcome.reports, outcome.published))
    first = next(iter(outcome.reports))
    say(f"{first}:")
    out.print(report_table(outcome.reports[first]))
    say(LATENCY_CAPTION)
    plot_accuracy(outcome.reports, folder / "accuracy.png", plan.about)
    say(f"written: {folder}/ (checkpoints, result.json, accuracy.png)")
