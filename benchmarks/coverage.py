"""Which models convert: torchvision, timm and Hugging Face vision backbones, with random weights.

    python benchmarks/coverage.py results/coverage.json [--group hf] [--model vit ...] [--again] [--limit 240]

The record is written after every model; models that it has are skipped, so a run that was stopped goes on. A model
that converts is run under signed digits with T = 4 and T = 8, thresholds from the same input: the error is the distance
of the first answer from the model's, relative to its length.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transpike as tp
from transpike.graph.equivalence import tensors_in
from transpike.serialization.environment import environment
from transpike.serialization.json_records import write_json

HERE = Path(__file__).parent
LAG = 2
MEMORY = 16 * 2**30


def models() -> list[dict[str, str]]:
    """The rows of the list: group, model, and shapes of the inputs."""
    with (HERE / "coverage_models.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def build(group: str, name: str) -> nn.Module:
    """A model with random weights, in evaluation mode."""
    torch.manual_seed(0)
    if group == "hf":
        sys.path.insert(0, str(HERE))
        from coverage_huggingface import MODELS

        model = MODELS[name]()
    elif group.startswith("timm"):
        import timm

        model = timm.create_model(name, pretrained=False)
    else:
        import torchvision

        options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        if group == "tv-segmentation":
            options = {"weights_backbone": None}
        model = torchvision.models.get_model(name, weights=None, **options)
    return model.eval()


def wake(model: nn.Module) -> None:
    """Gives all layers random weights of the size that keeps activations alive."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)


def first(answer: Any) -> Tensor:
    """The first tensor of an answer, of any structure."""
    return tensors_in(answer)[0]


def measure(
    group: str, name: str, shapes: list[list[int]], inspect: bool, send: Callable[[dict[str, Any]], None]
) -> None:
    """Sends the row of a model: first whether it converts, then with its errors."""
    model = build(group, name)
    inputs = tuple(torch.rand(shape, generator=torch.Generator().manual_seed(1)) for shape in shapes)
    with torch.no_grad():
        one, other = (first(model(*given)) for given in (inputs, [tensor.flip(0) ** 2 for tensor in inputs]))
        if float((one - other).norm()) <= 1e-4 * float(one.norm()):  # a head of zeros, or activations have died out
            wake(model)
    found = tp.inspect(model, inputs)
    row: dict[str, Any] = {"parameters": sum(weight.numel() for weight in model.parameters())}
    row |= {"capture": None if found.layer is None else found.layer.value, "guards": len(found.guards)}
    row |= {"converts": found.convertible, "sites": Counter(site.kind.value for site in found.plan.sites)}
    row["reasons"] = sorted({f"{each.operator}: {each.reason}" for each in found.unsupported})
    send(row)
    if found.convertible and not inspect:
        send(row | errors(model, tuple(tensor[:1] for tensor in inputs)))


def errors(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """How far the answers of the converted model are from its own."""
    conversion = tp.Conversion(tp.rules.Maximum(tp.PerChannel()), schedule=digits(8))
    with torch.no_grad():
        snn = tp.convert(model, conversion, example_inputs=inputs, calibration=[inputs])
        wanted = first(model(*inputs))
        found: dict[str, Any] = {"pipeline_steps": snn.latency(8).pipeline_steps}
        for steps in (4, 8):
            answer = first(snn(*inputs, steps=steps, schedule=digits(steps)))[-1]
            found[f"error_{steps}"] = float((answer - wanted).norm() / wanted.norm())
    return found


def digits(steps: int) -> tp.schedules.SignedDigits:
    """The schedule of the table."""
    return tp.schedules.SignedDigits(steps, default_lag=LAG)


def child(connection: Connection, *entry: Any) -> None:
    """Measures one model in a process of its own, whose memory is bounded and goes with it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        measure(*entry, connection.send)
    except Exception as error:  # whatever a model of somebody's raises
        connection.send({"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"})


def row_of(group: str, name: str, shapes: list[list[int]], inspect: bool, limit: float) -> dict[str, Any]:
    """What a process found within its seconds."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs, group, name, shapes, inspect))
    began = time.perf_counter()
    process.start()
    theirs.close()
    row: dict[str, Any] = {"group": group, "model": name, "converts": False}
    try:
        while mine.poll(max(0.0, limit - (time.perf_counter() - began))):
            row |= mine.recv()
        row["note"] = f"stopped after {limit:g} s"
    except EOFError:
        if process.exitcode:
            row["note"] = "it took too much memory"
    process.kill()
    process.join()
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--group", default="", help="only groups that start so")
    parser.add_argument("--model", nargs="*", default=[], help="only these")
    parser.add_argument("--again", action="store_true", help="measure those that failed once more")
    parser.add_argument(
        "--inspect", action="store_true", help="only find out what converts; errors later, with --again"
    )
    parser.add_argument("--limit", type=float, default=240, help="seconds for a model")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    rows = json.loads(given.out.read_text())["rows"] if given.out.exists() else []
    done = {(row["group"], row["model"]) for row in rows if "error_8" in row or not given.again}
    for entry in models():
        group, name = entry["group"], entry["model"]
        if not group.startswith(given.group) or (given.model and name not in given.model) or (group, name) in done:
            continue
        row = row_of(group, name, json.loads(entry["input"]), given.inspect, given.limit)
        rows = [*(old for old in rows if (old["group"], old["model"]) != (group, name)), row]
        write_json(given.out, {"environment": asdict(environment()), "lag": LAG, "rows": rows})
        print(json.dumps(row)[:400], flush=True)


if __name__ == "__main__":
    main()
