"""What whole numbers cost: accuracy before and after quantising, and whether events are the same everywhere.

    python benchmarks/quantise.py net.safetensors --images 10000 --output results/quantised-NAME.json
    python benchmarks/quantise.py weights.th --network cifar-resnet20 --dataset cifar10 --preparation imagenet

Every conversion is made twice from the same 512 unlabelled training images, with and without quantising. `--equality`
images run with every kernel, with one and two threads and with every instruction set of the CPU; the number of runs
whose answers, and events per site and step, differ from the reference's is recorded, for both networks.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from zoo_entry import activation

import transpike as tp
from transpike.experiments.model_cards import network_of_weights
from transpike.kernels import KernelPreference, native
from transpike.schedules import AccumulateThenFire
from transpike.serialization.digest import digest
from transpike.serialization.environment import environment
from transpike.serialization.json_records import to_json, write_json
from transpike.serialization.model_info import model_info

STEPS = (1, 2, 4, 8)


@contextmanager
def running(threads: int, instructions: str) -> Iterator[None]:
    """So many threads, and these vector instructions."""
    compiled, before = native.module(), torch.get_num_threads()
    best = compiled.instruction_set()
    torch.set_num_threads(threads)
    compiled.use_instruction_set(instructions)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        compiled.use_instruction_set(best)


def conversions(trained: bool) -> list[tuple[str, int, tp.Conversion]]:
    """Name, largest T and conversion of every row; trained thresholds are taken as they are."""
    plain = tp.Conversion() if trained else tp.methods["minimum-mse"](steps=8)
    rows = [("plain", max(STEPS), plain)]
    for steps in STEPS:
        accumulate = tp.Conversion(schedule=AccumulateThenFire(steps)) if trained else tp.methods["accumulate"](steps)
        rows.append(("accumulate", steps, accumulate))
    return rows


Events = dict[str, list[int]]
"""How many events each site sends in each step."""


def run(snn: tp.SpikingNetwork, x: Tensor, steps: int, kernel: KernelPreference) -> tuple[Tensor, Events]:
    """Answers and events; event by event where the kernel allows it."""
    events: Events = {}
    with torch.no_grad():
        answer = snn(x, steps=steps, kernel=kernel, count=lambda site, sent: add(events, site, sent))
    return answer, events


def run_dense(snn: tp.SpikingNetwork, x: Tensor, steps: int, kernel: KernelPreference) -> tuple[Tensor, Events]:
    """The same by operators of torch with this kernel for the neurons."""
    events: Events = {}

    def observe(site: str, _: Tensor, sent: Tensor) -> None:
        add(events, site, sent.flatten(1).abs().sum(1, dtype=torch.float64))

    with torch.no_grad():
        answer = snn(x, steps=steps, kernel=kernel, observe=observe)
    return answer, events


def add(events: Events, site: str, sent: Tensor) -> None:
    """Adds what some samples sent."""
    known = events.setdefault(site, [])
    known.extend([0] * (len(sent) - len(known)))
    for step, number in enumerate(sent.tolist()):
        known[step] += int(number)


def equality(snn: tp.SpikingNetwork, x: Tensor, steps: int) -> dict[str, int]:
    """How many of the runs differ from the reference."""
    with running(1, native.module().instruction_sets()[0]):
        answer, events = run(snn, x, steps, KernelPreference.REFERENCE)
    found = {"runs": 0, "other_answers": 0, "other_events": 0}
    for threads in (1, 2):
        for instructions in native.module().instruction_sets():
            for kernel in set(KernelPreference) - {KernelPreference.TRITON}:
                for way in (run, run_dense):
                    with running(threads, instructions):
                        other, sent = way(snn, x, steps, kernel)
                    found["runs"] += 1
                    found["other_answers"] += not torch.equal(other, answer)
                    found["other_events"] += sent != events
    return found


def accuracy(snn: tp.SpikingNetwork, test: Subset[Any], steps: int) -> tuple[float, dict[int, float]]:
    report = tp.evaluate(snn, DataLoader(test, 250), steps=steps, at=[t for t in STEPS if t <= steps])
    return report.ann_top1, {row.steps: row.top1 for row in report.rows}


def file_size(snn: tp.SpikingNetwork) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snn.safetensors"
        tp.save(snn, path)
        return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", help="a file of tp.save with the network before conversion, or a state_dict")
    parser.add_argument("--network", help="of a state_dict: a name of `transpike models`")
    parser.add_argument("--activation", default="", help="of a state_dict: for example qcfs:levels=4 (default: ReLU)")
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data", type=Path, help="folder with the data sets (default: $TRANSPIKE_DATA)")
    parser.add_argument("--preparation", default="standard", choices=[each.value for each in tp.data.Preparation])
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--equality", type=int, default=32, help="images for the comparison of kernels")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    model: nn.Module
    like = None
    if given.network is None:
        model = tp.load_ann(given.weights)
        like = model_info(model).inputs
    data = tp.data.load_data(given.dataset, given.data, preparation=tp.data.Preparation(given.preparation), like=like)
    if given.network is not None:
        model = network_of_weights(given.weights, given.network, data, activation(given.activation))
    calibration = next(iter(DataLoader(Subset(data.calibration, range(512)), 512)))[0]
    test = Subset(data.test, range(given.images))
    trained = any(isinstance(each, tp.activations.TrainedActivation) for each in model.modules())
    quantise = tp.Quantisation(given.bits)
    equal = torch.stack([data.test[index][0] for index in range(given.equality)])
    rows: list[dict[str, Any]] = []
    for name, steps, conversion in conversions(trained):
        row: dict[str, Any] = {"schedule": name, "conversion": str(conversion)}
        for key, each in (("float", conversion), ("quantised", dataclasses.replace(conversion, quantise=quantise))):
            snn = tp.convert(model, each, example_inputs=calibration[:4], calibration=calibration)
            ann, found = accuracy(snn, test, steps)
            found = found if name == "plain" else {steps: found[steps]}
            row[key] = {"ann": ann, "top1": {str(t): top1 for t, top1 in found.items()}, "bytes": file_size(snn)}
            if steps == max(STEPS):
                row[key]["equality"] = equality(snn, equal, 4 if name == "plain" else steps)
        rows.append(row)
        for t, top1 in row["quantised"]["top1"].items():
            change = top1 - row["float"]["top1"][t]
            print(
                f"{name:<12} T = {t:<3} {row['float']['top1'][t]:6.2f} % -> {top1:6.2f} % ({change:+.2f})", flush=True
            )
    print(f"ANN {rows[0]['float']['ann']:.2f} % -> {rows[0]['quantised']['ann']:.2f} %")
    print(f"bytes {rows[0]['float']['bytes']:,} -> {rows[0]['quantised']['bytes']:,}")
    for row in rows:
        if "equality" in row["float"]:
            print(row["schedule"], "float", row["float"]["equality"], "quantised", row["quantised"]["equality"])
    if given.output is not None:
        record = {
            "environment": to_json(environment()),
            "network": digest(model),
            "dataset": given.dataset,
            "images": given.images,
            "equality_images": given.equality,
            "quantise": to_json(quantise),
            "rows": rows,
        }
        write_json(given.output, record)


if __name__ == "__main__":
    main()
