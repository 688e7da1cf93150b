"""Runs ONNX files with NumPy and ONNX Runtime alone, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort


def open_file(path: Path) -> Any:
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def stream(path: Path, inputs: tuple[Any, ...], steps: int) -> list[dict[str, Any]]:
    """All outputs of every step of a step file, from zeros."""
    session = open_file(path)
    names = [each.name for each in session.get_inputs()]
    wanted = [each.name for each in session.get_outputs()]
    feed = {name: np.asarray(value) for name, value in zip(names, inputs, strict=False)}
    batch = len(inputs[0])
    for each in session.get_inputs()[len(inputs) :]:
        kind = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(double)": np.float64}[each.type]
        feed[each.name] = np.zeros([batch if size == "batch" else size for size in each.shape], kind)
    rows = []
    for _ in range(steps):
        row = dict(zip(wanted, session.run(None, feed), strict=True))
        feed |= {name: row[f"{name}.next"] for name in feed if f"{name}.next" in row}
        rows.append(row)
    return rows
