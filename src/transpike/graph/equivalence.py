"""Whether two networks compute the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.errors import InputError, VerificationError
from transpike.graph.clipped_activations import ramps
from transpike.graph.example_run import first_line
from transpike.graph.second_batch import answer_of


class Verification(NamedTuple):
    """How far the network's graph is from its source, on given data, relative to the largest output.

    Attributes:
        difference: difference between the source network and the graph that was converted.
        batch: difference between samples run together and one by one.
    """

    difference: float
    batch: float


def tensors_in(answer: Any) -> list[Tensor]:
    """The tensors of a (nested) answer, of records too; it may hold constants beside them."""
    return [leaf for leaf in pytree.tree_leaves(answer_of(answer)) if isinstance(leaf, Tensor)]


def largest(values: Iterable[float]) -> float:
    """The largest value, 0 if there is none; NaN if any is NaN, which Python's ``max`` may pass over."""
    found = torch.tensor([0.0, *values], dtype=torch.float64)
    return float(found.max())


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of ``a``."""
    if a.shape != b.shape:
        return float("inf")
    scale = float(a.abs().amax()) if a.numel() else 1.0
    return float((a - b).abs().amax()) / max(scale, 1e-12) if a.numel() else 0.0


def check_equivalence(model: nn.Module, network: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Checks that ``network``, traced from ``model``, answers as it does; both run in the mode they are in.

    Staircases are ramps meanwhile (`transpike.graph.clipped_activations`).

    Raises:
        InputError: the model fails on the inputs.
        VerificationError: the answers differ, or are NaN or infinite.
    """
    name = type(model).__name__
    devices = {tensor.device for tensor in inputs if tensor.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices), ramps(model, network):
        torch.manual_seed(0)  # the same dropout in both
        try:
            expected = tensors_in(model(*(tensor.clone() for tensor in inputs)))
        except Exception as error:  # user code runs here, so anything may come
            raise InputError(
                f"{name} fails on the inputs: {first_line(error)}",
                where=", ".join(f"{list(tensor.shape)} {tensor.dtype}" for tensor in inputs),
                fix="pass inputs of the number, shape, dtype and device that the model takes, by position",
            ) from error
        torch.manual_seed(0)
        actual = tensors_in(network(*(tensor.clone() for tensor in inputs)))
    if not all(bool(tensor.isfinite().all()) for tensor in expected):
        raise VerificationError(
            f"{name} returns NaN or infinity on the example inputs",
            where="example_inputs",
            fix="look for NaN in the weights, or for inputs that were scaled otherwise than in training",
        )
    difference = largest(relative_difference(a, b) for a, b in zip(expected, actual, strict=False))
    tolerance = 1e-3 if expected and expected[0].dtype in (torch.float32, torch.float64) else 5e-2
    if not difference <= tolerance or len(expected) != len(actual) or not expected:
        raise VerificationError(
            f"the traced graph of {name} differs from the model by {difference:.3g} (relative to the largest output)",
            where="example_inputs",
            fix="look for randomness, or for a tensor changed in place (x += y) that is read elsewhere",
        )


def verify(
    network: nn.Module, inputs: Sequence[Tensor], batch: int, ann: nn.Module | None, tolerance: float
) -> Verification:
    """See `SpikingNetwork.verify`."""
    with ramps(network, *([] if ann is None else [ann])):
        together = tensors_in(network(*inputs))
        single = [tensors_in(network(*(tensor[i : i + 1] for tensor in inputs))) for i in range(batch)]
        source = together if ann is None else tensors_in(ann(*inputs))
    alone = [torch.cat(rows) for rows in zip(*single, strict=True)]
    of_batch = largest(map(relative_difference, alone, together))
    difference = largest(map(relative_difference, source, together))
    result = Verification(difference, of_batch)
    if not largest(result) <= tolerance:
        raise VerificationError(
            f"the converted graph differs from its source: difference {difference:.3g}, batch {of_batch:.3g} "
            f"(relative to the largest output, tolerance {tolerance:g})",
            fix="put the model into evaluation mode; look for randomness or statistics of the batch in it",
        )
    return result
