"""How a call of torch is written as a node, as plain tracing writes it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.overrides import is_tensor_method_or_property

BINARY: Mapping[str, Any] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow")},
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne", "lshift", "rshift")},
    **{name: getattr(operator, f"__{name}__") for name in ("and", "or", "xor")},
    "div": operator.truediv,
}
"""What Python writes as an operator between two operands, by the name of the method without underscores."""

_UNARY: Mapping[str, Any] = {
    **{name: getattr(operator, name) for name in ("neg", "pos", "abs", "invert", "getitem")},
}

FACTS = frozenset(
    [
        *("dim", "ndimension", "is_floating_point", "is_complex", "is_signed", "is_contiguous", "is_conj", "is_neg"),
        *("element_size", "get_device", "stride", "storage_offset", "type", "is_tensor", "is_same_size", "result_type"),
        *("is_inference", "is_pinned", "is_shared", "_is_view", "__repr__", "__format__", "__str__", "has_names"),
    ]
)
"""Calls whose answer is no tensor, and depends on no data."""

PROTOTYPES = frozenset(
    [
        *("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor"),
        *("zeros_like", "ones_like", "full_like", "empty_like"),
    ]
)
"""Calls that read only type, device and shape of their first argument."""


def is_method(function: Any) -> bool:
    """Whether a function is a method of tensors."""
    name = getattr(function, "__name__", "")
    return getattr(Tensor, name, None) is function or bool(is_tensor_method_or_property(function))


def node_target(function: Any, args: tuple[Any, ...]) -> tuple[str, Any, tuple[Any, ...]]:
    """Kind, target and arguments of the node for a call, as plain tracing writes them."""
    name = getattr(function, "__name__", "")
    if not is_method(function):
        return "call_function", function, args
    bare = name.strip("_") if name.startswith("__") else name
    if bare in _UNARY and (name.startswith("__") or bare == "neg"):
        return "call_function", _UNARY[bare], args
    if bare in BINARY and len(args) == 2:
        return "call_function", BINARY[bare], args
    if name.startswith("__r") and bare[1:] in BINARY:
        return "call_function", BINARY[bare[1:]], (args[1], args[0])
    return "call_method", name, args
