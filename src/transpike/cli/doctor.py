"""``transpike doctor``: what is installed, and whether the compiled kernels compute what they should."""

from __future__ import annotations

import typer

from transpike.cli.main import app
from transpike.cli.output import out


@app.command()
def doctor() -> None:
    """Say what is installed and what is not, and test the native kernels; exit status 1 if they fail or are missing.

    Example:
    * `transpike doctor`
    """
    from transpike.report.doctor import doctor_table
    from transpike.testing.doctor import diagnose

    found = diagnose()
    out.print(doctor_table(found))
    if not found.healthy:
        out.print("[bold red]something that transpike needs is broken[/]")
        raise typer.Exit(1)
    out.print("[bold green]all that transpike needs is there[/]")
