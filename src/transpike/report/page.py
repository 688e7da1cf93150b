"""A study as one HTML page that needs no network."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from transpike.errors import OutputError, needs_extra
from transpike.evaluation.energy import ENERGY_RULES
from transpike.experiments.study import Study
from transpike.report.chart_figures import plotly_figure
from transpike.report.charts import study_charts
from transpike.report.error_tables import error_advice
from transpike.report.study_tables import study_tables
from transpike.serialization.json_records import write_atomically

_SECTIONS = (
    ("summary", "Summary"),
    ("accuracy", "Accuracy and latency"),
    ("rates", "Firing rates"),
    ("causes", "Error by cause"),
    ("offsets", "Offset spikes"),
    ("raster", "Events of one image"),
    ("examples", "Examples"),
    ("cost", "Events, operations, energy"),
    ("reproduce", "Reproduce"),
)

_HEAD = 4096
"""Bytes of a page that say who wrote it."""


@dataclass(frozen=True)
class _Card:
    """A number of the summary."""

    title: str
    value: str
    about: str


def need_page_libraries() -> None:
    """Makes sure, before long work begins, that a page can be made.

    Raises:
        MissingExtraError: Jinja, Pillow or Plotly is not installed.
    """
    with needs_extra("plots", "a report"):
        import jinja2  # noqa: F401
        import PIL.Image  # noqa: F401
        import plotly  # noqa: F401


def check_page_path(path: Path) -> None:
    """Makes sure that no foreign file lies where a page is to be written.

    Raises:
        OutputError: there is one.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        ours = b'<meta name="generator" content="transpike' in file.read(_HEAD)
    if not ours:
        raise OutputError(
            "the file is no report that transpike wrote, and is left as it is",
            where=str(path),
            fix="choose another -o, or remove this file",
        )


def write_page(study: Study, path: Path) -> None:
    """Writes the page of a study.

    Raises:
        MissingExtraError: Plotly or Jinja is not installed.
        OutputError: the file cannot be written.
    """
    text = study_page(study)
    write_atomically(path, lambda temporary: _write(temporary, text))


def study_page(study: Study) -> str:
    """A study as HTML. Everything is in the text: styles, script, pictures and the plotting library.

    The page's own policy forbids requests of any kind, and scripts other than its own two.

    Raises:
        MissingExtraError: Plotly or Jinja is not installed.
    """
    with needs_extra("plots", "a page"):
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

    library = _library()
    script, style, page = (_file(name) for name in ("page.js", "page.css", "page.html"))
    charts = study_charts(study)
    data = {
        "charts": [plotly_figure(chart) for chart in charts.values()],
        "events": {**asdict(study.events)},
        "classes": list(study.classes),
    }
    templates = Environment(autoescape=True, undefined=StrictUndefined)
    templates.filters["cell"] = cell
    return templates.from_string(page).render(
        study=study,
        policy=_policy(library, script),
        style=Markup(style),
        script=Markup(script),
        library=Markup(_packed(library)),
        data=Markup(_json(data)),
        charts=charts,
        tables=study_tables(study),
        cards=_cards(study),
        facts=_facts(study),
        advice=error_advice(study.causes),
        rules=ENERGY_RULES,
        sections=_SECTIONS,
        most_steps=max(len(site.totals) for site in study.events.sites),
    )


def cell(value: Any) -> str:
    """A value as text of a table: whole numbers in full, others with four figures at most."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    return str(value)


def _cards(study: Study) -> list[_Card]:
    report, ann = study.report, study.ann_operations
    last = report.rows[-1]
    run = [each for each in study.operations if each.label == study.main][-1]
    rule = ENERGY_RULES[0]
    best = max(
        ((row, label) for label, found in study.reports.items() for row in found.rows),
        key=lambda each: (each[0].top1, -each[0].latency.pipeline_steps),
    )
    cards = [
        _Card("ANN", f"{report.ann_top1:.2f} %", f"ReLU, same weights: {study.relu_top1:.2f} %"),
        *(
            _Card(
                f"{label}, ANN",
                f"{found.ann_top1:.2f} %",
                f"SNN at T = {found.rows[-1].steps}: {found.rows[-1].top1:.2f} %",
            )
            for label, found in study.baseline.items()
        ),
        _Card(
            f"SNN, {study.main}, T = {last.steps}",
            f"{last.top1:.2f} %",
            f"{last.top1 - report.ann_top1:+.2f} to the ANN, {last.latency.pipeline_steps} pipeline steps",
        ),
        _Card(
            "Most accurate here",
            f"{best[0].top1:.2f} %",
            f"{best[1]}, T = {best[0].steps}, {best[0].latency.pipeline_steps} pipeline steps",
        ),
        _Card("Spikes per image", cell(round(last.events)), f"{last.events / study.neurons:.2f} per neuron"),
        _Card(
            "Energy, share of the ANN's",
            f"{100 * rule.spiking(run.operations) / rule.dense(ann):.1f} %",
            f"{rule.name}, T = {run.steps}, arithmetic only",
        ),
    ]
    return cards


def _facts(study: Study) -> dict[str, str]:
    here, settings = study.environment, study.settings
    return {
        "Conversion": study.conversion,
        "Schedules": "; ".join(f"{label}: {report.schedule}" for label, report in study.reports.items()),
        "Test images": f"{study.report.images:,} (--images {settings.images}) of {study.dataset}; the first "
        f"{study.causes.images:,} for causes, offsets and answers, the first {study.ann_operations.images:,} for "
        "operations",
        "Seed": "0, of the split of the data; test images are taken in their order",
        "Digest of the network": study.network_digest,
        "Digest of the test data": study.data_digest,
        "Precision, device": f"{study.report.dtype}, {study.report.device}",
        "transpike": f"{here.transpike} {here.commit}".strip(),
        "Python, PyTorch": f"{here.python}, {here.torch}",
        "Machine": f"{here.cpu}, {here.cores} cores, {here.threads} threads"
        + (f", {here.accelerator}" if here.accelerator else ""),
        "Date": here.date,
    }


@cache
def _library() -> str:
    """The source of plotly.js, which the Python package ships."""
    with needs_extra("plots", "a page"):
        from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source.replace("\r\n", "\n")


@cache
def _packed(library: str) -> str:
    """The library as gzip in base64; without the time, so that equal studies give equal pages."""
    return base64.b64encode(gzip.compress(library.encode(), 9, mtime=0)).decode("ascii")


def _policy(*scripts: str) -> str:
    """No requests; scripts by their hash alone."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'" for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _file(name: str) -> str:
    return (files("transpike.report") / "page_files" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
