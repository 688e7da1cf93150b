"""ATen operators as the functions and methods of torch that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_END = 2**62
"""From here on, the end of a slice is the end of the dimension."""

_IDLE = ("pin_memory", "layout", "non_blocking", "cudnn_enable", "cudnn_enabled")
"""Arguments that change no values."""


def function_for(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """What computes the same, with the arguments of the operator."""
    space, _, name = operator._schema.name.partition("::")
    if space != "aten":
        return operator
    if name in _OWN:
        return _without_idle(_OWN[name])
    homes = [torch, Tensor, torch._C._nn]
    if name.endswith("_"):
        homes = [Tensor, torch, torch._C._nn]
    elif hasattr(torch._C._nn, name):
        homes = [F, *homes]
    found = next((getattr(home, name) for home in homes if hasattr(home, name)), None)
    return operator if found is None else _without_idle(found)


def _without_idle(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{key: value for key, value in kwargs.items() if key not in _IDLE})

    return call


def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any, groups: int
) -> Any:
    dimensions = weight.dim() - 2
    if transposed:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dimensions - 1]
        return function(x, weight, bias, stride, padding, extra, groups, dilation)
    return (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1](x, weight, bias, stride, padding, dilation, groups)


def _batch_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, momentum: float, eps: float, *_: Any
) -> Any:
    return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)


def _instance_norm(
    x: Any, weight: Any, bias: Any, mean: Any, variance: Any, own: bool, momentum: float, eps: float, *_: Any
) -> Any:
    return F.instance_norm(x, mean, variance, weight, bias, own, momentum, eps)


def _slice(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    end = None if type(end) is int and end >= _END else end
    start = None if type(start) is int and start == 0 else start
    if start is None and end is None and step == 1:
        return x
    dim = dim if dim >= 0 else dim + x.dim()
    return x[(*[slice(None)] * dim, slice(start, end, None if step == 1 else step))]


def _index(x: Any, indices: Any) -> Any:
    return x[tuple(slice(None) if index is None else index for index in indices)]


def _max_pool(function: Callable[..., Any]) -> Callable[..., Any]:
    def pool(x: Any, size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
        return function(x, size, stride or None, padding, dilation, ceil)

    return pool


def _first(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose operator has a second result, which is not followed."""
    return lambda *args, **kwargs: (function(*args, **kwargs), None)


def _upsample(mode: str) -> Callable[..., Any]:
    def upsample(x: Any, size: Any, *rest: Any, **kwargs: Any) -> Any:
        align = rest[0] if rest and isinstance(rest[0], bool) else kwargs.get("align_corners")
        factors = next((each for each in rest if isinstance(each, list | tuple)), kwargs.get("scale_factors"))
        factors = None if size is not None or factors is None else tuple(factors)
        return F.interpolate(x, size, factors, mode, None if mode.startswith("nearest") else bool(align))

    return upsample


def _nothing(*_: Any, **__: Any) -> None:
    """Checks that the exported program makes, which hold here."""


_OWN: Mapping[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": lambda x, shape, weight=None, bias=None, eps=1e-5, *_: F.layer_norm(x, shape, weight, bias, eps),
    "group_norm": lambda x, groups, weight=None, bias=None, eps=1e-5, *_: F.group_norm(x, groups, weight, bias, eps),
    "embedding": lambda weight, indices, *_: F.embedding(indices, weight),
    "linear": F.linear,
    "dropout": F.dropout,
    "pad": F.pad,
    "slice": _slice,
    "select": lambda x, dim, index: x[(*[slice(None)] * (dim if dim >= 0 else dim + x.dim()), index)],
    "index": _index,
    "max_pool1d": _max_pool(F.max_pool1d),
    "max_pool2d": _max_pool(F.max_pool2d),
    "max_pool3d": _max_pool(F.max_pool3d),
    **{f"max_pool{d}d_with_indices": _first(_max_pool(getattr(F, f"max_pool{d}d"))) for d in (2, 3)},
    **{f"adaptive_max_pool{d}d": _first(getattr(F, f"adaptive_max_pool{d}d")) for d in (1, 2, 3)},
    "sym_size": lambda x, dim: x.shape[dim],
    "sym_numel": lambda x: x.numel(),
    "lift_fresh_copy": lambda x: x.clone(),
    "alias": lambda x: x,
    "detach": lambda x: x,
    "detach_": lambda x: x,
    "_unsafe_view": lambda x, shape: x.reshape(shape),
    "_to_copy": lambda x, **kwargs: x.to(**kwargs),
    "_softmax": lambda x, dim, *_: torch.softmax(x, dim),
    "_log_softmax": lambda x, dim, *_: torch.log_softmax(x, dim),
    "upsample_nearest1d": _upsample("nearest"),
    "upsample_nearest2d": _upsample("nearest"),
    "upsample_nearest3d": _upsample("nearest"),
    "_upsample_nearest_exact2d": _upsample("nearest-exact"),
    "upsample_linear1d": _upsample("linear"),
    "upsample_bilinear2d": _upsample("bilinear"),
    "upsample_trilinear3d": _upsample("trilinear"),
    "upsample_bicubic2d": _upsample("bicubic"),
    "_assert_tensor_metadata": _nothing,
    "_assert_scalar": _nothing,
    "_assert_async": _nothing,
    "sym_constrain_range": _nothing,
    "sym_constrain_range_for_size": _nothing,
}
