"""All commands, in the order in which the help lists them; importing this module registers them."""

from transpike.cli import models, inspect, train, convert, train_snn, choose  # noqa: F401, I001
from transpike.cli import evaluate, evaluate_early, compare_methods, compare_schedules  # noqa: F401
from transpike.cli import analyze_activation, analyze_error, analyze_offset, report, export, bench, run, sweep  # noqa: F401
from transpike.cli import doctor  # noqa: F401
from transpike.cli.main import analyze, app, compare

app.add_typer(compare, name="compare")
app.add_typer(analyze, name="analyze")
