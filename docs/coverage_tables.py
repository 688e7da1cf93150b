"""Tables of the networks that convert: other libraries' as they are, and small trained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from records import about, link, percent, raw, table

FAMILIES: Mapping[str, str] = {
    "tv-classification": "torchvision, classification",
    "tv-segmentation": "torchvision, segmentation",
    "tv-video": "torchvision, video",
    "timm": "timm, small members of its modules",
    "hf": "Hugging Face, small configurations",
}
_KINDS = ("if", "pointwise", "product", "group")


def _families() -> dict[str, list[dict[str, Any]]]:
    rows = raw("coverage.json")["rows"]
    found = {title: [row for row in rows if row["group"].split(":")[0] == group] for group, title in FAMILIES.items()}
    return {title: own for title, own in found.items() if own}


def _middle(rows: Sequence[Mapping[str, Any]], steps: int) -> str:
    """The median error of what was run, in percent."""
    errors = [row[f"error_{steps}"] for row in rows if row.get(f"error_{steps}") is not None]
    return percent(100 * median(errors), 1) if errors else ""


def coverage_summary() -> str:
    """How many networks of each family convert, and the median error of their answers."""
    lines = []
    for title, rows in _families().items():
        converted = [row for row in rows if row["converts"]]
        plain = sum(set(row["sites"]) <= {"if"} for row in converted)
        lines.append((title, len(rows), len(converted), plain, _middle(converted, 4), _middle(converted, 8)))
    head = ("family", "networks", "convert", "of these with ReLUs only", "median error in %, T = 4", "T = 8")
    record = raw("coverage.json")
    return table(head, lines) + f"\n{about(record)} Record: {link('coverage.json')}.\n"


def coverage_line() -> str:
    """The same in one sentence."""
    parts = [f"{sum(row['converts'] for row in rows)} of {len(rows)} ({title})" for title, rows in _families().items()]
    return "Converted unedited, with random weights: " + "; ".join(parts) + "."


def coverage_rows() -> str:
    """Every network: its sites by kind, how it was captured, and the error of its answer."""
    lines = []
    for rows in _families().values():
        for row in rows:
            if row["converts"]:
                sites = [row["sites"].get(kind) or "" for kind in _KINDS]
                errors = [percent(100 * row[f"error_{t}"], 2) if row.get(f"error_{t}") else "" for t in (4, 8)]
                note = row.get("note", "")
                lines.append((f"`{row['model']}`", _CAPTURE.get(row["capture"], ""), *sites, *errors, note))
    head = ("network", "captured by", *_KINDS, "error in %, T = 4", "T = 8", "")
    return table(head, lines, left=2)


_CAPTURE = {"symbolic": "tracing", "values": "tracing with values", "export": "torch.export"}


def coverage_refused() -> str:
    """What does not convert, and why."""
    lines = []
    for rows in _families().values():
        for row in rows:
            if not row["converts"]:
                why = "; ".join([row["error"]] if "error" in row else row.get("reasons", [])) or row.get("note", "")
                lines.append((f"`{row['model']}`", why.replace("|", "\\|")[:240]))
    return table(("network", "why"), lines, left=2)


def function_networks() -> str:
    """Small trained networks under signed digits and signed spikes."""
    record = raw("function-networks.json")
    lines: list[tuple[Any, ...]] = []
    for network in record["networks"]:
        name = f"{network['network']}, {network['parameters']:,} parameters"
        for index, row in enumerate(network["rows"]):
            shown = [percent(row["top1"]), percent(row["same"], 1), percent(100 * row["error"], 1)]
            first = (name, percent(network["ann"])) if index == 0 else ("", "")
            lines.append((first[0], row["code"], first[1], row["steps"], row["pipeline_steps"], *shown))
    head = ("network", "code", "ANN", "T", "pipeline steps", "top-1", "same answer as the ANN in %", "error in %")
    images = record["networks"][0]["images"]
    text = f"{images} test images, {record['epochs']} epochs of training. {about(record)}"
    return table(head, lines, left=2) + f"\n{text} Record: {link('function-networks.json')}.\n"


def text_networks() -> str:
    """Trained text networks under signed digits, and with values rounded to as many bits."""
    record = raw("text-networks.json")
    lines = []
    for row in record["rows"]:
        shown = [percent(100 * row["error"], 1), percent(100 * row["error_rounded"], 1)]
        for label in ("", "_rounded"):
            same, shared = row.get(f"same{label}"), row.get(f"overlap{label}")
            shown.append(percent(same, 1) + " %" if shared is None else f"{shared:.3f}")
        lines.append((row["network"], row["steps"], row["pipeline_steps"], *shown))
    head = (
        "network",
        "T",
        "pipeline steps",
        "error in %",
        "rounded",
        "same class, or overlap of text masks",
        "rounded",
    )
    text = f"{record['tests']} pages, others for calibration ({record['calibration']}), lag T / 2 at every site. {about(record)}"
    return table(head, lines) + f"\n{text} Record: {link('text-networks.json')}.\n"
