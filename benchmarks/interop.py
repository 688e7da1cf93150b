"""What each simulator that reads NIR makes of trained networks, by the rules that `transpike.interop` knows.

    python benchmarks/interop.py results/interop.json [--images 1000] [--steps 4,8,16] [--only digits] [--again]

A digits network is trained here, with QCFS; the CIFAR-10 network is the committed QCFS ResNet-20, where the images are
at hand (TRANSPIKE_DATA). The record is written after every row; rows that it has of as many images are skipped. That
the simulators follow these rules is tested spike for spike by `make interop`.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import transpike as tp
from transpike.data import load_data, loader, test_images
from transpike.interop import NIR_TARGETS, compare_with_target
from transpike.serialization.environment import environment
from transpike.serialization.json_records import to_json, write_json

ROOT = Path(__file__).parents[1]
CIFAR = ROOT / "checkpoints" / "cifar-resnet20-qcfs4.safetensors"


def digits(epochs: int, images: int) -> tuple[tp.SpikingNetwork, list[Any]]:
    """A residual network of 19 sites, trained with QCFS, L = 4."""
    torch.manual_seed(0)
    data = load_data("digits")
    model = tp.tailor(tp.zoo.build("digits-resnet"), tp.activations.QCFS(4))
    tp.fit(model, data, epochs=epochs, device="cpu")
    batches = list(loader(data.test, 50, images))
    return tp.convert(model, example_inputs=batches[0][0][:4]), batches


def cifar(images: int) -> tuple[tp.SpikingNetwork, list[Any]]:
    """The committed ResNet-20, on the first of the committed 2,000 test images."""
    model = tp.load_ann(CIFAR)
    data = load_data("cifar10", None)
    batches = list(loader(test_images(data, "fixed"), 25, images))
    return tp.convert(model, example_inputs=batches[0][0][:4]), batches


def networks(given: argparse.Namespace) -> Iterator[tuple[str, tp.SpikingNetwork, list[Any]]]:
    """The networks whose data is at hand."""
    if given.only in (None, "digits"):
        yield ("ResNet, digits, QCFS", *digits(given.epochs, given.images))
    if given.only in (None, "cifar10") and os.environ.get("TRANSPIKE_DATA"):
        yield ("ResNet-20, CIFAR-10, QCFS", *cifar(given.images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", default="4,8,16")
    parser.add_argument("--only", choices=["digits", "cifar10"])
    parser.add_argument("--again", action="store_true", help="measure rows that the record has")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {"rows": []}
    if given.record.exists() and not given.again:
        record = json.loads(given.record.read_text())
    record |= {"seed": 0, "environment": to_json(environment())}
    for name, snn, batches in networks(given):
        images = sum(len(labels) for _, labels in batches)
        for target in NIR_TARGETS:
            for steps in (int(each) for each in given.steps.split(",")):
                key = {"network": name, "target": target, "steps": steps, "images": images}
                if any(key.items() <= row.items() for row in record["rows"]):
                    continue
                report = compare_with_target(snn, batches, target=target, steps=steps)
                same = {name: key[name] for name in ("network", "target", "steps")}
                record["rows"] = [row for row in record["rows"] if not same.items() <= row.items()]
                record["rows"].append({**key, **report.to_json()})
                write_json(given.record, record)
                print(
                    f"{name}, {target}, T = {steps}: {report.target_top1:.2f} % ({report.top1:.2f} % here)", flush=True
                )


if __name__ == "__main__":
    main()
