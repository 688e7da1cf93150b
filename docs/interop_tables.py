"""Tables of what networks are exported to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from records import about, link, percent, raw, table

from transpike.interop import NIR_TARGETS, NirTarget, Start, Topology

_START = {
    Start.INPUT: "exactly, by a second input",
    Start.THRESHOLD: "exactly, counted from v(0)",
    Start.BIAS: "v(0) / T with every step's bias: one T per file",
}


def nir_targets() -> str:
    """What survives in each target, and what its neurons do otherwise."""
    rows = []
    for target in NIR_TARGETS.values():
        tested = (
            target.package if target.checked and target.package else "no simulator" if target.checked else "not checked"
        )
        shape = "relays" if target.topology is Topology.CHAIN else "two edges into one node"
        rows.append((f"`{target.name}`", tested, str(target.rule), _START[target.start], shape, _reading(target)))
    head = ("target", "tested with", "its neurons", "v(0)", "shortcuts", "how to read it; what to know")
    return table(head, rows, left=len(head))


def _reading(target: NirTarget) -> str:
    return f"{target.how}. {target.note[0].upper()}{target.note[1:]}." if target.note else f"{target.how}."


def nir_accuracy() -> str:
    """Accuracy of trained networks in each target, beside that of the network itself."""
    record = raw("interop.json")
    lines: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in record["rows"]:
        own = lines.setdefault((row["network"], "here"), {})
        own[row["steps"]] = {"target_top1": row["top1"], "images": row["images"]}
        lines.setdefault((row["network"], row["target"]), {})[row["steps"]] = row
    steps = sorted({row["steps"] for row in record["rows"]})
    rows = []
    for (network, target), cells in lines.items():
        images = next(iter(cells.values()))["images"]
        shown = [percent(cells[t]["target_top1"]) if t in cells else "" for t in steps]
        rows.append((network, f"{images:,}", target if target == "here" else f"`{target}`", *shown))
    head = ("network", "images", "target", *(f"T = {t}" for t in steps))
    note = "By the rules above, simulated here. "
    return table(head, rows, left=3) + f"\n{note}{about(record)} Record: {link('interop.json')}.\n"
