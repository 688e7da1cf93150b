"""Times a network on a GPU beside its ANN and SpikingJelly, behind a gate: ratios of one run.

    python benchmarks/gpu.py [snn.safetensors] [--batches 1,16,128] [--steps 1,4,8] --output results/gpu.json

Without a file it times the CIFAR ResNet-20 and torchvision's ResNet-18 with random weights and thresholds from random
images: times of dense runs depend on shapes alone. Contenders are the ANN and the network, each as it stands and under
torch.compile, and the same network with SpikingJelly's neurons in step mode m, where SpikingJelly is installed. All
answers are compared before anything is timed: where neurons of the Triton kernel and of plain PyTorch differ on equal
currents, or another contender answers another class on more than one image in a hundred, it stops. `--device cpu` tries
the script out.
"""

import argparse
import copy
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

import transpike as tp
from engine import spikingjelly
from transpike.cli.find_model import find_model
from transpike.kernels import KernelPreference, integrate_fire
from transpike.serialization.environment import environment
from transpike.serialization.json_records import write_json

Call = Callable[[], Tensor]
NETWORKS = {"cifar-resnet20-conv": (3, 32, 32), "torchvision:resnet18": (3, 224, 224)}


def networks(file: Path | None) -> Iterator[tuple[str, tp.SpikingNetwork, tuple[int, ...]]]:
    if file is not None:
        snn = tp.load(file)
        yield file.stem, snn, tuple(snn.capture.input_shapes[0])
        return
    for name, shape in NETWORKS.items():
        torch.manual_seed(0)
        images = torch.randn(8, *shape)
        model = find_model(name).network.eval()
        yield name, tp.convert(model, tp.methods["maximum"](), calibration=images, example_inputs=images), shape


def check_kernel(device: str) -> None:
    """Compares the neurons that run here with plain PyTorch's, event by event."""
    generator = torch.Generator().manual_seed(0)
    drive = torch.randn(8, 4, 64, 16, 16, generator=generator).to(device)
    v, theta = torch.rand(4, 64, 16, 16, generator=generator), torch.rand(64, 1, 1, generator=generator) + 0.2
    found, wanted = (
        integrate_fire(drive, v.to(device), theta.to(device), kernel=kernel)
        for kernel in (KernelPreference.AUTO, KernelPreference.EAGER)
    )
    if not all(map(torch.equal, found, wanted)):
        raise SystemExit("the neurons on this device send other events than plain PyTorch's: nothing is timed")


def contenders(snn: tp.SpikingNetwork, x: Tensor, steps: int) -> dict[str, Call]:
    """Everything that is timed, by name; each gives logits ``[N, classes]``."""
    compiled = copy.deepcopy(snn)
    compiled.compile()
    ann = torch.compile(snn.network, dynamic=False)
    found: dict[str, Call] = {
        "ANN": lambda: snn.ann(x),
        "ANN, compiled": lambda: ann(x),
        "transpike": lambda: snn(x, steps=steps)[-1],
        "transpike, compiled": lambda: compiled(x, steps=steps)[-1],
    }
    if importlib.util.find_spec("spikingjelly") is not None:
        run = spikingjelly(snn)
        found["SpikingJelly"] = lambda: run(x, steps)[-1]
    return found


def check(calls: dict[str, Call], ours: Tensor) -> None:
    """Compares the classes of all spiking contenders."""
    for name, call in calls.items():
        if not name.startswith("ANN") and (same := _agreement(call(), ours)) < 0.99:
            raise SystemExit(f"{name} answers the same class on {100 * same:.1f} % of the images: nothing is timed")


def _agreement(answers: Tensor, ours: Tensor) -> float:
    return float((answers.argmax(1) == ours.argmax(1)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", type=Path)
    parser.add_argument("--batches", default="1,16,128")
    parser.add_argument("--steps", default="1,4,8")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measurement per contender")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    numbers = [[int(word) for word in words.split(",")] for words in (given.batches, given.steps)]
    check_kernel(given.device)
    rows: list[dict[str, Any]] = []
    for name, snn, shape in networks(given.network):
        snn.to(given.device)
        for batch, steps in product(*numbers):
            x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(1)).to(given.device)
            with torch.no_grad():
                calls = contenders(snn, x, steps)
                check(calls, snn(x, steps=steps, kernel=KernelPreference.EAGER)[-1])
                times = {
                    what: Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=given.seconds).median
                    for what, call in calls.items()
                }
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "steps": steps,
                    "milliseconds": {k: 1e3 * v for k, v in times.items()},
                }
            )
            print(
                name,
                f"batch {batch}, T = {steps}:",
                {what: f"{1e3 * seconds:.2f} ms" for what, seconds in times.items()},
            )
    if given.output is not None:
        gpu = torch.cuda.get_device_name() if given.device == "cuda" else "none"
        write_json(given.output, {"environment": {**asdict(environment()), "gpu": gpu}, "seed": 0, "rows": rows})


if __name__ == "__main__":
    main()
