"""``transpike compare methods``."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.cli.main import compare
from transpike.cli.options import (
    BatchSize,
    CalibrationImages,
    DataName,
    Device,
    DeviceName,
    Factory,
    Folder,
    Images,
    Methods,
    Model,
    Options,
    Root,
    Seed,
    Steps,
    Weights,
)
from transpike.cli.output import note, out, say


@compare.command("methods")
def compare_methods(
    model: Model,
    methods: Methods = "untrained",
    dataset: DataName = None,
    data: Root = None,
    steps: Steps = 8,
    images: Images = "all",
    long_steps: Annotated[int | None, typer.Option(help="More columns, up to this T, on --long-images.")] = None,
    long_images: Annotated[str, typer.Option(help="Like --images, for the further columns.")] = "fixed",
    calibration_images: CalibrationImages = 512,
    seed: Seed = 0,
    weights: Weights = None,
    option: Options = None,
    batch_size: BatchSize = 100,
    device: DeviceName = Device.AUTO,
    output: Folder = None,
    factory: Factory = None,
) -> None:
    """Convert a network by several methods, each under its own schedule: accuracy at T = 1, 2, 4, ...

    Examples:
    * `transpike compare methods relu.safetensors --steps 8 -o methods`
    * `transpike compare methods relu.safetensors --methods all -o methods`
    * `transpike compare methods relu.safetensors --methods opi,cos,accumulate --steps 8 --long-steps 32`
    """
    from transpike.cli.find_model import find_model
    from transpike.cli.work import (
        calibration_batches,
        check_classes,
        check_output,
        check_run,
        device_of,
        open_data,
        test_batches,
    )
    from transpike.conversion.methods import find_methods
    from transpike.experiments.compare import TestSet
    from transpike.experiments.compare import compare_methods as run
    from transpike.report import methods_table

    wanted, where = find_methods(methods), device_of(device)
    check_run(steps, images, dataset)
    if output is not None:
        check_output(output / "result.json")
    model_found = find_model(model, option=option, factory=factory, weights=weights)
    name, found = open_data(model_found.inputs, dataset, data, seed=seed)
    calibration = calibration_batches(found, calibration_images, seed)
    model_found.try_on(calibration[0][0][:2])
    check_classes(model_found.network, found, name)
    if model_found.fresh:
        note(f"{model} has random weights; trained ones come by --weights FILE")
    tests, first = [], 1
    for which, last in [(images, steps)] + ([] if long_steps is None else [(long_images, long_steps)]):
        at = tuple(2**k for k in range(last.bit_length()) if first <= 2**k <= last)
        if at:
            tests.append(TestSet(test_batches(found, which, batch_size), at))
            first = at[-1] + 1
    results = run(
        *(model_found.network, wanted, calibration, tests),
        dataset=name,
        seed=seed,
        folder=output,
        device=where,
        progress=True,
        say=say,
    )
    out.print(methods_table(results, tests[0].at[-1]))
    if output is not None:
        say(f"written: {output}/ (result.json; the next run goes on from cache)")
