"""The program ``transpike``."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from transpike.errors import TranspikeError

_INTERRUPTED = 130
"""Exit status after Ctrl-C, which typer sets before anything else can."""
_HELP = "Trained neural networks become spiking ones that answer after a few time-steps."


def _group(**settings: Any) -> typer.Typer:
    return typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", **settings)


app = _group(
    name="transpike",
    help=_HELP,
    epilog="Start with: transpike run digits",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
compare = _group(help="Compare schedules of one converted network, or methods to convert one that is not.")
analyze = _group(help="Look into a converted network: where its answers differ from the ANN's, and why.")


@compare.callback()
def _compare() -> None:
    """Compare schedules of one converted network, or methods to convert one that is not.

    Examples:
    * `transpike compare schedules snn.safetensors`
    * `transpike compare methods relu.safetensors`
    """


@analyze.callback()
def _analyze() -> None:
    """Look into a converted network: where its answers differ from the ANN's, and why.

    Examples:
    * `transpike analyze activation -N 4 -c 0.4 -T 4 -o figure1.png`
    * `transpike analyze error snn.safetensors`
    * `transpike analyze offset snn.safetensors`
    """


def _version(wanted: bool) -> None:
    if wanted:
        from transpike import __version__

        typer.echo(f"transpike {__version__}")
        raise typer.Exit


@app.callback(help=_HELP)
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole trace of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the program; an error is one message, a trace only with ``--debug``."""
    from transpike.cli import commands  # noqa: F401 - registers them

    try:
        app()
    except (TranspikeError, ValueError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        text = error.shell_message() if isinstance(error, TranspikeError) else str(error)
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error:[/] {escape(text)}")
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            raise
        again = "training, and what writes to a folder (-o) or --cache, goes on when the same command is started again"
        Console(stderr=True, soft_wrap=True).print(f"interrupted; {again}", markup=False)
        sys.exit(_INTERRUPTED)
