"""What the ANN wants of every site, as numbers of spikes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

from torch import Tensor

from transpike.activations import TrainedActivation
from transpike.calibration.progress import ProgressBar
from transpike.calibration.sweep import batches_of, inputs_of
from transpike.errors import CalibrationError, DataError, InputError
from transpike.functional import expected_count
from transpike.graph.example_run import check_arguments, check_inputs, first_line
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor, argument_count, reference_tensor
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import EventKind
from transpike.schedules import Schedule


def wanted_count(site: Site, total: Tensor, steps: int) -> Tensor:
    """The count that the ANN wants after T steps with drives that add up to ``total``, as a whole number.

    ``clip(floor(total / theta + shift), 0, T)``: for QCFS with L = T exactly ``a T / theta`` (COS paper, Definition 1).
    For other activations, whose ``a T / theta`` may lie between whole numbers, it is what the neuron would fire if the
    drive were constant. The shift is the trained one, else ``v_init / theta``.

    Args:
        site: the site.
        total: ``[N, *]``, T times the pre-activation.
        steps: T.
    """
    trained = site.activation
    start = trained.shift * site.theta if isinstance(trained, TrainedActivation) else site.v_init
    return expected_count(total, site.theta, start, steps)


def activation_of(site: Site, z: Tensor) -> Tensor:
    """The activation ``[N, *]`` that a site should come to: the trained one, else ``clip(z, 0, theta)``."""
    return site(z) if site.trained else site.clipped(z)


def source_drives(snn: SpikingNetwork, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], Any]:
    """Runs the ANN with `activation_of` at every site.

    Returns:
        The pre-activation ``[N, *]`` of every site, and the answer.

    Raises:
        InputError: the network refuses the inputs.
    """
    drives: dict[str, Tensor] = {}

    def activate(name: str, site: Site, args: tuple[Any, ...]) -> Tensor:
        drives[name] = args[0]
        return activation_of(site, args[0])

    try:
        return drives, NodeVisitor(snn.network, on_site=activate).run(*inputs)
    except RuntimeError as error:
        raise InputError(
            f"the network refuses the batch: {first_line(error)}",
            where=f"shapes {[tuple(tensor.shape) for tensor in inputs]}",
            fix="give samples of the shape that the network was converted with",
        ) from error


def need_counts(snn: SpikingNetwork, schedule: Schedule, steps: int) -> None:
    """Refuses what does not send 0 .. T spikes in answer to T steps of drive.

    Raises:
        ValueError: T below 1, or a schedule of several passes, with lags or of digits.
        InputError: a neuron that sends other events than 0 and 1.
    """
    if steps < 1:
        raise ValueError(f"probe_steps must be at least 1, got {steps}")
    if schedule.incremental:
        raise ValueError(f"{schedule} sends digits, of which none is a spike too many or too few")
    if snn.neuron.events is not EventKind.BINARY:
        raise InputError(
            "offset spikes are counted in neurons that send 0 or 1 at each step",
            where=f"the neuron {snn.neuron}",
            fix="convert with the integrate-and-fire neuron",
        )
    if schedule.passes > 1 or any(schedule.lag(site.name) for site in snn.sites):
        raise ValueError(f"{schedule} has several passes or lags: its spikes at T steps do not answer T steps of drive")


def checked_batches(
    snn: SpikingNetwork, batches: Iterable[Any], what: str, progress: bool
) -> Iterator[tuple[Tensor, ...]]:
    """The inputs of each batch, checked, on the network's device and in its type.

    Args:
        snn: the network.
        batches: a tensor, or batches: tensors, or tuples that start with the model's inputs (labels are ignored).
        what: text of the progress bar.
        progress: whether to show it.

    Raises:
        InputError, DataError: unusable batches, or none.
    """
    arguments = argument_count(snn.network)
    reference = reference_tensor(snn)
    found = batches_of(batches)
    empty = True
    with ProgressBar(what, len(found) if isinstance(found, Sized) else None, progress) as bar:
        for index, batch in enumerate(found):
            try:
                inputs = inputs_of(batch, arguments)
            except CalibrationError as error:
                raise DataError(error.what, where=f"batch {index}", fix=error.fix) from error
            check_inputs(inputs, f"batch {index}")
            check_arguments(snn.network, inputs, f"batch {index}")
            empty = False
            yield tuple(tensor.to(reference.device, reference.dtype) for tensor in inputs)
            bar.advance()
    if empty:
        raise DataError("there is nothing to analyse: the batches are empty", fix="a used-up iterator gives none")
