"""``transpike analyze activation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.activations import ACTIVATIONS
from transpike.cli.main import analyze
from transpike.cli.options import named
from transpike.cli.output import out, say


@analyze.command()
def activation(
    names: Annotated[
        list[str] | None,
        named("--activation", ACTIVATIONS, "Repeatable (default: threshold-relu, qcfs and slip, as in the paper)"),
    ] = None,
    levels: Annotated[int, typer.Option("--levels", "-N", help="N (L of QCFS): steps of the staircase.")] = 4,
    slope: Annotated[float, typer.Option("--slope", "-c", help="c of SlipReLU in [0, 1].")] = 0.3,
    steps: Annotated[int, typer.Option("--steps", "-T", min=1, help="T, the number of time-steps.")] = 4,
    shift: Annotated[float | None, typer.Option(help="delta (default: that of the activation).")] = None,
    ramp_shift: Annotated[float | None, typer.Option(help="delta1 (default: that of the activation).")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The picture (*.png, *.svg).")] = None,
) -> None:
    """Draw activations against the staircase of their spiking neuron (SlipReLU paper, figure 1).

    The table has the exact mean error for a pre-activation that is uniform between 0 and theta, beside what Theorem 2
    of the paper says, which holds for N = T and a shift of 1/2.

    Examples:
    * `transpike analyze activation -N 4 -c 0.4 -T 4 -o figure1.png`
    * `transpike analyze activation --activation slip -N 2 -c 0.2 -T 8`
    """
    from transpike.activations import SlipReLU
    from transpike.cli.words import read_activation
    from transpike.cli.work import check_plot
    from transpike.functional import conversion_error_bound
    from transpike.report import mean_error, plain_table, plot_activations

    shifts = {"shift": shift, "ramp_shift": ramp_shift}
    given = {key: value for key, value in shifts.items() if value is not None}
    defaults = {"levels": levels, "slope": slope}
    chosen = {name: read_activation(name, given, defaults) for name in names or ("threshold-relu", "qcfs", "slip")}
    if output is not None:
        check_plot(output)
    table = plain_table(f"mean |ANN - SNN| in thresholds, T = {steps}", "activation", "exact", "Theorem 2", "it holds")
    for name, settings in chosen.items():
        error = mean_error(settings, steps)
        if error is None or not isinstance(settings, SlipReLU):
            table.add_row(str(settings), "-", "-", "-")
            continue
        holds = settings.shift == 0.5 and settings.ramp_shift == 0 and (settings.levels == steps or settings.slope == 1)
        theorem = conversion_error_bound(1.0, settings.slope, steps)
        table.add_row(name, f"{error:.6f}", f"{theorem:.6f}", "yes" if holds else "no")
    out.print(table)
    if output is not None:
        plot_activations({str(settings): settings for settings in chosen.values()}, steps, output)
        say(f"written: {output}")
