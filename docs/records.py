"""Records in `results/` for the tables and figures: what was measured, and a sentence about where and when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import old_records

from transpike import zoo
from transpike.experiments.recipe import find_recipe
from transpike.experiments.record import Record, RowResult, read_record

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
SHORT = (1, 2, 4, 8)
LONG = (16, 32)


# ---- Markdown --------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are aligned to the left, the others to the right."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * left + "---:|" * (len(head) - left)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(value: float | None, digits: int = 2) -> str:
    """A percentage, or nothing."""
    return "" if value is None else f"{value:.{digits}f}"


def link(name: str) -> str:
    """A link to a record, for pages of the site one folder below its root."""
    return f"{{download}}`{name} <../../results/{name}>`"


# ---- records ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One row of a record: what is shown, by T."""

    label: str
    images: int
    ann: float | None
    top1: Mapping[int, float]
    events: Mapping[int, float]
    pipeline: Mapping[int, int]

    @property
    def latency(self) -> str:
        """Pipeline latency as a formula in T."""
        extra = {pipeline - t for t, pipeline in self.pipeline.items()}
        if not extra:
            return ""
        if extra == {0}:
            return "T"
        return f"{extra.pop()} + T" if len(extra) == 1 else ", ".join(str(value) for value in self.pipeline.values())

    def cells(self, steps: Sequence[int]) -> list[str]:
        """Accuracies at these T, empty where none was measured."""
        return [percent(self.top1.get(t)) for t in steps]


@dataclass(frozen=True)
class Found:
    """A record as the tables show it: lines by label and by the recipe's word for their test images."""

    lines: Mapping[tuple[str, str], Line]
    about: str

    def of(self, images: str) -> dict[str, Line]:
        """Lines of some test images by label, in the record's order."""
        return {label: line for (label, word), line in self.lines.items() if word == images}


def raw(name: str) -> Any:
    """A file in `results/`."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def sources(name: str) -> tuple[str, ...]:
    """The files that `found` reads."""
    return (name,) if (RESULTS / name).exists() else old_records.FILES.get(name, (name,))


def found(name: str) -> Found:
    """A `Record` in `results/`, or the older files that it replaces."""
    if not (RESULTS / name).exists():
        lines, about = old_records.READERS[name](raw)
        return Found({key: Line(*line) for key, line in lines.items()}, about)
    record = read_record(RESULTS / name)
    return Found({(row.label, row.images): _line(row) for row in record.rows if row.runs}, _about(record))


def card_line(name: str, schedule: str) -> Line:
    """A trained network of the zoo under one of its card's schedules."""
    card = zoo.card(name)
    (shown,) = (each for each in card.schedules if each.schedule == schedule)
    ann = card.ann_top1 if card.through_time is None else None  # of what a spiking network came from
    return Line(schedule, card.test_images, ann, shown.top1, {}, shown.pipeline_steps)


def published_line(family: str, label: str) -> Line:
    """What a paper published in a row of a recipe."""
    (row,) = (each for each in find_recipe(family).rows if each.label == label)
    assert row.published_ann is not None
    return Line(label, 0, row.published_ann, row.published, {}, {})


def _line(row: RowResult) -> Line:
    report = row.report
    return Line(
        row.label,
        report.images,
        report.ann_top1,
        {at.steps: at.top1 for at in report.rows},
        {at.steps: at.events for at in report.rows},
        {at.steps: at.latency.pipeline_steps for at in report.rows},
    )


def _about(record: Record) -> str:
    here = record.environment
    made = dict.fromkeys(_commit(run.environment.commit) for row in record.rows for run in row.runs)
    commits = f"commit{'s' if len(made) > 1 else ''} {', '.join(made)}"
    images = f", {record.calibration_images} calibration images" if record.calibration_images else ""
    return (
        f"Seed {record.seed}{images}; {here.accelerator or here.cpu}, {here.cores} cores, "
        f"{here.threads} thread{'s' if here.threads > 1 else ''}; torch "
        f"{here.torch}, Python {here.python}, transpike {here.transpike}; {commits}, {here.date[:10]}."
    )


def _commit(full: str) -> str:
    return full[:7] + (" with changes" if "+" in full else "")


def instructions(file: Mapping[str, Any]) -> str:
    """The instruction set of a timing."""
    name = str(file["instruction_set"])
    return {"avx512": "AVX-512", "avx512_vbmi2": "AVX-512 VBMI2", "avx2": "AVX2"}.get(name, name)


def about(file: Mapping[str, Any]) -> str:
    """The same of a file of another shape: what its ``seed``, ``versions`` and ``environment`` know."""
    here = file["environment"]
    parts = [f"seed {file['seed']}"] if "seed" in file else []
    parts += [here["cpu"]] if "cpu" in here else []
    threads, torch = file.get("threads", here.get("threads")), file.get("torch", here.get("torch"))
    parts += [f"{threads} thread" + "s" * (threads != 1)] if threads else []
    parts += [instructions(file)] if "instruction_set" in file else []
    versions = {"torch": torch} if torch else file.get("versions", {})
    parts += [f"{name} {version}" for name, version in sorted(versions.items())]
    parts += [f"recorded in commit {_commit(here['commit'])}, {here['date'][:10]}"]
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."
