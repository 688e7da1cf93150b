"""Rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table
from torch import nn

from transpike.activations import LearnedSlipActivation
from transpike.conversion.inspect import Inspection
from transpike.errors import count
from transpike.evaluation.report import Report
from transpike.experiments.record import Record
from transpike.report.layout import plain_table, text_table
from transpike.training import Epoch
from transpike.zoo import ZOO, ModelCard

LATENCY_CAPTION = (
    "steps to the answer: T read out; claimed: as the schedule's paper counts; pipeline: from the first input, all "
    "layers stepping at once; interval: between two images"
)
"""What the columns of latency mean."""


def interesting_steps(report: Report) -> list[int]:
    """Powers of two among the rows, and the last row."""
    steps = [row.steps for row in report.rows]
    return [t for t in steps if t & (t - 1) == 0 or t == steps[-1]]


def report_table(report: Report, steps: Sequence[int] | None = None) -> Table:
    """Accuracy, events and the four latency figures at several T."""
    title = f"{report.images:,} images, ANN {report.ann_top1:.2f} %, {report.schedule}"
    title += f", readout after {report.readout_delay} steps" if report.readout_delay else ""
    table = plain_table(title, "T", "top-1 %", "top-5 %", "to ANN", "events/image", "claimed", "pipeline", "interval")
    for t in steps or interesting_steps(report):
        row = report.row(t)
        table.add_row(
            str(t),
            f"{row.top1:.2f}",
            f"{row.top5:.2f}",
            f"{row.top1 - report.ann_top1:+.2f}",
            f"{row.events:,.0f}",
            str(row.latency.claimed_steps),
            str(row.latency.pipeline_steps),
            str(row.latency.interval),
        )
    return table


def sites_table(report: Report) -> Table:
    """Activity of every site."""
    table = plain_table(f"activity over T = {report.rows[-1].steps}", "site", "neurons", "events/image", "rate/step")
    for site in report.sites:
        table.add_row(site.name, f"{site.neurons:,}", f"{site.events:,.0f}", f"{site.rate:.4f}")
    return table


def record_table(record: Record) -> Table:
    """Top-1 accuracy of the rows of a record at the same T; beneath each what was published, and the difference."""
    shown = {t for row in record.rows if row.runs for t in interesting_steps(row.report)}
    steps = sorted(shown.union(*(row.published for row in record.rows)))
    repeated = any(row.repeats for row in record.rows)
    title = "top-1 accuracy in %" + (", mean and standard deviation over seeds" if repeated else "")
    table = plain_table(title, "row", "images", "ANN", *(f"T={t}" for t in steps))
    for row in record.rows:
        name = row.label
        if row.runs:
            at = {t: str(found) for t, found in row.top1.items()}
            table.add_row(name, f"{row.report.images:,}", str(row.ann), *(at.get(t, "-") for t in steps))
            name = ""
        if row.published:
            ann = "-" if row.published_ann is None else f"{row.published_ann:.2f}"
            cells = [f"{row.published[t]:.2f}" if t in row.published else "-" for t in steps]
            table.add_row(f"{name}  published" if name else "  published", "", ann, *cells)
        if row.differences:
            ann = "" if row.published_ann is None else f"{row.ann.mean - row.published_ann:+.2f}"
            found = row.differences
            table.add_row("  difference", "", ann, *(f"{found[t]:+.2f}" if t in found else "" for t in steps))
    return table


def record_offsets_table(record: Record) -> Table:
    """Offset spikes of the rows of a record at the output layer: ratio in % / mean square, and what was published."""
    labels = list(dict.fromkeys(label for found in record.offsets for label in found.free))
    title = "neurons of the last layer without offset in % / mean squared offset"
    table = plain_table(title, "row", "images", *labels)
    for found in record.offsets:
        last = {label: offsets.sites[-1] for label, offsets in found.free.items()}
        cells = [f"{100 * last[name].exact:.2f} / {last[name].mse:.3f}" if name in last else "-" for name in labels]
        table.add_row(found.row.label, f"{found.images:,}", *cells)
        ratio, mse = found.row.published.ratio, found.row.published.mse
        if ratio or mse:
            shown = [(ratio.get(name), mse.get(name)) for name in labels]
            cells = [" / ".join(["-" if a is None else f"{a:.2f}", "-" if b is None else f"{b:.3f}"]) for a, b in shown]
            table.add_row("  published", "", *cells)
    return table


def schedules_table(reports: Mapping[str, Report]) -> Table:
    """Top-1 accuracy of several schedules on one network, with events and pipeline steps at each T it was run for."""
    steps = sorted({t for report in reports.values() for t in interesting_steps(report)})
    first = next(iter(reports.values()))
    title = f"top-1 accuracy in %, {first.images:,} images, ANN {first.ann_top1:.2f}"
    title += "; in brackets the pipeline steps; events/image at the last T"
    table = plain_table(title, "schedule", *(f"T={t}" for t in steps), "events", "seconds")
    for label, report in reports.items():
        rows = {row.steps: row for row in report.rows}
        cells = [f"{rows[t].top1:.2f} [{rows[t].latency.pipeline_steps}]" if t in rows else "-" for t in steps]
        table.add_row(label, *cells, f"{report.rows[-1].events:,.0f}", f"{report.seconds:.1f}")
    return table


def training_table(history: Sequence[Epoch], last: int | None = None) -> Table:
    """Loss and accuracy of all epochs or the ``last`` ones; where spikes were penalised, what they will cost."""
    penalised = any(epoch.operations is not None for epoch in history)
    table = plain_table("training", "epoch", "loss", "train %", "validation %", *["operations %"] * penalised)
    left_out = 0 if last is None else max(0, len(history) - last)
    if left_out:
        table.caption = f"{count(left_out, 'earlier epoch')} not shown"
    for epoch in history[left_out:]:
        row = [f"{epoch.loss:.4f}", f"{epoch.train_accuracy:.2f}", f"{epoch.validation_accuracy:.2f}"]
        row += [] if epoch.operations is None else [f"{100 * epoch.operations:.1f}"]
        table.add_row(str(epoch.epoch), *row)
    return table


def learned_table(network: nn.Module) -> Table | None:
    """N, c and theta of every activation that learned them, by T; None if there is none."""
    found = {name: part for name, part in network.named_modules() if isinstance(part, LearnedSlipActivation)}
    if not found:
        return None
    steps = next(iter(found.values())).config.steps
    table = plain_table("learned: N, c", "activation", *(f"T={t}" for t in steps), "theta")
    for name, activation in found.items():
        pairs = [f"{levels}, {slope:.2f}" for levels, slope in activation.learned.values()]
        table.add_row(name, *pairs, f"{float(activation.threshold.detach()):.3g}")
    return table


def inspection_table(inspection: Inspection) -> Table:
    """The sites that a conversion would make."""
    table = text_table(inspection.title, "site", "kind", "population", "drive", "operator")
    table.add_column("source", no_wrap=True, overflow="ellipsis")
    for site in inspection.plan.sites:
        shape = "x".join(str(size) for size in site.shape)
        drive = "constant" if site.constant_drive else "spikes"
        table.add_row(site.name, site.kind.value, shape, drive, site.operator, site.source)
    return table


def models_table() -> Table:
    """The built-in networks."""
    table = text_table("built-in networks", "name", "input", "data", "about")
    for name, entry in ZOO.items():
        table.add_row(name, "x".join(map(str, entry.inputs.shape)), entry.inputs.dataset, entry.about)
    return table


def trained_table(cards: Mapping[str, ModelCard]) -> Table:
    """The trained networks: accuracy of the ANN, and of the first schedule of each at the same T, up to 32."""
    steps = sorted({t for card in cards.values() for found in card.schedules[:1] for t in found.top1 if t <= 32})
    table = plain_table("trained networks, top-1 accuracy in %", "name", "data", "ANN", *(f"T={t}" for t in steps))
    for name, card in cards.items():
        top1 = card.schedules[0].top1 if card.schedules else {}
        cells = [f"{top1[t]:.2f}" if t in top1 else "-" for t in steps]
        ann = f"{card.ann_top1:.2f}" if card.through_time is None else f"from {card.ann_top1:.2f}"
        table.add_row(name, card.dataset, ann, *cells)
    if any(card.through_time is not None for card in cards.values()):
        table.caption = "from: converted already, and trained through time; the accuracy of the ANN that it came from"
    return table


def card_table(card: ModelCard) -> Table:
    """All that a card says, line by line."""
    training = card.training
    table = text_table(card.name, "", "")
    lines = {
        "network": card.network,
        "activation": str(card.activation or "ReLU"),
        "data": card.dataset,
        "mean": ", ".join(f"{value:.4f}" for value in card.mean),
        "std": ", ".join(f"{value:.4f}" for value in card.std),
        "training": training.about,
        "went on from": training.start or "fresh weights",
        "epochs": str(training.epochs),
        "learning rate": f"{training.learning_rate:g}",
        "weight decay": f"{training.weight_decay:g}",
        "batch size": str(training.batch_size),
        "training images": f"{training.training_images:,}",
        "seed": str(training.seed),
        f"ANN, {card.test_images:,} test images": f"{card.ann_top1:.2f} %",
    }
    if card.through_time is not None:
        lines["converted, then"] = str(card.through_time)
    for found in card.schedules:
        lines[found.schedule] = ", ".join(
            f"T = {t}: {value:.2f} % [{found.pipeline_steps[t]}]" for t, value in found.top1.items()
        )
    for name, value in {**lines, "record": card.record, "licence": card.licence, "SHA-256": card.sha256}.items():
        table.add_row(name, value)
    table.caption = "in brackets the pipeline steps" if card.schedules else None
    return table


def recipes_table(about: Mapping[str, str]) -> Table:
    """Recipes by name."""
    table = text_table("recipes", "recipe", "about")
    for name, line in about.items():
        table.add_row(name, line)
    return table
