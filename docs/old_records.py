"""Readers of the records that were made before there was one kind of them; each goes when its file is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Raw = Callable[[str], Any]
Lines = dict[tuple[str, str], tuple[str, int, float, Mapping[int, float], Mapping[int, float], Mapping[int, int]]]

FILES: Mapping[str, tuple[str, ...]] = {
    "pretrained-resnet20.json": ("pretrained-resnet20-all.json", "pretrained-resnet20-fixed.json"),
    "schedules-resnet20-qcfs4.json": (
        "cifar10-resnet20-qcfs-schedules.json",
        "cifar10-resnet20-qcfs-schedules-long.json",
    ),
}
"""The records to come, and the files that stand in for them."""

_PRETRAINED = {
    "transpike, together: percentile 99.9 per channel, half threshold": "99.9 percentile per channel",
    "transpike, together: minimum MSE": "least squares",
    "transpike, together: minimum MSE, bias": "least squares, biases corrected",
    "transpike, layer after layer: minimum MSE, bias, rho = 4": "accumulate, rho = 4",
    "transpike, layer after layer: the same, thresholds and biases trained, rho = 4": (
        "accumulate, rho = 4, thresholds and biases trained"
    ),
    "transpike, layer after layer: the same, weights trained too, rho = 4": "accumulate, rho = 4, weights trained",
    "transpike, layer after layer: minimum MSE, bias, rho = 8": "accumulate, rho = 8",
    "transpike, layer after layer: the same, thresholds and biases trained, rho = 8": (
        "accumulate, rho = 8, thresholds and biases trained"
    ),
}
_SCHEDULES = {
    **{"cos:2": "cos:iterations=2", "cos:4": "cos:iterations=4"},
    **{"staggered:2": "staggered:budget=2", "staggered:4": "staggered:budget=4"},
}


def pretrained(raw: Raw) -> tuple[Lines, str]:
    """The pretrained ResNet-20 on all images, and T = 16 and 32 of one row on the fixed ones."""
    every, fixed = (raw(name) for name in FILES["pretrained-resnet20.json"])
    lines = {(label, "all"): _line(label, row, every) for row in every["rows"] if (label := _PRETRAINED[row["label"]])}
    row = next(row for row in fixed["rows"] if _PRETRAINED.get(row["label"]) == "least squares, biases corrected")
    label = "least squares, biases corrected, larger T"
    lines[label, "fixed"] = _line(label, row, fixed)
    versions = ", ".join(f"{name} {version}" for name, version in sorted(every["versions"].items()))
    about = f"Seed {every['seed']}, {every['calibration_images']} calibration images; {versions}"
    return lines, f"{about}; recorded in commits 33c4c32, 2026-11-23, and 479289b, 2026-11-22."


def _line(label: str, row: Any, file: Any) -> Any:
    by_steps = (
        {int(t): row[key][t] for t in sorted(row[key], key=int)} for key in ("top1", "events", "pipeline_steps")
    )
    return (label, file["test_images"], file["ann_top1"], *by_steps)


def schedules(raw: Raw) -> tuple[Lines, str]:
    """Schedules of the QCFS network on all images, and to T = 32 on the fixed ones."""
    lines: Lines = {}
    for word, name in zip("01", FILES["schedules-resnet20-qcfs4.json"], strict=True):
        for old, report in raw(name).items():
            label = _SCHEDULES.get(old, old)
            rows = report["rows"]
            lines[label, word] = (
                label,
                report["images"],
                report["ann_top1"],
                {row["steps"]: row["top1"] for row in rows},
                {row["steps"]: row["events"] for row in rows},
                {row["steps"]: row["latency"]["pipeline_steps"] for row in rows},
            )
    return lines, "Recorded in commit ba30f1e, 2026-11-22."


READERS: Mapping[str, Callable[[Raw], tuple[Lines, str]]] = {
    "pretrained-resnet20.json": pretrained,
    "schedules-resnet20-qcfs4.json": schedules,
}
