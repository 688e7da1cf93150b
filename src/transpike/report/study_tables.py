"""The numbers of a report as flat records: tables of the page, and data frames."""

from __future__ import annotations

from typing import Any

from transpike.errors import needs_extra
from transpike.evaluation.causes import CAUSES
from transpike.evaluation.energy import ENERGY_RULES
from transpike.evaluation.report import Report
from transpike.experiments.study import Study

Rows = list[dict[str, Any]]
"""One record per line; all have the same keys."""


def study_frames(study: Study) -> dict[str, Any]:
    """Every table of `study_tables` as a pandas ``DataFrame``, by name."""
    with needs_extra("plots", "a data frame"):
        import pandas

    return {name: pandas.DataFrame(rows) for name, rows in study_tables(study).items()}


def study_tables(study: Study) -> dict[str, Rows]:
    """All tables of a study by name; those without data are empty."""
    return {
        "schedules": [_accuracy(label, report)[-1] for label, report in _all(study).items()],
        "accuracy": [row for label, report in _all(study).items() for row in _accuracy(label, report)],
        "rows": [row for label, report in study.rows.items() for row in _accuracy(label, report)],
        "agreement": [{"T": t, "same answer %": 100 * share} for t, share in enumerate(study.agreement, 1)],
        "sites": _sites(study),
        "causes": _causes(study),
        "offsets": _offsets(study),
        "operations": _operations(study),
        "layers": _layers(study),
        "examples": _examples(study),
    }


def _all(study: Study) -> dict[str, Report]:
    return {**study.reports, **study.baseline}


def _accuracy(label: str, report: Report) -> Rows:
    return [
        {
            "schedule": label,
            "T": row.steps,
            "top-1 %": row.top1,
            "to ANN": row.top1 - report.ann_top1,
            "top-5 %": row.top5,
            "spikes/image": row.events,
            "claimed": row.latency.claimed_steps,
            "pipeline": row.latency.pipeline_steps,
            "interval": row.latency.interval,
        }
        for row in report.rows
    ]


def _sites(study: Study) -> Rows:
    causes = {site.site: site for site in study.causes.sites}
    others = {label: {site.name: site.rate for site in report.sites} for label, report in study.reports.items()}
    return [
        {
            "site": site.name,
            "neurons": site.neurons,
            "spikes/image": site.events,
            **{f"rate, {label}": rates[site.name] for label, rates in others.items()},
            "saturated %": 100 * causes[site.name].saturated,
            "silent %": 100 * causes[site.name].silent,
        }
        for site in study.report.sites
    ]


def _causes(study: Study) -> Rows:
    return [
        {
            "site": site.site,
            "error %": 100 * site.error / (site.scale or 1.0),
            "own %": 100 * site.own / (site.scale or 1.0),
            **{f"{name} %": 100 * site.cause(name).size / (site.scale or 1.0) for name in CAUSES},
            **{f"{name}, share %": 100 * site.cause(name).share for name in CAUSES},
        }
        for site in study.causes.sites
    ]


def _offsets(study: Study) -> Rows:
    return [
        {
            "site": site.site,
            "schedule": label,
            "exact %": 100 * site.exact,
            "mean square": site.mse,
            **{f"{offset:+d}" if offset else "0": site.counts[offset + site.probe_steps] for offset in site.offsets},
        }
        for label, found in study.offsets.items()
        for site in found.sites
    ]


def _operations(study: Study) -> Rows:
    ann = study.ann_operations
    anns = {rule.name: rule.dense(ann) for rule in ENERGY_RULES}
    whole = {
        "network": "ANN",
        "T": None,
        "top-1 %": study.report.ann_top1,
        "ACs": ann.effective_acs,
        "MACs": ann.effective_macs,
        "MACs, nothing kept": ann.repeated_macs,
        "dense": ann.dense,
        "sparsity %": 100 * ann.activation_sparsity,
        "neuron updates": None,
    }
    for name, energy in anns.items():
        whole |= {f"µJ, {name}": energy, f"of the ANN's, {name}": 1.0}
    rows = [whole]
    for run in study.operations:
        found = run.operations
        row: dict[str, Any] = {
            "network": run.label,
            "T": run.steps,
            "top-1 %": run.top1,
            "ACs": found.effective_acs,
            "MACs": found.effective_macs,
            "MACs, nothing kept": found.repeated_macs,
            "dense": found.dense,
            "sparsity %": 100 * found.activation_sparsity,
            "neuron updates": found.updates,
        }
        for rule in ENERGY_RULES:
            energy = rule.spiking(found)
            row |= {f"µJ, {rule.name}": energy, f"of the ANN's, {rule.name}": energy / anns[rule.name]}
        rows.append(row)
    return rows


def _layers(study: Study) -> Rows:
    last = [run for run in study.operations if run.label == study.main][-1].operations
    ann = {layer.layer: layer for layer in study.ann_operations.layers}
    return [
        {
            "layer": layer.layer,
            "counts as": "AC" if layer.events else "MAC",
            "runs/image": layer.runs,
            "effective": layer.effective,
            "dense": layer.dense,
            "ANN, effective": ann[layer.layer].effective if layer.layer in ann else None,
            "ANN, dense": ann[layer.layer].dense if layer.layer in ann else None,
        }
        for layer in last.layers
    ]


def _examples(study: Study) -> Rows:
    return [
        {
            "image": example.answers.image,
            "label": study.class_name(example.answers.label),
            "ANN": study.class_name(example.answers.ann),
            **{f"T = {t}": study.class_name(answer) for t, answer in enumerate(example.answers.answers, 1)},
        }
        for example in study.examples
    ]
