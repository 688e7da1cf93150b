"""Draws every operator of the table with random arguments, and asks by values whether it is linear in time.

``python tests/fuzz/operators.py --minutes 10``. What fails is printed with the seed that draws it again.
"""

from __future__ import annotations

import copy
import itertools
import operator
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from cases import run_cases
from torch import Tensor, fx, nn

import transpike as tp
from transpike.graph.linear_operators import ATTRIBUTES, HOMES, LINEAR_MODULES, OPERATORS, TABLE
from transpike.graph.operators import GlobalAveragePool, GlobalMaxPool, change_of

SAMPLES = 4


class Signal:
    """An argument that may differ from step to step, ``[N, *]``."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Draw:
    """Random numbers of one call."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def tensor(self, *shape: int) -> Tensor:
        """Any real numbers, none near zero."""
        found = torch.randn(shape, generator=self.generator, dtype=torch.float64)
        return found + 0.1 * found.sign()

    def whole(self, high: int, *shape: int) -> Tensor:
        """Indices."""
        return torch.randint(high, shape, generator=self.generator)

    def signal(self, *shape: int) -> Signal:
        """Of these shapes per sample."""
        return Signal(self.tensor(SAMPLES, *shape))

    def some(self, fewest: int = 1, most: int = 3) -> Signal:
        """Of a shape of so many dimensions per sample."""
        return self.signal(*(self.random.randint(2, 5) for _ in range(self.random.randint(fewest, most))))

    def dim(self, x: Signal) -> int:
        """Seldom the batch, from the front or from behind."""
        dims = x.value.dim()
        found = 0 if self.random.random() < 0.08 else self.random.randint(1, dims - 1)
        return found if self.random.random() < 0.5 else found - dims

    def coin(self) -> bool:
        """True in half of all cases."""
        return self.random.random() < 0.5

    def pick(self, *choices: Any) -> Any:
        """One of them."""
        return self.random.choice(choices)


Arguments = tuple[list[Any], dict[str, Any]]
Rule = Callable[[Draw], Arguments]


def _with(make: Callable[[Draw, Signal], tuple[Any, ...]], fewest: int = 1, most: int = 3) -> Rule:
    """A rule for further arguments behind any signal; a dict at the end holds those by name."""

    def rule(d: Draw) -> Arguments:
        x = d.some(fewest, most)
        rest = list(make(d, x))
        named = rest.pop() if rest and isinstance(rest[-1], dict) else {}
        return [x, *rest], named

    return rule


def _of(*shapes: tuple[int, ...], **named: Any) -> Rule:
    """A rule for signals of these shapes per sample."""
    return lambda d: ([d.signal(*shape) for shape in shapes], dict(named))


def _size(x: Signal, dim: int) -> int:
    return x.value.shape[dim]


def _reshape(d: Draw, x: Signal) -> tuple[Any, ...]:
    total = x.value[0].numel()
    return d.pick((SAMPLES_UNKNOWN, total), ((SAMPLES_UNKNOWN, total),), (SAMPLES_UNKNOWN, 1, total))


SAMPLES_UNKNOWN = -1  # a number of samples would not fit the probing batch


def _order(d: Draw, x: Signal) -> tuple[int, ...]:
    inner = list(range(1, x.value.dim()))
    d.random.shuffle(inner)
    return (0, *inner)


def _pair_of_dims(d: Draw, x: Signal) -> tuple[Any, ...]:
    return (d.dim(x), d.dim(x))


def _sizes(d: Draw, x: Signal) -> tuple[Any, ...]:
    dim = d.dim(x)
    first = d.random.randint(1, max(1, _size(x, dim) - 1))
    return ([first, _size(x, dim) - first], dim)


def _index(d: Draw, x: Signal) -> tuple[Any, ...]:
    dim = d.random.randint(1, x.value.dim() - 1)
    return (dim, d.whole(_size(x, dim), 3))


def _gather(d: Draw) -> Arguments:
    """Every sample has its own index, which is constant: the samples are no batch then."""
    x = d.signal(5)
    return [x, 1, d.whole(5, 1, 3).expand(SAMPLES, 3) if d.coin() else d.whole(5, 1, 3)], {}


def _sum(d: Draw) -> Arguments:
    x = d.some()
    other = d.pick(Signal(d.tensor(*x.value.shape)), d.tensor(*x.value.shape[1:]), 1.5)
    return [x, other], ({"alpha": 0.5} if d.coin() else {})


def _plain_sum(d: Draw) -> Arguments:
    (x, other), _ = _sum(d)
    return d.pick([x, other], [other, x]), {}


def _division(d: Draw) -> Arguments:
    x = d.some()
    mode = {} if d.coin() else {"rounding_mode": d.pick(None, "floor", "trunc")}
    return [x, d.pick(Signal(d.tensor(*x.value.shape)), d.tensor(_size(x, -1)), 2.5)], mode


def _plain_division(d: Draw) -> Arguments:
    args, _ = _division(d)
    return args, {}


def _matmul(d: Draw) -> Arguments:
    choice = d.random.randint(0, 3)
    if choice == 0:
        return [d.signal(3, 4), d.signal(4, 2)], {}
    if choice == 1:
        return [d.signal(4), d.tensor(4, 3)], {}
    if choice == 2:
        return [d.tensor(3, 5), d.signal(5, 2)], {}
    return [d.signal(5, 4), d.tensor(4)], {}


def _einsum(d: Draw) -> Arguments:
    choice = d.random.randint(0, 3)
    if choice == 0:
        return ["bi,ij->bj", d.signal(4), d.tensor(4, 3)], {}
    if choice == 1:
        return ["bij,bjk->bik", d.signal(3, 4), d.signal(4, 2)], {}
    if choice == 2:
        return ["bi,bj,k->bijk", d.signal(2), d.signal(3), d.tensor(2)], {}
    return ["...ii->...i", d.signal(3, 3)], {}


def _joined(d: Draw) -> Arguments:
    x = d.some()
    parts = [x, Signal(d.tensor(*x.value.shape)), *([x] if d.coin() else [])]
    return [parts, *([d.dim(x)] if d.coin() else [])], {}


def _stacked(d: Draw) -> Arguments:
    x = d.some(2, 2)
    return [[x, Signal(d.tensor(*x.value.shape))]], {}


def _image(d: Draw, dims: int, channels: int = 4) -> Signal:
    return d.signal(channels, *(d.random.randint(4, 7) for _ in range(dims)))


def _convolution(dims: int, *, transposed: bool = False) -> Rule:
    def rule(d: Draw) -> Arguments:
        groups, kernel = d.pick(1, 2), [d.random.randint(1, 3) for _ in range(dims)]
        weight = d.tensor(4, 4 // groups, *kernel)
        bias = d.pick(None, d.tensor(4 if not transposed else 4 // groups * groups))
        named: dict[str, Any] = {"stride": d.pick(1, 2, (2,), [1] * dims), "groups": groups}
        if transposed:
            weight = d.tensor(4, 4, *kernel)
            bias = d.pick(None, d.tensor(4 * groups))
        else:
            named["padding"] = d.pick(0, 1, (1,), [1] * dims)
            named["dilation"] = d.pick(1, (1,), 2 if max(kernel) < 3 else 1)
        return [_image(d, dims), weight, bias], named

    return rule


def _average(dims: int) -> Rule:
    def rule(d: Draw) -> Arguments:
        named: dict[str, Any] = {}
        for name, choices in {
            "stride": [2, (1,), [2] * dims, (), None],
            "padding": [0, 1, (1,)],
            "ceil_mode": [True, False],
            "count_include_pad": [True, False],
        }.items():
            if d.coin():
                named[name] = d.pick(*choices)
        if dims > 1 and d.coin():
            named["divisor_override"] = 3
        return [_image(d, dims), d.pick(2, (3,), [2] * dims)], named

    return rule


def _adaptive(dims: int) -> Rule:
    return lambda d: ([_image(d, dims), d.pick(1, 2, [2] * dims)], {})


def _padding(d: Draw) -> Arguments:
    x = _image(d, 2)
    if d.coin():
        return [x, d.pick((1, 2), (1, 0, 2, 1), (0, 0, 0, 0, 1, 1), (-1, 1))], d.pick({}, {"value": 0.5})
    return [x, (1, 2, 0, 1)], {"mode": d.pick("reflect", "replicate", "circular", "constant")}


def _interpolate(d: Draw) -> Arguments:
    size = d.pick({"scale_factor": 2.0}, {"size": (6, 5)}, {"size": 7})
    mode = d.pick("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    return [_image(d, 2)], {**size, "mode": mode}


def _scatter(named: bool) -> Rule:
    def rule(d: Draw) -> Arguments:
        x = d.signal(5)
        source = d.pick(2.0, Signal(d.tensor(SAMPLES, 3)), Signal(d.tensor(SAMPLES, 3)))
        reduce = {"reduce": d.pick("add", "multiply")} if named and not isinstance(source, Signal) and d.coin() else {}
        source = source if named or isinstance(source, Signal) else Signal(d.tensor(SAMPLES, 3))
        return [x, 1, d.whole(5, 1, 3).expand(SAMPLES, 3), source], reduce

    return rule


def _added_index(d: Draw) -> Arguments:
    return [d.signal(5, 2), 1, torch.randperm(5, generator=d.generator)[:3], d.signal(3, 2)], {}


def _where(d: Draw) -> Arguments:
    x = d.some()
    condition = d.tensor(*x.value.shape[1:]) > 0
    return [condition, x, d.pick(0.0, Signal(d.tensor(*x.value.shape)), d.tensor(_size(x, -1)))], {}


def _complex(d: Draw) -> Arguments:
    return [Signal(torch.view_as_complex(d.tensor(SAMPLES, 3, 2)))], {}


def _any_number(d: Draw) -> Arguments:
    return _complex(d) if d.coin() else ([d.some()], {})


def _spectrum(d: Draw) -> Arguments:
    return _complex(d) if d.coin() else ([d.signal(6)], {})


def _to(d: Draw) -> Arguments:
    types = (torch.float32, torch.float64, torch.int32, torch.bool, "cpu", torch.zeros(1), torch.zeros(2).long())
    return [d.some(), d.pick(*types)], {}


def _like(d: Draw) -> Arguments:
    return [d.some()], d.pick({}, {"dtype": torch.float32}, {"dtype": torch.int64})


def _reduced(d: Draw) -> Arguments:
    x = d.some()
    dim = d.dim(x)
    named = d.pick({}, {"keepdim": True}, {"dtype": torch.float32})
    return [x, d.pick(dim, (dim,), tuple(range(1, x.value.dim())))], named


def _integer_sum(d: Draw) -> Arguments:
    x = d.some()
    return [x, d.dim(x)], d.pick({}, {"dtype": torch.int64}, {"dtype": torch.float64})


def _getitem(d: Draw) -> Arguments:
    x = d.some(2, 2)
    places = [
        (slice(None), 1),
        (slice(None), slice(0, None, 2)),
        (Ellipsis, 0),
        (slice(None), [0, 1]),
        (slice(None), d.whole(_size(x, 1), 3)),
        (slice(None), None, slice(1, 2)),
        (slice(None), d.tensor(_size(x, 1)) > -9),
        slice(None, None, 1),
        slice(1, None),
    ]
    return [x, d.pick(*places)], {}


_FIRST = _with(lambda d, x: ())
_DIM = _with(lambda d, x: (d.dim(x),))

RULES: dict[str, Rule] = {
    # views and copies
    "view": lambda d: _with(_reshape)(d) if d.coin() else ([d.signal(4)], {"dtype": d.pick(torch.int64, torch.int32)}),
    "reshape": _with(_reshape),
    "flatten": _with(lambda d, x: d.pick((1,), (1, -1), ({"start_dim": 1},), (0,))),
    "unflatten": lambda d: ([d.signal(6, 2), d.pick(1, -2), d.pick((2, 3), (-1, 2))], {}),
    "permute": _with(lambda d, x: (_order(d, x),)),
    "squeeze": lambda d: ([d.signal(1, 3), *d.pick([1], [(1,)], [-2])], {}),
    "unsqueeze": _DIM,
    "expand": lambda d: ([d.signal(1, 3), -1, 4, 3], {}),
    "broadcast_to": lambda d: ([d.signal(1, 3), (-1, 4, 3)], {}),
    **dict.fromkeys(["transpose", "swapaxes", "swapdims", "movedim", "moveaxis"], _with(_pair_of_dims)),
    **dict.fromkeys(["adjoint"], _with(lambda d, x: (), 2, 2)),
    **dict.fromkeys(["ravel", "contiguous", "clone", "detach", "positive", "neg", "negative"], _FIRST),
    **dict.fromkeys(["atleast_1d", "atleast_2d", "atleast_3d", "deg2rad", "rad2deg"], _FIRST),
    "t": _with(lambda d, x: (), 1, 1),
    # pieces and repetitions
    **dict.fromkeys(["narrow", "narrow_copy"], _with(lambda d, x: (d.dim(x), 0, 2))),
    "select": _with(lambda d, x: (d.dim(x), 1)),
    "chunk": _with(lambda d, x: (2, d.dim(x))),
    "split": _with(lambda d, x: d.pick((2, d.dim(x)), _sizes(d, x))),
    "split_with_sizes": _with(_sizes),
    "tensor_split": _with(lambda d, x: (d.pick(2, (1,)), d.dim(x))),
    "hsplit": lambda d: ([d.signal(4), 2], {}),
    "vsplit": lambda d: ([d.signal(3), 2], {}),
    "dsplit": lambda d: ([d.signal(2, 4), 2], {}),
    "unbind": _DIM,
    "index_select": _with(_index),
    "gather": _gather,
    "take_along_dim": lambda d: ([d.signal(5), d.whole(5, 1, 3), 1], {}),
    "diagonal": lambda d: ([d.signal(3, 4)], {"dim1": 1, "dim2": 2, "offset": d.pick(0, 1)}),
    "diag_embed": _FIRST,
    **dict.fromkeys(["tril", "triu"], _with(lambda d, x: d.pick((), (1,)), 2, 3)),
    "repeat": lambda d: ([d.signal(3), d.pick(1, 1, 2), 2], {}),
    "tile": lambda d: ([d.signal(3), (d.pick(1, 1, 2), 2)], {}),
    "repeat_interleave": _with(lambda d, x: (2, d.dim(x))),
    "flip": _with(lambda d, x: ((d.dim(x),),)),
    **dict.fromkeys(["fliplr", "flipud"], _with(lambda d, x: (), 1, 2)),
    "roll": _with(lambda d, x: (1, d.dim(x))),
    "rot90": lambda d: ([d.signal(3, 4), d.random.randint(1, 3), (1, 2)], {}),
    "unfold": lambda d: ([_image(d, 2), 3], d.pick({}, {"padding": 1})),
    # sums
    "mean": _reduced,
    "sum": lambda d: _reduced(d) if d.coin() else _integer_sum(d),
    "cumsum": _integer_sum,
    **dict.fromkeys(["div", "divide", "true_divide"], _division),
    # types
    "to": _to,
    "type": lambda d: ([d.some(), d.pick(torch.float32, torch.int32, "torch.IntTensor")], {}),
    **dict.fromkeys(["float", "double", "half", "bfloat16", "cfloat", "cdouble", "cpu"], _FIRST),
    **dict.fromkeys(["conj", "conj_physical", "resolve_conj", "resolve_neg", "real"], _any_number),
    **dict.fromkeys(["imag", "view_as_real"], _complex),
    "view_as_complex": lambda d: ([d.signal(3, 2)], {}),
    # images
    "pad": _padding,
    "constant_pad_nd": lambda d: ([_image(d, 2), (1, 2), *d.pick([], [0.5])], {}),
    **dict.fromkeys(["interpolate", "upsample"], _interpolate),
    **dict.fromkeys(["upsample_nearest", "upsample_bilinear"], lambda d: ([_image(d, 2)], {"scale_factor": 2})),
    "pixel_shuffle": lambda d: ([_image(d, 2), 2], {}),
    "pixel_unshuffle": lambda d: ([d.signal(2, 4, 6), 2], {}),
    **dict.fromkeys(["channel_shuffle", "native_channel_shuffle"], lambda d: ([_image(d, 2), 2], {})),
    "fold": lambda d: ([d.signal(8, 9), (4, 4), 2], {}),
    "grid_sample": lambda d: (
        [_image(d, 2), d.tensor(1, 3, 3, 2).tanh().expand(SAMPLES, 3, 3, 2)],
        {"mode": d.pick("bilinear", "nearest", "bicubic"), "align_corners": False},
    ),
    "affine_grid": lambda d: ([d.signal(2, 3), [SAMPLES, 1, 3, 3]], {"align_corners": False}),
    **{f"avg_pool{dims}d": _average(dims) for dims in (1, 2, 3)},
    **{f"adaptive_avg_pool{dims}d": _adaptive(dims) for dims in (1, 2, 3)},
    **{f"dropout{dims}d": (lambda k: lambda d: ([_image(d, k), 0.5, False], {}))(dims) for dims in (1, 2, 3)},
    **dict.fromkeys(["dropout", "alpha_dropout", "feature_alpha_dropout"], lambda d: ([_image(d, 2), 0.5, False], {})),
    # spectra
    **dict.fromkeys(["fft", "ifft", "irfft", "hfft", "fftshift", "ifftshift"], _spectrum),
    **dict.fromkeys(["rfft", "ihfft"], lambda d: ([d.signal(6)], {})),
    **dict.fromkeys(["fft2", "fftn", "ifft2", "ifftn", "rfft2", "rfftn", "irfft2", "irfftn"], _of((4, 6), dim=(1, 2))),
    # several arguments
    **dict.fromkeys(["add", "sub", "subtract", "rsub"], _sum),
    **dict.fromkeys(["mul", "multiply"], _plain_sum),
    "matmul": _matmul,
    "inner": lambda d: ([d.signal(4), d.tensor(3, 4)], {}),
    "kron": lambda d: ([d.signal(2), d.pick(d.tensor(1, 3), d.tensor(2, 3))], {}),
    **dict.fromkeys(["dot", "vdot"], _of((), ())),
    "cross": lambda d: ([d.signal(3), d.signal(3)], {"dim": 1}),
    "vecdot": lambda d: ([d.signal(3), d.signal(3)], {}),
    "tensordot": lambda d: ([d.signal(3, 4), d.tensor(4, 2)], {"dims": 1}),
    "mm": lambda d: ([d.signal(4), d.tensor(4, 3)], {}),
    "bmm": _of((3, 4), (4, 2)),
    "mv": lambda d: ([d.signal(4), d.tensor(4)], {}),
    **dict.fromkeys(["outer", "ger"], lambda d: ([d.signal(), d.tensor(3)], {})),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack"], _joined),
    **dict.fromkeys(["hstack", "vstack", "row_stack", "dstack", "column_stack"], _stacked),
    "broadcast_tensors": _of((3, 1), (1, 4)),
    "multi_dot": lambda d: ([[d.signal(4), d.tensor(4, 3), d.tensor(3, 2)]], {}),
    "chain_matmul": lambda d: ([d.signal(4), d.tensor(4, 3)], {}),
    "einsum": _einsum,
    "addmm": lambda d: ([d.pick(d.tensor(3), d.signal(3)), d.signal(4), d.tensor(4, 3)], d.pick({}, {"beta": 0.5})),
    "addmv": lambda d: ([d.signal(), d.signal(4), d.tensor(4)], {}),
    "baddbmm": _of((3, 2), (3, 4), (4, 2)),
    "addr": lambda d: ([d.signal(3), d.signal(), d.tensor(3)], {}),
    "addcmul": lambda d: ([d.signal(4), d.signal(4), d.pick(d.signal(4), d.tensor(4))], d.pick({}, {"value": 0.5})),
    "addcdiv": lambda d: ([d.signal(4), d.signal(4), d.pick(d.signal(4), d.tensor(4))], {}),
    "lerp": lambda d: ([d.signal(4), d.signal(4), d.pick(0.3, d.tensor(4), d.signal(4))], {}),
    "linear": _with(lambda d, x: (d.tensor(3, _size(x, -1)), d.pick(None, d.tensor(3))), 1, 2),
    "bilinear": lambda d: ([d.signal(3), d.signal(4), d.tensor(2, 3, 4)], {}),
    **{f"conv{dims}d": _convolution(dims) for dims in (1, 2, 3)},
    **{f"conv_transpose{dims}d": _convolution(dims, transposed=True) for dims in (1, 2, 3)},
    "diff": lambda d: ([d.signal(5), d.pick(1, 2), 1, *d.pick([], [d.signal(2)], [d.signal(2), d.signal(1)])], {}),
    "masked_fill": _with(lambda d, x: (d.tensor(*x.value.shape[1:]) > 0, d.pick(0.0, -1.5))),
    "index_fill": _with(lambda d, x: (*_index(d, x), d.pick(0.0, 2.0))),
    **dict.fromkeys(["index_add", "index_copy"], _added_index),
    "scatter": _scatter(True),
    "scatter_add": _scatter(False),
    "select_scatter": lambda d: ([d.signal(3, 4), d.signal(4), 1, 2], {}),
    "slice_scatter": lambda d: ([d.signal(4), d.signal(2)], {"dim": 1, "start": 1, "end": 3}),
    "diagonal_scatter": lambda d: ([d.signal(3, 3), d.signal(3)], {"dim1": 1, "dim2": 2}),
    "index_put": lambda d: (
        [d.signal(4), (torch.arange(1), torch.tensor([2])), d.tensor(1)],
        d.pick({}, {"accumulate": True}),
    ),
    "where": _where,
    **dict.fromkeys(
        ["expand_as", "type_as", "view_as", "reshape_as"], _with(lambda d, x: (Signal(d.tensor(*x.value.shape)),))
    ),
    **dict.fromkeys(["zeros_like", "ones_like"], _like),
    "full_like": lambda d: ([d.some(), 2.5], d.pick({}, {"dtype": torch.float32})),
    **dict.fromkeys(["new_zeros", "new_ones"], _with(lambda d, x: ((3,),))),
    "new_full": _with(lambda d, x: ((2, 3), 0.5)),
    "new_tensor": _with(lambda d, x: ([1.0, 2.0],)),
    "fill": _with(lambda d, x: (1.5,)),
}
"""By row of the table."""

OWN_METHODS: dict[str, Rule] = {
    "unfold": lambda d: ([d.signal(6), 1, 3, 2], {}),
    "where": lambda d: (lambda found: ([found[1], found[0], found[2]], {}))(_where(d)[0]),
}
"""Methods with other arguments than the function of that name."""

OF_OPERATORS: dict[Any, Rule] = {
    **dict.fromkeys([operator.add, operator.sub, operator.mul], _plain_sum),
    operator.matmul: _matmul,
    operator.truediv: _plain_division,
    **dict.fromkeys([operator.neg, operator.pos], _FIRST),
    operator.getitem: _getitem,
}

Layer = Callable[[Draw], tuple[nn.Module, Signal]]

OF_MODULES: dict[type[nn.Module], Layer] = {
    nn.modules.conv._ConvNd: lambda d: d.pick(
        (nn.Conv1d(4, 3, 3, stride=(2,)), _image(d, 1)),
        (nn.Conv2d(4, 6, (3, 1), padding="same", groups=2), _image(d, 2)),
        (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), _image(d, 2)),
        (nn.ConvTranspose2d(4, 2, 3, 2), _image(d, 2)),
    ),
    nn.Linear: lambda d: (nn.Linear(4, 3), d.pick(d.signal(4), d.signal(2, 4))),
    nn.modules.batchnorm._BatchNorm: lambda d: (nn.BatchNorm2d(4, affine=d.coin()), _image(d, 2)),
    nn.modules.pooling._AvgPoolNd: lambda d: (
        nn.AvgPool2d(
            d.pick(2, (3,), (2, 1)),
            d.pick(None, 2, (1,)),
            d.pick(0, 1) if d.coin() else 0,
            ceil_mode=d.coin(),
            count_include_pad=d.coin(),
            divisor_override=d.pick(None, 3),
        ),
        _image(d, 2),
    ),
    nn.modules.pooling._AdaptiveAvgPoolNd: lambda d: (nn.AdaptiveAvgPool2d(d.pick(1, (2, None))), _image(d, 2)),
    nn.modules.dropout._DropoutNd: lambda d: (nn.Dropout(0.5), d.some()),
    nn.modules.padding._ConstantPadNd: lambda d: (d.pick(nn.ZeroPad2d(1), nn.ConstantPad2d(1, 0.5)), _image(d, 2)),
    nn.modules.padding._ReflectionPadNd: lambda d: (nn.ReflectionPad2d(1), _image(d, 2)),
    nn.modules.padding._ReplicationPadNd: lambda d: (nn.ReplicationPad2d(1), _image(d, 2)),
    nn.modules.padding._CircularPadNd: lambda d: (nn.CircularPad2d(1), _image(d, 2)),
    nn.Identity: lambda d: (nn.Identity(), d.some()),
    nn.Flatten: lambda d: (nn.Flatten(), d.some()),
    nn.Unflatten: lambda d: (nn.Unflatten(1, (2, 3)), d.signal(6)),
    nn.Fold: lambda d: (nn.Fold((4, 4), 2), d.signal(8, 9)),
    nn.Unfold: lambda d: (nn.Unfold(3, padding=1), _image(d, 2)),
    nn.Upsample: lambda d: (nn.Upsample(scale_factor=2, mode=d.pick("nearest", "bilinear")), _image(d, 2)),
    nn.PixelShuffle: lambda d: (nn.PixelShuffle(2), _image(d, 2)),
    nn.PixelUnshuffle: lambda d: (nn.PixelUnshuffle(2), d.signal(2, 4, 6)),
    nn.ChannelShuffle: lambda d: (nn.ChannelShuffle(2), _image(d, 2)),
    GlobalAveragePool: lambda d: (GlobalAveragePool(GlobalMaxPool((-1,), keepdim=d.coin())), _image(d, 2)),
}

NOT_LINEAR: dict[str, Rule] = {
    **dict.fromkeys(
        [
            "abs",
            "sign",
            "sgn",
            "round",
            "floor",
            "ceil",
            "trunc",
            "frac",
            "relu",
            "sigmoid",
            "tanh",
            "exp",
            "expm1",
            "square",
            "sin",
        ],
        _FIRST,
    ),
    **dict.fromkeys(
        [
            "sinh",
            "atan",
            "erf",
            "sinc",
            "softplus",
            "gelu",
            "silu",
            "mish",
            "hardswish",
            "elu",
            "selu",
            "celu",
            "softsign",
        ],
        _FIRST,
    ),
    **dict.fromkeys(["leaky_relu", "hardshrink", "logsigmoid", "signbit", "reciprocal"], _FIRST),
    **dict.fromkeys(["bool", "int", "long", "short", "char", "byte", "logical_not"], _FIRST),
    **dict.fromkeys(
        [
            "softmax",
            "log_softmax",
            "cumprod",
            "prod",
            "amax",
            "amin",
            "argmax",
            "argmin",
            "sort",
            "logsumexp",
            "max",
            "min",
        ],
        _DIM,
    ),
    **dict.fromkeys(["std", "var", "median", "cummax", "logcumsumexp"], _with(lambda d, x: (-1,))),
    **dict.fromkeys(
        ["gt", "lt", "floor_divide", "remainder", "fmod", "maximum", "minimum"],
        _with(lambda d, x: (d.tensor(_size(x, -1)),)),
    ),
    **dict.fromkeys(["pow", "float_power"], _with(lambda d, x: (d.pick(2, 3),))),
    **dict.fromkeys(["clamp", "clip"], _with(lambda d, x: (-0.3, 0.4))),
    **dict.fromkeys(
        ["clamp_min", "clamp_max", "heaviside"], _with(lambda d, x: (torch.zeros((), dtype=torch.float64),))
    ),
    "norm": _with(lambda d, x: (2, -1)),
    "normalize": _FIRST,
    "layer_norm": _with(lambda d, x: ([_size(x, -1)],)),
    "group_norm": lambda d: ([_image(d, 2), 2], {}),
    "instance_norm": lambda d: ([_image(d, 2)], {}),
    "batch_norm": lambda d: ([_image(d, 2), None, None], {"training": True}),
    "topk": _with(lambda d, x: (1,)),
    "lp_pool2d": lambda d: ([_image(d, 2), 2, 2], {}),
    "max_pool2d": lambda d: ([_image(d, 2), 2], {}),
    "local_response_norm": lambda d: ([_image(d, 2), 2], {}),
    "cosine_similarity": lambda d: ([d.signal(4), d.tensor(4)], {}),
    "cdist": lambda d: ([d.signal(3, 4), d.tensor(2, 4)], {}),
}
"""What the table does not hold."""


@dataclass
class Call:
    """One call: what is called, with which arguments.

    Attributes:
        name: of row and spelling.
        op: as in a graph: ``call_function``, ``call_method`` or ``call_module``.
        target: what is called.
        args: with a `Signal` for each that may differ from step to step.
        kwargs: by name.
        module: of a ``call_module``.
    """

    name: str
    op: str
    target: Any
    args: list[Any]
    kwargs: dict[str, Any] = field(default_factory=dict)
    module: nn.Module | None = None

    @property
    def signals(self) -> list[Signal]:
        """Those among the arguments, each once."""
        found: dict[int, Signal] = {}
        _each(self.args, lambda leaf: found.setdefault(id(leaf), leaf) if isinstance(leaf, Signal) else None)
        return list(found.values())

    def __call__(self, values: list[Any], convert: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
        """The result for these values of the signals."""
        given = dict(zip(map(id, self.signals), values, strict=True))
        args = _each(self.args, lambda leaf: given[id(leaf)] if isinstance(leaf, Signal) else convert(leaf))
        if self.op == "call_method":
            return getattr(args[0], self.target)(*args[1:], **self.kwargs)
        return (self.module or self.target)(*args, **self.kwargs)

    def verdict(self, moving: list[Signal]) -> str | None:
        """Why the table takes the call for not linear in time when these signals change; None if it is linear."""
        graph = fx.Graph()
        nodes: dict[int, fx.Node] = {}

        def node(leaf: Any) -> Any:
            if isinstance(leaf, Signal | Tensor):
                return nodes.setdefault(id(leaf), graph.placeholder(f"value{len(nodes)}"))
            return leaf

        target = "layer" if self.op == "call_module" else self.target
        made = graph.create_node(self.op, target, tuple(_each(self.args, node)), dict(self.kwargs))
        result = self([signal.value for signal in self.signals])
        dtype = result.dtype if isinstance(result, Tensor) else None
        modules = {"layer": self.module} if self.module is not None else {}
        return change_of(made, modules, [nodes[id(signal)] for signal in moving], dtype).reason


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same lists, tuples and slices with every other value changed."""
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_each(item, change) for item in value)
    return change(value)


def rows() -> Iterator[tuple[str, str, Any, Rule | None]]:
    """Every row of the table in each of its spellings: name, kind of call, target, rule; None where there is none."""
    for name in TABLE:
        rule = RULES.get(name)
        for home in HOMES:
            function = getattr(home, name, None)
            if callable(function):
                yield f"{home.__name__}.{name}", "call_function", function, rule
        if callable(getattr(Tensor, name, None)):
            yield f"Tensor.{name}", "call_method", name, OWN_METHODS.get(name, rule)
    for target in OPERATORS:
        yield f"operator.{target.__name__}", "call_function", target, OF_OPERATORS.get(target)
    for name in ATTRIBUTES:
        yield f"attribute {name}", "call_function", getattr, _attribute(name)


def _attribute(name: str) -> Rule:
    complex_only = name == "imag"
    flat = name in ("T", "H")
    return lambda d: ([*(_complex(d)[0] if complex_only else [d.some(*((1, 1) if flat else (2, 2)))]), name], {})


def others() -> Iterator[tuple[str, str, Any, Rule]]:
    """What is not linear, in all spellings."""
    for name, rule in NOT_LINEAR.items():
        for home in (torch, F):
            if callable(getattr(home, name, None)):
                yield f"{home.__name__}.{name}", "call_function", getattr(home, name), rule
        if hasattr(Tensor, name):
            yield f"Tensor.{name}", "call_method", name, rule


def all_names() -> list[str]:
    """Of everything that is drawn."""
    of_modules = [f"nn.{cls.__name__}" for cls in (*LINEAR_MODULES, GlobalAveragePool)]
    return [row[0] for row in rows()] + of_modules + [f"not linear: {row[0]}" for row in others()]


def draw(name: str, seed: int) -> Call:
    """A call of this name.

    Raises:
        LookupError: the table has a row without a rule for drawing it.
    """
    d = Draw(seed)
    torch.manual_seed(seed)
    for cls in (*LINEAR_MODULES, GlobalAveragePool):
        if name == f"nn.{cls.__name__}":
            if cls not in OF_MODULES:
                raise LookupError(f"no rule draws {name}; write one into OF_MODULES")
            module, signal = OF_MODULES[cls](d)
            return Call(name, "call_module", "layer", [signal], {}, module.double().eval())
    for given, op, target, rule in itertools.chain(rows(), others()):
        if name.removeprefix("not linear: ") == given:
            if rule is None:
                raise LookupError(f"no rule draws {name}; write one into RULES")
            args, kwargs = rule(d)
            return Call(name, op, target, args, kwargs)
    raise LookupError(f"nothing is called {name}")


def _parts(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 6e-2, torch.float32: 1e-5, torch.complex64: 1e-5}


def _near(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    tolerance = _TOLERANCE.get(dtype, 1e-9)
    return (
        a.shape == b.shape
        and bool(torch.isfinite(b).all())
        and bool(((a - b).abs() <= tolerance * (1 + a.abs() + b.abs())).all())
    )


def is_linear(call: Call, moving: list[Signal], d: Draw) -> bool:
    """By values: ``f(a + b) = f(a) + f(b) - f(0)`` in the moving arguments; whole numbers must be constant."""

    def values(change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        return [change(signal.value) if signal in moving else signal.value for signal in call.signals]

    further = {}
    for signal in moving:
        parts = d.tensor(*signal.value.shape, 2)
        further[id(signal)] = torch.view_as_complex(parts) if signal.value.is_complex() else parts[..., 0].contiguous()
    second = [further.get(id(signal), signal.value) for signal in call.signals]
    both = [signal.value + further[id(signal)] if signal in moving else signal.value for signal in call.signals]
    found = [_parts(call(each)) for each in (values(lambda a: a), second, both, values(torch.zeros_like))]
    for a, b, c, zero in zip(*found, strict=True):
        if not (a.dtype.is_floating_point or a.dtype.is_complex):
            if not (torch.equal(a, b) and torch.equal(a, zero)):
                return False
            continue
        wide = torch.complex128 if a.dtype.is_complex else torch.float64
        if not _near(c.to(wide), a.to(wide) + b.to(wide) - zero.to(wide), a.dtype):
            return False
    return True


def is_separable(call: Call) -> bool:
    """Whether row i of the result is what the call gives for sample i alone, whatever the others are."""
    values = [signal.value for signal in call.signals]
    together = _parts(call(values))
    for sample in (0, SAMPLES - 1):
        try:
            alone = _parts(call([value[sample : sample + 1] for value in values]))
        except (RuntimeError, IndexError, ValueError):
            return False
        for whole, one in zip(together, alone, strict=False):
            if whole.dim() == 0 or one.dim() == 0 or whole.shape[0] != SAMPLES or one.shape[0] != 1:
                return False
            if len(together) != len(alone) or not _near(whole[sample : sample + 1] * 1.0, one * 1.0, whole.dtype):
                return False
    return True


def check_table(name: str, seed: int) -> int:
    """Compares what the table says of a call with what its values say; returns how many cases were compared.

    Raises:
        AssertionError: they differ.
    """
    call = draw(name, seed)
    try:
        call([signal.value for signal in call.signals])
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError, AttributeError):
        return 0  # not valid in this spelling
    d = Draw(seed + 1)
    signals = call.signals
    compared = 0
    for size in range(1, len(signals) + 1):
        for moving in itertools.combinations(signals, size):
            reason = call.verdict(list(moving))
            by_values = all(is_linear(call, list(moving), d) for _ in range(3))
            multiplied = call.kwargs.get("reduce") == "multiply"  # by a number: linear, and refused all the same
            if not multiplied and name not in ("not linear: torch.heaviside",):
                places = [signals.index(signal) for signal in moving]
                assert by_values == (reason is None), (
                    f"{name}, seed {seed}: with the signals {places} moving the table says "
                    f"{reason or 'linear'}, the values {'linear' if by_values else 'not linear'}"
                )
            compared += 1
    return compared


class Net(nn.Module):
    """The call behind neurons: signals that move are spikes, the others are the same at every step.

    Args:
        call: what stands behind the first neurons.
        moving: signals that spike.
        dtype: of weights and constants.
        end: ``answer`` of the call, ``signals`` in its place, or ``neurons`` behind it.
    """

    def __init__(self, call: Call, moving: list[Signal], dtype: torch.dtype, end: str) -> None:
        super().__init__()
        made = call([signal.value for signal in call.signals])
        self.several = 0 if isinstance(made, Tensor) else len(made)
        self.layer = None if call.module is None else copy.deepcopy(call.module).to(dtype)
        call = replace(call, module=self.layer)  # a module is traced where it is registered
        self.call, self.moving, self.end = call, [signal in moving for signal in call.signals], end
        sizes = [signal.value[0].numel() for signal in call.signals]
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.ParameterList(
            torch.randn(3, size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes
        )
        self.shapes = [signal.value.shape[1:] for signal in call.signals]
        self.dtype = dtype
        self.gain = nn.Parameter(torch.full((), 0.5, dtype=dtype))

    def signals(self, x: Tensor) -> list[Any]:
        """Values in place of the signals."""
        found = []
        for weight, shape, moving in zip(self.weights, self.shapes, self.moving, strict=True):
            drive = x @ weight
            drive = torch.relu(drive) if moving else drive
            found.append(drive.reshape(-1, *shape))
        return found

    def forward(self, x: Tensor) -> Any:
        """See `end`."""
        values = self.signals(x)
        if self.end == "signals":
            return tuple(values)
        made = self.result(values)
        return self.gain * torch.relu(made.flatten(1)) if self.end == "neurons" else made

    def result(self, values: list[Any]) -> Any:
        """Of the call; of several results the last."""

        def convert(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.dtype == torch.float64:
                return leaf.to(self.dtype)
            return leaf

        made = self.call(values, convert)
        if self.several:
            made = made[self.several - 1]
        return made


def check_network(name: str, seed: int) -> str:
    """Converts a network with the call and compares it with what the values of the call say; returns what was done.

    Raises:
        AssertionError: they differ.
    """
    call = draw(name, seed)
    d = Draw(seed + 1)
    signals = call.signals
    try:
        result = _parts(call([signal.value for signal in signals]))[-1]
    except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError, AttributeError):
        return "not valid"
    if any(signal.value.is_complex() for signal in signals) or not result.dtype.is_floating_point:
        return "no numbers"
    if name.rsplit(".", 1)[-1] in ("relu", "amax", "max_pool2d", "reciprocal"):
        return "neurons, pooling, or infinite"
    moving = [signal for signal in signals if d.coin()] or [signals[0]]
    reason, separable = call.verdict(moving), is_separable(call)
    where = f"{name}, seed {seed}, signals {[signals.index(signal) for signal in moving]} moving"
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    answer = Net(call, moving, torch.float64, "answer").eval()
    try:
        found = tp.inspect(answer, x)
    except tp.errors.InputError:
        assert not separable, f"{where}: does not run on another number of samples"
        return "refused"
    constant = not separable and call.verdict(moving) is None and result.shape[:1] != (SAMPLES,)
    if found.convertible:
        assert separable or constant, f"{where}: samples mix, and it converts"
    else:
        if any("NaN or infinity" in each.reason for each in found.unsupported):
            return "infinite"  # a division by a neuron that is silent
        assert not separable, f"{where}: refused: {found.unsupported}"
        return "refused"
    assert bool(found.plan.analogue) == (reason is not None), f"{where}: kept {found.plan.analogue}, but {reason}"
    _check_answer(call, moving, answer, x, where)
    if reason is not None and result.dim() > 1:
        followed = tp.inspect(Net(call, moving, torch.float64, "neurons").eval(), x)
        assert not followed.convertible or followed.plan.functions, f"{where}: no site in front of neurons"
    if reason is not None:
        return "kept behind the end"
    if result.dim() > 1 and result.dtype == torch.float64:
        _check_engine(Net(call, moving, torch.float32, "neurons").eval(), x.float(), where)
    return "converted"


def _check_answer(call: Call, moving: list[Signal], answer: Net, x: Tensor, where: str) -> None:
    """Row t is the call on the running means of its signals, which a conversion of their own gives."""
    conversion = tp.Conversion(tp.rules.Maximum())
    means = tp.convert(Net(call, moving, torch.float64, "signals").eval(), conversion, example_inputs=x, calibration=x)
    rows = tp.convert(answer, conversion, example_inputs=x, calibration=x)(x, steps=4)
    for step, row in enumerate(rows):
        expected = answer.result([mean[step] for mean in means(x, steps=4)])
        assert _near(row.double(), expected.expand(row.shape).double(), expected.dtype), (
            f"{where}: step {step + 1} differs"
        )


def _check_engine(network: Net, x: Tensor, where: str) -> None:
    """The compiled stages give what torch operators do; by rounding a spike may come a step earlier or later."""
    snn = tp.convert(network, tp.Conversion(tp.rules.Maximum()), example_inputs=x, calibration=x)
    with torch.no_grad():
        fast, dense = snn(x, steps=6), snn(x, steps=6, kernel=tp.kernels.KernelPreference.EAGER)
    differ = int(((fast - dense).abs() > 1e-4 * (1 + dense.abs())).sum())
    assert differ <= 0.02 * dense.numel(), (
        f"{where}: {differ} of {dense.numel()} answers differ between engine and torch"
    )


def outcome(number: int) -> tuple[str, str]:
    """Draws an operator by the number of a case and compares it with the table, and every other time in a network."""
    names = all_names()
    seed, place = divmod(number, len(names))
    try:
        check_table(names[place], seed)
        found = check_network(names[place], seed) if (number + seed) % 2 else "compared with the table"
    except Exception:
        return "wrong", f"{names[place]}, seed {seed}: {traceback.format_exc(limit=3)}"
    return found, names[place]


if __name__ == "__main__":
    sys.exit(run_cases("Operators with random arguments, against the table and in networks.", 1000, outcome))
