"""What a calibrating schedule costs beside the plain one: wall time as a ratio, in one run, behind a correctness gate.

    python benchmarks/schedules.py [--batch 32] [--steps 4] [--probe-steps 4] [--repeats 5]

The network is a ResNet-20 for CIFAR with random weights; times do not depend on the weights of dense operators.
"""

from __future__ import annotations

import argparse
import time

import torch

import transpike as tp
from transpike import zoo
from transpike.bench import check
from transpike.schedules import AccumulateThenFire, ExactPotential, OffsetSpike, Plain, Residual, Schedule


def gate(snn: tp.SpikingNetwork, x: torch.Tensor, schedule: Schedule, steps: int) -> None:
    """The spikes are those of the reference, but for rounded sums that meet a threshold."""
    found = check(snn, x, steps, schedule)
    assert found.flipped < 1e-3, f"{schedule}: kernels disagree ({found}), no time is reported"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--probe-steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(options.batch, 3, 32, 32)
    snn = tp.convert(
        zoo.build("cifar-resnet20"),
        tp.Conversion(tp.rules.Percentile(99.9, tp.PerChannel())),
        calibration=x,
        example_inputs=x[:2],
    )
    rho = options.probe_steps
    schedules: list[Schedule] = [
        *(Plain(), Residual(rho), OffsetSpike(rho), OffsetSpike(rho, iterations=4)),
        *(ExactPotential(rho), AccumulateThenFire(rho)),
    ]
    times: dict[str, list[float]] = {str(schedule): [] for schedule in schedules}
    for schedule in schedules:
        gate(snn, x, schedule, options.steps)
    for _ in range(options.repeats):  # interleaved, so that a slow moment hits all of them
        for schedule in schedules:
            begin = time.perf_counter()
            snn(x, steps=options.steps, schedule=schedule)
            times[str(schedule)].append(time.perf_counter() - begin)
    plain = min(times[str(Plain())])
    print(f"batch {options.batch}, T = {options.steps}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, found in times.items():
        print(f"{min(found) / plain:6.2f} x plain   {name}")


if __name__ == "__main__":
    main()
