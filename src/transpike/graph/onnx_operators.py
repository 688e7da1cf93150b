"""Operators of ONNX on shapes, written with Python numbers, and those that onnx2torch writes untraceably."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from transpike.errors import TraceError
from transpike.graph.traced_values import TracedFloat, TracedInt

LONGEST = 64
"""Integers that are at most so many are axes and sizes; more are a table to read from."""


class OnnxOperator(nn.Module):
    """One operator of an ONNX file; it takes tensors, and integers and lists of integers for shapes and axes.

    Args:
        inner: the module of onnx2torch.
        operator: its type in ONNX.
        name: of its node.
        file: where it stands.
        batch: the number of samples that the file was made for; None for any.
        on_samples: whether an input depends on the samples, not only on their shape.
    """

    def __init__(
        self, inner: nn.Module, operator: str, name: str, file: str, batch: int | None, on_samples: bool
    ) -> None:
        super().__init__()
        self.inner = inner
        self.operator, self.name, self.file, self.batch, self.on_samples = operator, name, file, batch, on_samples

    def forward(self, *values: Any, **named: Any) -> Any:
        """What the operator computes."""
        own = _OWN.get(self.operator)
        if own is not None:
            answer = own(self, *values, **named)
            if answer is not NotImplemented:
                return answer
        if any(
            isinstance(entry, TracedInt | TracedFloat)
            for value in (*values, *named.values())
            for entry in _entries(value)
        ):
            raise self.fixed("it calculates with that number in a way that is not followed")
        try:
            answer = self.inner(*map(_tensor, values), **{key: _tensor(value) for key, value in named.items()})
            return answer if self.on_samples else _numbers(answer)
        except RuntimeError as error:
            if self.batch is None:
                raise
            raise self.fixed(f"it was exported for batches of {self.batch}: {error}") from error

    def fixed(self, why: str) -> TraceError:
        """The error where the number of samples cannot change."""
        return TraceError(
            f"node {self.name!r} ({self.operator}) does not take any number of samples; {why}",
            where=f"{self.file}, node {self.name!r}",
            fix="export the model again with a dynamic batch dimension: torch.onnx.export(..., "
            "dynamic_axes={'input': {0: 'batch'}}); in its code write x.flatten(1) or x.reshape(x.shape[0], ...)",
        )


def _tensor(value: Any) -> Any:
    """A number or a list of numbers as onnx2torch takes it."""
    numbers = isinstance(value, list) or (isinstance(value, int | float) and not isinstance(value, bool))
    return torch.tensor(value) if numbers else value


def _numbers(value: Any) -> Any:
    """What was calculated from numbers alone is numbers again, once it is a list."""
    short = type(value) is Tensor and value.dtype == torch.int64 and value.dim() < 2 and value.numel() <= LONGEST
    return value.tolist() if short else value


def _is_number(value: Any) -> bool:
    """Whether this is a number, or a list of some."""
    return isinstance(value, int | float | list)


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _sizes(tensor: Tensor) -> list[Any]:
    return [tensor.shape[index] for index in range(tensor.dim())]


def _shape(node: OnnxOperator, tensor: Any) -> Any:
    start, end = getattr(node.inner, "_start", 0), getattr(node.inner, "_end", None)
    sizes: list[Any] = _sizes(tensor) if isinstance(tensor, Tensor) else [len(tensor)]
    return sizes[start:end]


def _gather(node: OnnxOperator, data: Any, index: Any) -> Any:
    axis = getattr(node.inner, "_axis", 0)
    if _is_number(data) and _is_number(index):
        return [data[i] for i in index] if isinstance(index, list) else data[index]
    if isinstance(data, Tensor) and isinstance(index, int):
        return data.select(axis, index)
    return NotImplemented


def _concat(node: OnnxOperator, *values: Any) -> Any:
    if all(map(_is_number, values)):
        return [entry for value in values for entry in _entries(value)]
    return NotImplemented


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    return [function(entry) for entry in value] if isinstance(value, list) else function(value)


def _cast(node: OnnxOperator, value: Any) -> Any:
    if not _is_number(value):
        return NotImplemented
    if getattr(node.inner, "torch_dtype", torch.int64).is_floating_point:
        return _each(lambda entry: entry * 1.0, value)
    return _each(lambda entry: entry if isinstance(entry, int) else math.trunc(entry), value)


def _floor(_: OnnxOperator, value: Any) -> Any:
    return _each(lambda entry: math.floor(entry) * 1.0, value) if _is_number(value) else NotImplemented


def _ceil(_: OnnxOperator, value: Any) -> Any:
    return _each(lambda entry: math.ceil(entry) * 1.0, value) if _is_number(value) else NotImplemented


def _power(_: OnnxOperator, data: Any, exponent: Any) -> Any:
    return data**exponent if isinstance(data, Tensor) and isinstance(exponent, int | float) else NotImplemented


def _batch_norm(node: OnnxOperator, data: Any, *given: Any) -> Any:
    """Of any number of dimensions."""
    norm: Any = node.inner
    if given or not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return NotImplemented
    return nn.functional.batch_norm(
        data, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, norm.momentum or 0.0, norm.eps
    )


def _global_mean(_: OnnxOperator, data: Tensor) -> Any:
    return data.mean(tuple(range(2, data.dim())), keepdim=True)


def _same(_: OnnxOperator, value: Any, *__: Any) -> Any:
    return value if _is_number(value) else NotImplemented


def _unsqueeze(_: OnnxOperator, value: Any, *__: Any) -> Any:
    return _entries(value) if _is_number(value) else NotImplemented


def _squeeze(_: OnnxOperator, value: Any, *__: Any) -> Any:
    if not _is_number(value):
        return NotImplemented
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _cut(entries: int, start: Any, end: Any, step: Any) -> slice:
    """The slice of ONNX in the words of Python, where a negative end of a backward slice would start at the back."""
    if step < 0 and end < -entries:
        return slice(start, None, step)
    return slice(start, end, step)


def _slice(_: OnnxOperator, data: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    if not (_is_number(starts) and _is_number(ends)):
        return NotImplemented
    begin, stop = _entries(starts), _entries(ends)
    stride = [1] * len(begin) if steps is None else _entries(steps)
    if _is_number(data):
        return data[_cut(len(data), begin[0], stop[0], stride[0])]
    where = list(range(len(begin))) if axes is None else [axis % data.dim() for axis in _entries(axes)]
    cuts: list[slice] = [slice(None)] * (max(where) + 1)
    for axis, first, last, step in zip(where, begin, stop, stride, strict=True):
        if step < 0:  # torch has no such slices
            entries = data.shape[axis]
            picked = range(entries)[_cut(entries, first, last, step)]
            whole = picked == range(entries)[::-1]
            data = data.flip(axis) if whole else data.index_select(axis, torch.tensor(picked, device=data.device))
            continue
        cuts[axis] = slice(first, None if isinstance(last, int) and last >= 2**31 - 1 else last, step)
    return data[tuple(cuts)]


def _divided(first: Any, second: Any) -> Any:
    """Division of integers goes towards zero."""
    if not (isinstance(first, int) and isinstance(second, int)):
        return first / second
    return first // second if (first >= 0) == (second > 0) else -(-first // second)


_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _divided,
}


def _arithmetic(node: OnnxOperator, first: Any, second: Any) -> Any:
    compute = _ARITHMETIC[node.operator]
    if _is_number(first) and _is_number(second):
        if not isinstance(first, list) and not isinstance(second, list):
            return compute(first, second)
        a, b = _entries(first), _entries(second)
        length = max(len(a), len(b))
        return [compute(x, y) for x, y in zip(a * (length // len(a)), b * (length // len(b)), strict=True)]
    numbers = [value for value in (first, second) if isinstance(value, int | float)]
    tensors = [value for value in (first, second) if isinstance(value, Tensor)]
    old = getattr(node.inner, "broadcast", None)
    if len(tensors) == 2 and not old and tensors[0].is_floating_point():
        return compute(first, second)
    if len(tensors) == 1 and len(numbers) == 1 and tensors[0].is_floating_point():
        return compute(first, second)
    return NotImplemented


def _reshape(node: OnnxOperator, data: Any, shape: Any) -> Any:
    if not _is_number(shape):
        return NotImplemented
    if _is_number(data):
        return _entries(data) if shape in ([-1], [len(_entries(data))]) else NotImplemented
    written = _entries(shape)
    if node.on_samples and written and not isinstance(written[0], TracedInt) and written[0] > 0:
        now = data.shape[0]
        if isinstance(now, TracedInt) or now != written[0]:
            raise node.fixed(f"it makes the shape {written}, whose first size is fixed")
    sizes = [
        data.shape[index] if not isinstance(size, TracedInt) and size == 0 else size
        for index, size in enumerate(written)
    ]
    return data.reshape(sizes)


def _expand(_: OnnxOperator, data: Tensor, shape: Any) -> Any:
    if not _is_number(shape) or _is_number(data):
        return NotImplemented
    wanted, own = _entries(shape), _sizes(data)
    length = max(len(wanted), len(own))
    pairs = zip([1] * (length - len(wanted)) + wanted, [1] * (length - len(own)) + own, strict=True)
    return data.expand([mine if not isinstance(size, TracedInt) and size == 1 else size for size, mine in pairs])


def _pad(node: OnnxOperator, data: Tensor, pads: Any, value: Any = 0.0, axes: Any = None) -> Any:
    """Pairs from the last dimension to the first."""
    if not _is_number(pads) or axes is not None:
        return NotImplemented
    half = len(pads) // 2
    pairs = [size for index in reversed(range(half)) for size in (pads[index], pads[half + index])]
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        pairs = pairs[:-2]
    mode = str(getattr(node.inner, "mode", "constant"))
    if mode != "constant":
        return nn.functional.pad(data, pairs, mode)
    return nn.functional.pad(data, pairs, mode, float(_entries(value)[0]) if value is not None else 0.0)


def _resize(node: OnnxOperator, data: Tensor, *values: Any, **named: Any) -> Any:
    """Sizes of all dimensions, of which torch takes those behind the channels."""
    inner = getattr(node.inner, "_resize", node.inner)
    given = dict(zip(("scales",) if inner is not node.inner else ("roi", "scales", "sizes"), values, strict=False))
    given.update(named)
    scales, sizes = given.get("scales"), given.get("sizes")
    if not all(value is None or isinstance(value, list) for value in (scales, sizes)):
        return NotImplemented
    modes: dict[Any, str] = {
        ("linear", 3): "linear",
        ("linear", 4): "bilinear",
        ("linear", 5): "trilinear",
        ("cubic", 4): "bicubic",
    }
    how: Any = modes.get((inner.onnx_mode, data.dim()), "nearest")
    factors = [float(scale) for scale in scales[2:]] if scales else None
    if scales and [float(scale) for scale in scales[:2]] != [1.0, 1.0]:
        return NotImplemented
    size = sizes[2:] if sizes else None
    aligned: Any = inner.align_corners
    return nn.functional.interpolate(data, size=size, scale_factor=factors, mode=how, align_corners=aligned)


def _full(node: OnnxOperator, shape: Any) -> Any:
    """Of integers, the shape of another tensor, say, these stay numbers."""
    value: Any = node.inner.value
    if not _is_number(shape):
        return NotImplemented
    if value.dtype == torch.int64 and len(_entries(shape)) == 1 and not isinstance(_entries(shape)[0], TracedInt):
        return [int(value)] * _entries(shape)[0]
    return torch.full(_entries(shape), value.item(), dtype=value.dtype, device=value.device)


def _compare(_: OnnxOperator, first: Any, second: Any) -> Any:
    if not (_is_number(first) and _is_number(second)):
        return NotImplemented
    return [
        not (isinstance(a, TracedInt) or isinstance(b, TracedInt)) and a == b
        for a, b in zip(_entries(first), _entries(second), strict=True)
    ]


def _where(_: OnnxOperator, condition: Any, first: Any, second: Any) -> Any:
    if not (_is_number(condition) and _is_number(first) and _is_number(second)):
        return NotImplemented
    return [a if yes else b for yes, a, b in zip(condition, _entries(first), _entries(second), strict=True)]


_OWN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_ARITHMETIC, _arithmetic),
    "BatchNormalization": _batch_norm,
    "GlobalAveragePool": _global_mean,
    "Shape": _shape,
    "Gather": _gather,
    "Concat": _concat,
    "Cast": _cast,
    "Floor": _floor,
    "Ceil": _ceil,
    "Pow": _power,
    "Identity": _same,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Expand": _expand,
    "Pad": _pad,
    "Resize": _resize,
    "ConstantOfShape": _full,
    "Equal": _compare,
    "Where": _where,
}
