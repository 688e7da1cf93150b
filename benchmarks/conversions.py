"""Conversions of one network beside each other, each at its T: accuracy, and time as a ratio to the ANN's, in one run.

    python benchmarks/conversions.py plain.safetensors@32 radix.safetensors@4 digits.safetensors@5 [--output FILE]

Every network runs under its own schedule, behind a check of its answers against the reference.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import transpike as tp
from transpike.bench import anns, check, fastest
from transpike.data import load_data
from transpike.kernels import native
from transpike.serialization.environment import environment
from transpike.serialization.json_records import write_json
from transpike.serialization.model_info import model_info

ANN = "ANN"


def loaded(text: str) -> tuple[str, tp.SpikingNetwork, int]:
    """A converted network and its T, from ``FILE@T``."""
    file, _, steps = text.rpartition("@")
    snn = tp.load(Path(file))
    assert isinstance(snn, tp.SpikingNetwork), f"convert {file} first"
    return f"{snn.schedule}, T = {steps}", snn, int(steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="FILE@T", help="conversions of the same network")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--batches", default="1,16,64")
    parser.add_argument("--images", type=int, default=1000, help="test images for accuracies")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    networks = [loaded(text) for text in options.networks]
    inputs = model_info(networks[0][1].network).inputs
    assert inputs is not None
    data = load_data(inputs.dataset, options.data, like=inputs)
    pairs = [data.test[index] for index in range(options.images)]
    images, labels = torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])

    def top1(answer: Any) -> float:
        right = sum(
            int((answer(x).argmax(-1) == y).sum()) for x, y in zip(images.split(50), labels.split(50), strict=True)
        )
        return 100 * right / len(labels)

    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        rows.append({"what": ANN, "steps": 0, "pipeline_steps": 0, "top1": top1(networks[0][1].ann), "ratio": {}})
        for name, snn, steps in networks:
            gate = check(snn, images[:32], steps, snn.schedule)
            assert gate.answers <= 0.05, f"{name}: kernels disagree ({gate}), no time is reported"
            latency = snn.latency(steps).pipeline_steps
            accuracy = top1(lambda x, snn=snn, steps=steps: snn(x, steps=steps)[-1])
            rows.append({"what": name, "steps": steps, "pipeline_steps": latency, "top1": accuracy, "ratio": {}})
        for batch in map(int, options.batches.split(",")):
            x = images[:batch]
            single = anns(networks[0][1])
            calls: dict[str, Any] = {
                name: partial(ann, x.contiguous(memory_format=memory)) for name, (ann, memory) in single.items()
            }
            calls |= {name: partial(snn, x, steps=steps) for name, snn, steps in networks}
            seconds = fastest(calls, options.repeats)
            of_ann = min(seconds[name] for name in single)
            for row in rows:
                taken = of_ann if row["what"] == ANN else seconds[row["what"]]
                row["ratio"][str(batch)] = taken / of_ann
                row.setdefault("milliseconds", {})[str(batch)] = 1000 * taken
    table = Table("conversion", "pipeline", "top-1", *(f"batch {batch}" for batch in rows[0]["ratio"]))
    for row in rows:
        cells = [f"{ratio:.2f}" for ratio in row["ratio"].values()]
        table.add_row(row["what"], str(row["pipeline_steps"] or ""), f"{row['top1']:.2f}", *cells)
    Console(highlight=False, width=120).print(table)
    if options.output is not None:
        about = {"images": len(labels), "threads": torch.get_num_threads(), "environment": asdict(environment())}
        write_json(options.output, {**about, "instruction_set": native.module().instruction_set(), "rows": rows})


if __name__ == "__main__":
    main()
