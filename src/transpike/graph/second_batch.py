"""Two batches of different size, and whether a graph computes what its model does for the larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.graph.traced_values import BATCHES, UnfollowedError


def two_batches(example: Tensor) -> tuple[Tensor, Tensor]:
    """Batches of different size, of samples that differ."""
    made = []
    for rows in BATCHES:
        index = torch.arange(rows, device=example.device)
        scale = (1.0 - index.to(example.dtype) / 16).view(-1, *[1] * (example.dim() - 1))
        made.append((example.detach()[index % example.shape[0]] * scale).contiguous())
    return made[0], made[1]


def check_second_batch(model: nn.Module, gm: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Checks that a graph computes what the model does for a batch of another size than the first.

    Raises:
        UnfollowedError: it does not: the number of samples became a plain number somewhere.
    """
    with torch.no_grad():
        wanted, found = (
            [leaf for leaf in pytree.tree_leaves(answer_of(each(*inputs))) if isinstance(leaf, Tensor)]
            for each in (model, gm)
        )
    for one, other in zip(wanted, found, strict=False):
        if one.shape != other.shape or float((one - other).abs().sum()) > 1e-2 * float(one.abs().sum()):
            break  # staircases may take another step here and there: the sums in front of them are rounded otherwise
    else:
        if len(wanted) == len(found):
            return
    raise UnfollowedError("the graph computes something else than the model for another number of samples")


def answer_of(value: Any) -> Any:
    """An answer as tensors in tuples, lists and dicts; records and mappings become dicts of what is not None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: answer_of(entry) for key, entry in value.items() if entry is not None}
    if pytree.is_namedtuple_instance(value):
        return type(value)(*map(answer_of, value))
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return type(value)(map(answer_of, value))
    return value
