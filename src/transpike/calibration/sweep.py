"""One pass of calibration data through the source network, with a statistic at every site."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from transpike.calibration.progress import ProgressBar
from transpike.errors import CalibrationError, ClippingWarning, InputError, count
from transpike.graph.example_run import check_inputs, first_line
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor, argument_count, reference_tensor
from transpike.rules.contract import ThresholdRule, rows_of, set_thresholds

CalibrationData = Tensor | Iterable[Any]
"""A tensor ``[N, *]``, or batches: tensors, or tuples whose first element is the input (labels are ignored)."""


def batches_of(data: CalibrationData) -> Iterable[Any]:
    """Iterates over batches; a single tensor is one batch."""
    return [data] if isinstance(data, Tensor) else data


def inputs_of(batch: Any, arguments: int) -> tuple[Any, ...]:
    """The model's inputs in a batch: the first ``arguments`` elements; what follows (labels) is ignored."""
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, Sequence) and len(batch) >= arguments:
        return tuple(batch[:arguments])
    raise CalibrationError(
        f"a batch is a {type(batch).__name__}; the model takes {arguments} input(s)",
        where="calibration",
        fix="yield tensors, or tuples that start with the model's inputs",
    )


def checked_inputs(network: fx.GraphModule, batch: Any, index: int) -> tuple[Tensor, ...]:
    """The model's inputs in a batch, where the network is and in its precision.

    Raises:
        CalibrationError: the batch is unusable.
    """
    inputs = inputs_of(batch, argument_count(network))
    try:
        check_inputs(inputs, f"calibration batch {index}")
    except InputError as error:
        raise CalibrationError(error.what, where=error.where, fix=error.fix) from error
    reference = reference_tensor(network)
    return tuple(tensor.to(reference.device, reference.dtype) for tensor in inputs)


def run_batch(run: Callable[..., Any], inputs: tuple[Tensor, ...], index: int) -> Any:
    """Runs a batch.

    Raises:
        CalibrationError: its shape is not the network's.
    """
    try:
        return run(*inputs)
    except RuntimeError as error:
        raise CalibrationError(
            f"the network refuses the batch: {first_line(error)}",
            where=f"calibration batch {index}, shapes {[tuple(tensor.shape) for tensor in inputs]}",
            fix="give batches of the shape the network was trained with",
        ) from error


def no_data() -> CalibrationError:
    """What to raise where data yields nothing."""
    return CalibrationError(
        "the calibration data is empty",
        where="calibration",
        fix="pass a tensor or batches; an iterator that was used up before cannot be used again",
    )


def sweep(network: fx.GraphModule, data: CalibrationData, take: Any, *, progress: bool = False) -> int:
    """Runs every batch once and calls ``take(site, z)`` at each site.

    ``z`` is the pre-activation ``[N, *]``, or the size of the value where the site is no ReLU.

    Returns:
        The number of samples.

    Raises:
        CalibrationError: there is no data, or a batch is unusable.
    """

    def at_site(name: str, site: Site, args: tuple[Any, ...]) -> Any:
        value = site(*args)
        seen = site.measured(args[0], value)
        if not bool(torch.isfinite(seen).all()):
            raise CalibrationError(
                "a pre-activation is NaN or infinite",
                where=f"site {name}",
                fix="look for NaN in the weights, or for data that was scaled otherwise than in training",
            )
        take(name, seen)
        return value

    runner = NodeVisitor(network, on_site=at_site)
    samples = 0
    total = len(data) if isinstance(data, list | tuple) else None
    with torch.no_grad(), ProgressBar("calibrating", total, progress) as bar:
        for index, batch in enumerate(batches_of(data)):
            inputs = checked_inputs(network, batch, index)
            samples += inputs[0].shape[0]
            run_batch(runner.run, inputs, index)
            bar.advance()
    if not samples:
        raise no_data()
    return samples


def calibrate_thresholds(
    network: fx.GraphModule,
    sites: Mapping[str, Site],
    rule: ThresholdRule,
    data: CalibrationData,
    *,
    progress: bool = False,
) -> None:
    """Sets the thresholds of ``sites`` by ``rule``; a clipped ReLU's ceiling bounds its threshold.

    Raises:
        CalibrationError: see `sweep`; or a channel rule at a site without channels.
    """
    statistics = {name: rule.statistic() for name in sites}
    dimensions: dict[str, int] = {}

    def take(name: str, z: Tensor) -> None:
        if name in statistics:
            dimensions[name] = z.dim()
            statistics[name].update(rows_of(rule.granularity, z, name))

    sweep(network, data, take, progress=progress)
    shares = {}
    for name, site in sites.items():
        try:
            set_thresholds(site, statistics[name].result(), rule.granularity, dimensions[name])
        except ValueError as error:
            raise CalibrationError(
                str(error), where=f"site {name}", fix="scale the data or the weights, or convert in float32"
            ) from error
        theta = site.theta.detach().reshape(-1)
        shares[name] = 0.0 if site.ceiling is not None else statistics[name].clipped_share(theta)
    _warn_of_clipping(rule, shares)


MUCH = 0.5
"""Share of what a site carries that a threshold may cut off without a warning."""


def _warn_of_clipping(rule: ThresholdRule, shares: Mapping[str, float]) -> None:
    worst = sorted((name for name, share in shares.items() if share > MUCH), key=shares.__getitem__, reverse=True)
    if worst:
        listed = ", ".join(f"{name} {shares[name]:.0%}" for name in worst[:3])
        more = f" and {len(worst) - 3} more" if len(worst) > 3 else ""
        warnings.warn(
            f"{rule} cuts off much of what {count(len(worst), 'site')} carry on calibration data: {listed}{more} of "
            "the sum of activations. Few are large: look for outliers in the data, or take Maximum() thresholds",
            ClippingWarning,
            stacklevel=5,
        )
