"""The program ``transpike``."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer
from rich.console import Console

from transpike.errors import TranspikeError

app = typer.Typer(
    name="transpike",
    help="Trained neural networks become spiking ones that answer after a few time-steps.",
    epilog="Start with: transpike run digits",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from transpike import __version__

        typer.echo(f"transpike {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Trained neural networks become spiking ones that answer after a few time-steps."""


def main() -> None:
    """Runs the program; an error is one message, a trace only with ``--debug``."""
    from transpike.cli import analyze, bench, commands, doctor, measure  # noqa: F401 - registers the commands

    try:
        app()
    except (TranspikeError, ValueError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {_escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; long runs go on from where they were when started again")
        sys.exit(130)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
