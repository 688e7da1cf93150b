"""Tables of a sweep: accuracy over N, c and T (SlipReLU, Tables S6 to S8), the criterion (S9, S10), the choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from rich.table import Table

from transpike.errors import count
from transpike.experiments.sweep import Setting, theta_words
from transpike.experiments.sweep_record import Cell, Scores, SweepRecord, TrialState
from transpike.report.layout import plain_table


def variants(record: SweepRecord) -> dict[Setting, list[Cell]]:
    """Finished settings by all but N and c, which stand at 1 and 0 in the key."""
    found: dict[Setting, list[Cell]] = {}
    for cell in record.cells:
        key = replace(cell.setting, activation=replace(cell.setting.activation, levels=1, slope=0.0))
        found.setdefault(key, []).append(cell)
    return found


def variant_label(record: SweepRecord, variant: Setting) -> str:
    """Network and what the sweep varies besides N and c."""
    return ", ".join([variant.network, *_varied(record, variant)])


def _varied(record: SweepRecord, variant: Setting) -> list[str]:
    sweep, a = record.sweep, variant.activation
    words = [f"delta={a.shift:g}"] if len(sweep.shifts) > 1 else []
    words += [f"delta1={a.ramp_shift:g}"] if len(sweep.ramp_shifts) > 1 else []
    words += [f"{a.gradient.value} gradient"] if len(sweep.gradients) > 1 else []
    return [*words, f"theta={theta_words(a.theta_init)}"] if len(sweep.theta_inits) > 1 else words


def spiking(steps: int) -> Callable[[Scores], float]:
    """Reads the accuracy of the spiking network at T = ``steps``."""
    return lambda scores: scores.snn[steps]


def sweep_tables(record: SweepRecord) -> list[Table]:
    """All tables of a sweep; none where no setting is finished."""
    if not record.cells:
        return []
    groups = variants(record).items()
    found = [_accuracies(record, variant_label(record, variant), cells) for variant, cells in groups]
    found += [_criteria(record, variant_label(record, variant), cells) for variant, cells in groups]
    return [*found, choice_table(record)]


def _accuracies(record: SweepRecord, label: str, cells: list[Cell]) -> Table:
    """Tables S6 to S8: accuracy on test images, mean over seeds."""
    sweep = record.sweep
    images = round(cells[0].mean("test", lambda scores: scores.images))
    title = f"{label}: accuracy in % on {images:,} test images{_seeds(record)}"
    table = plain_table(title, "N", "c", "ANN", *(f"T={t}" for t in sweep.at))
    last = None
    for cell in cells:
        a = cell.setting.activation
        if last not in (None, a.levels):
            table.add_section()
        last = a.levels
        snn = [cell.mean("test", spiking(t)) for t in sweep.at]
        values = [cell.mean("test", lambda scores: scores.ann), *snn]
        table.add_row(str(a.levels), f"{a.slope:g}", *(f"{value:.2f}" for value in values))
    return table


def _criteria(record: SweepRecord, label: str, cells: list[Cell]) -> Table:
    """Tables S9 and S10, on the validation part; the last column with the factor 1/2 of section 4.4."""
    t = record.sweep.criterion_steps
    chosen = record.choose().setting
    title = f"{label}: criterion at T={t} on the validation part{_seeds(record)}; * chosen"
    table = plain_table(title, "N", "c", "ReLU", "ANN", "SNN", "|ReLU-ANN|", "|ANN-SNN|", "criterion", "")
    last = None
    for cell in cells:
        a = cell.setting.activation
        if last not in (None, a.levels):
            table.add_section()
        last = a.levels
        values = (
            cell.mean("validation", lambda scores: scores.relu),
            cell.mean("validation", lambda scores: scores.ann),
            cell.mean("validation", lambda scores: scores.snn[t]),
            cell.mean("validation", lambda scores: abs(scores.relu - scores.ann)),
            cell.mean("validation", lambda scores: abs(scores.ann - scores.snn[t])),
            cell.criterion(t),
        )
        mark = "*" if cell.setting == chosen else ""
        table.add_row(str(a.levels), f"{a.slope:g}", *(f"{value:.2f}" for value in values), mark)
    return table


def choice_table(record: SweepRecord) -> Table:
    """For every T: what the criterion chooses on the validation part, and what was best on test images."""
    table = plain_table(
        f"choice by the criterion on the validation part, and the best on test images in hindsight{_seeds(record)}",
        *("T", "chosen", "criterion", "test ANN", "test SNN", "best in hindsight", "test SNN", "behind"),
    )
    for column in (1, 5):
        table.columns[column].no_wrap = False
    for t in record.sweep.at:
        chosen, best = record.choose(t), record.best_in_hindsight(t)
        here, there = (cell.mean("test", spiking(t)) for cell in (chosen, best))
        table.add_row(
            str(t),
            _name(record, chosen),
            f"{chosen.criterion(t):.2f}",
            f"{chosen.mean('test', lambda scores: scores.ann):.2f}",
            f"{here:.2f}",
            _name(record, best),
            f"{there:.2f}",
            f"{there - here:.2f}",
        )
    return table


def sweep_notes(record: SweepRecord) -> list[str]:
    """What the tables do not say: what was left out, and what the words mean."""
    states = Counter(result.state for result in record.results)
    lines = [
        f"{label}: {result.trial}: {result.reason}"
        for label, state in (("failed", TrialState.FAILED), ("pruned", TrialState.PRUNED))
        for result in record.results
        if result.state is state
    ]
    spent = sum(result.cpu_seconds for result in record.results)
    lines.append(
        f"{count(states[TrialState.FINISHED], 'trial')} finished, {states[TrialState.PRUNED]} pruned, "
        f"{states[TrialState.FAILED]} failed; {record.seconds / 60:.1f} minutes, {spent / 60:.1f} of processor time"
    )
    if record.cells:
        lines.append("criterion: |ReLU - ANN| / 2 + |ANN - SNN| / 2 (section 4.4); Tables S9 and S10 print twice that")
    return lines


def _name(record: SweepRecord, cell: Cell) -> str:
    a = cell.setting.activation
    network = [cell.setting.network] if len(record.sweep.networks) > 1 else []
    return ", ".join([*network, f"N={a.levels}", f"c={a.slope:g}", *_varied(record, cell.setting)])


def _seeds(record: SweepRecord) -> str:
    seeds = len(record.sweep.seeds)
    return f", mean of {seeds} seeds" if seeds > 1 else ""
