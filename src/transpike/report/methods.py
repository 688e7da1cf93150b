"""Tables of the choice among methods of conversion."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from transpike.experiments.compare import MethodResult
from transpike.report.layout import plain_table
from transpike.selection.choose import Choice, Trial


def choice_table(choice: Choice) -> Table:
    """Every method that was tried, the best first, and why the others are behind it."""
    calibrated, judged = choice.images
    title = f"{choice.budget} {choice.latency.value} steps, {calibrated:,} images calibrate, {judged:,} judge"
    columns = ("method", "T", "pipeline", "as the ANN %", "error", "events/image", "seconds")
    table = plain_table(title, *columns)
    table.add_column("why")
    best = choice.ranking[0]
    for trial in choice.ranking:
        table.add_row(
            trial.method,
            str(trial.latency.answer_steps),
            str(trial.latency.pipeline_steps),
            f"{trial.agreement:.2f}",
            f"{trial.error:.4g}",
            f"{trial.events:,.0f}",
            f"{trial.seconds:.1f}",
            "chosen" if trial is best else _why(trial, best),
        )
    for refusal in choice.refused:
        table.add_row(refusal.method, *["-"] * (len(columns) - 1), f"refused: {refusal.reason}")
    return table


def _why(trial: Trial, best: Trial) -> str:
    """What decided against a method."""
    if trial.agreement < best.agreement:
        chance = ", may be chance" if trial.doubt else ""
        return f"{best.agreement - trial.agreement:.2f} points fewer answers{chance}"
    return "as many answers, larger error" if trial.error > best.error else "the same, not fewer events"


def methods_table(results: Sequence[MethodResult], at: int) -> Table:
    """Accuracy of every method at each T, with pipeline steps; events and seconds of the conversion at T = ``at``."""
    steps = sorted({row.steps for result in results for row in result.rows})
    images = {row.steps: f"{row.images:,}, ANN {row.ann:.2f}" for result in results for row in result.rows}
    tested = "; ".join(f"T={t}: {images[t]}" for t in steps)
    title = (
        f"top-1 accuracy in %; in brackets the pipeline steps; events/image and seconds at T = {at}\nimages: {tested}"
    )
    table = plain_table(title, "method", *(f"T={t}" for t in steps), "events", "seconds")
    table.add_column("needs")
    for result in results:
        rows = {row.steps: row for row in result.rows}
        cells = [f"{rows[t].top1:.2f} [{rows[t].latency.pipeline_steps}]" if t in rows else "-" for t in steps]
        cost = [f"{rows[at].events:,.0f}", f"{rows[at].seconds:.1f}"] if at in rows else ["-", "-"]
        needs = f"refused: {result.refused}" if result.refused else ", ".join(result.needs)
        table.add_row(result.method, *cells, *cost, needs)
    return table
