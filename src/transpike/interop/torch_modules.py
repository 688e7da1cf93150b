"""Text that makes a module of ``torch.nn`` again, as far as its settings are plain values."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from transpike.graph.operators import FixedBatchNorm, GlobalMaxPool
from transpike.interop.python_text import Bracket, Expression, call, literal

_PER_DIMENSION = frozenset(["kernel_size", "stride", "padding", "dilation", "output_padding", "output_size"])
_SKIPPED = frozenset(["device", "dtype", "inplace"])
_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def constructor(module: nn.Module, dimensions: int) -> Bracket | None:
    """``nn.Conv2d(3, 8, 3, padding=1)``; None for a module that is not of ``torch.nn``, or has other settings.

    Args:
        module: what is called.
        dimensions: number of dimensions of its input.
    """
    kind = type(module)
    if kind is GlobalMaxPool:
        return call("GlobalMaxPool", literal(module.dim, str), literal(module.keepdim, str))
    if kind is FixedBatchNorm:
        if dimensions not in _NORMS:
            return None
        kind = _NORMS[dimensions]
    elif getattr(nn, kind.__name__, None) is not kind or next(module.children(), None) is not None:
        return None
    given: list[Expression] = []
    named: dict[str, Expression] = {}
    for name, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if name in _SKIPPED:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY) or not hasattr(module, name):
            return None
        value = _setting(name, getattr(module, name))
        if parameter.default is not parameter.empty and value == _setting(name, parameter.default):
            continue
        try:
            text = literal(value, str)
        except TypeError:
            return None
        if parameter.default is parameter.empty and not named:
            given.append(text)
        else:
            named[name] = text
    return call(f"nn.{kind.__name__}", *given, **named)


def _setting(name: str, value: Any) -> Any:
    if name == "bias" and (value is None or isinstance(value, Tensor)):
        return value is not None
    if name in _PER_DIMENSION and isinstance(value, tuple) and len(set(value)) == 1:
        return value[0]
    return value
