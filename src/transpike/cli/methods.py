"""What ``transpike compare --methods`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from torch import nn


def print_methods(
    out: Console,
    model: nn.Module,
    names: str,
    *,
    dataset: str | None,
    data: Path | None,
    runs: list[tuple[str, int]],
    calibration_images: int,
    seed: int,
    batch_size: int,
    device: str,
    output: Path | None,
) -> None:
    """Prints accuracy, events and latency of methods at T = 1, 2, 4, ...

    Args:
        out: where to print.
        model: the trained network.
        names: ``"all"`` or names of methods.
        dataset: None takes the network's own.
        data: folder with the data sets.
        runs: which test images, and the largest T that they are for.
        calibration_images: training images that set thresholds and calibrate.
        seed: of their choice.
        batch_size: of the test images.
        device: where to evaluate.
        output: folder for JSON.
    """
    from transpike.cli.resolve import dataset_for
    from transpike.conversion.methods import find_methods
    from transpike.data import load_data, loader, random_subset, test_images
    from transpike.experiments.compare import TestSet, compare_methods
    from transpike.report import methods_table
    from transpike.serialization.model_info import model_info

    methods = find_methods(names)
    name = dataset_for(model, dataset)
    found = load_data(name, data, seed=seed, like=model_info(model).inputs)
    calibration = list(loader(random_subset(found.calibration, calibration_images, seed)))
    tests, first = [], 1
    for which, last in runs:
        at = tuple(2**k for k in range(last.bit_length()) if first <= 2**k <= last)
        if at:
            tests.append(TestSet(loader(test_images(found, which), batch_size), at))
            first = at[-1] + 1
    if not tests:
        raise ValueError(f"--steps must be at least 1, got {runs[0][1]}")
    results = compare_methods(
        model,
        methods,
        calibration,
        tests,
        dataset=name,
        seed=seed,
        folder=output,
        device=device,
        progress=True,
        say=out.print,
    )
    out.print(methods_table(results, tests[0].at[-1]))
    if output is not None:
        out.print(f"written: {output}/ (result.json; the next run goes on from cache)")
