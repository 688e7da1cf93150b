"""The table of operators that are linear in time: how the result of each depends on its arguments.

An operator is *linear in time* when applying it to every step and averaging is the same as averaging and applying it
once; biases and padding with constants are allowed, since the mean of a constant is that constant. A row says of which
arguments the result is a sum of products: ``addmm`` is ``input + mat1 * mat2``, so both matrices must not change from
step to step, but one may, and the input with it. What a row does not name, an index say, must not change at all.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Form:
    """The result of an operator as a sum of products of its arguments.

    Attributes:
        parameters: names of the arguments in order, as far as they matter; the last may be ``*`` and a name.
        terms: each a product of parameters; ``*`` and a name is the product of all tensors in it.
        shapes: parameters of which only shape and type are read.
    """

    parameters: tuple[str, ...]
    terms: tuple[tuple[str, ...], ...]
    shapes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, text: str) -> Form:
        """From ``"a, b, ~c -> a + a b"``, where only the shape of c is read; without an arrow, all are added."""
        head, arrow, tail = text.partition("->")
        names = [name.strip() for name in head.split(",")]
        parameters = tuple(name.lstrip("~") for name in names)
        shapes = frozenset(name.lstrip("~") for name in names if name.startswith("~"))
        added = tail if arrow else "+".join(name.lstrip("*") for name in names if not name.startswith("~"))
        terms = tuple(tuple(term.split()) for term in added.split("+") if term.strip())
        return cls(parameters, terms, shapes)

    def changes(self, node: fx.Node, moving: Collection[fx.Node]) -> Change:
        """What becomes of it when these of its arguments differ from step to step."""
        factors: dict[str, int] = {}
        for name, value in self._arguments(node):
            if any(each in moving for each in _nodes(value)):
                factors[name] = factors.get(name, 0) + 1
        summed = {name.lstrip("*") for term in self.terms for name in term}
        fixed = [name for name in factors if name not in summed | self.shapes]
        if fixed:
            return Change(reason=f"its argument {fixed[0]!r} changes from step to step")
        for term in self.terms:
            if sum(factors.get(name[1:], 0) if name[0] == "*" else int(name in factors) for name in term) > 1:
                return Change(reason="both factors change from step to step")
        return Change(still=not summed & set(factors))

    def vanishes(self, node: fx.Node, moving: Collection[fx.Node]) -> bool:
        """Whether the result is zero where these arguments are: no term is without one of them."""
        given: dict[str, list[Any]] = {}
        for name, value in self._arguments(node):
            given.setdefault(name, []).append(value)

        def zero(name: str) -> bool:
            values = given.get(name.lstrip("*"), [])
            moved = [isinstance(value, fx.Node) and value in moving for value in values]
            if name.startswith("*"):  # a product of all of them
                return any(moved)
            return all(
                move or value is None or (not isinstance(value, fx.Node) and value == 0)
                for move, value in zip(moved, values, strict=True)
            )

        return all(any(zero(name) for name in term) for term in self.terms)

    def _arguments(self, node: fx.Node) -> Iterator[tuple[str, Any]]:
        """Every argument with the name of its parameter, what lies in a list or behind ``*`` one by one."""
        names = [name.lstrip("*") for name in self.parameters]
        rest = names[-1] if self.parameters[-1].startswith("*") else ""
        for index, value in enumerate(node.args):
            name = names[index] if index < len(names) else rest or f"argument {index + 1}"
            yield from ((name, each) for each in (value if isinstance(value, list | tuple) else [value]))
        for name, value in node.kwargs.items():
            yield from ((name, each) for each in (value if isinstance(value, list | tuple) else [value]))

    @property
    def product(self) -> bool:
        """Whether arguments are multiplied."""
        return any(len(term) > 1 or term[0].startswith("*") for term in self.terms)


@dataclass(frozen=True)
class Change:
    """What becomes of an operator's result in time.

    Attributes:
        still: it is the same at every step.
        reason: why it is not linear in time, else None.
    """

    still: bool = False
    reason: str | None = None


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(value, found.append)
    return found


_IN_THE_FIRST = (
    # views and copies
    "view reshape flatten unflatten ravel permute transpose swapaxes swapdims movedim moveaxis t adjoint squeeze "
    "unsqueeze expand broadcast_to contiguous clone detach positive atleast_1d atleast_2d atleast_3d "
    # pieces and repetitions
    "narrow narrow_copy select chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind index_select "
    "gather take_along_dim diagonal diag_embed tril triu unfold repeat tile repeat_interleave flip "
    "fliplr flipud roll rot90 "
    # sums, signs and factors
    "mean sum cumsum neg negative deg2rad rad2deg div divide true_divide "
    # types; whether they round is seen from the result
    "to type float double half bfloat16 cfloat cdouble cpu "
    "conj conj_physical resolve_conj resolve_neg real imag view_as_real view_as_complex "
    # images
    "pad constant_pad_nd interpolate upsample upsample_nearest upsample_bilinear pixel_shuffle pixel_unshuffle "
    "channel_shuffle native_channel_shuffle fold grid_sample avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    # drawn in training only
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout "
    # spectra
    "fft fft2 fftn ifft ifft2 ifftn rfft rfft2 rfftn irfft irfft2 irfftn hfft ihfft fftshift ifftshift"
)

TABLE: Mapping[str, str] = {
    **dict.fromkeys(_IN_THE_FIRST.split(), "input"),
    **dict.fromkeys(["add", "sub", "subtract", "rsub"], "input, other"),
    **dict.fromkeys(["mul", "multiply", "matmul", "inner", "kron", "dot", "vdot"], "input, other -> input other"),
    **dict.fromkeys(["cross", "vecdot", "tensordot"], "input, other -> input other"),
    **dict.fromkeys(["mm", "bmm"], "input, mat2 -> input mat2"),
    **dict.fromkeys(["mv"], "input, vec -> input vec"),
    **dict.fromkeys(["outer", "ger"], "input, vec2 -> input vec2"),
    **dict.fromkeys(["cat", "concat", "concatenate", "stack"], "tensors"),
    **dict.fromkeys(["hstack", "vstack", "row_stack", "dstack", "column_stack"], "tensors"),
    "broadcast_tensors": "*tensors",
    "multi_dot": "tensors -> *tensors",
    "chain_matmul": "*matrices -> *matrices",
    "einsum": "equation, *operands -> *operands",
    "addmm": "input, mat1, mat2 -> input + mat1 mat2",
    "addmv": "input, mat, vec -> input + mat vec",
    "baddbmm": "input, batch1, batch2 -> input + batch1 batch2",
    "addr": "input, vec1, vec2 -> input + vec1 vec2",
    "addcmul": "input, tensor1, tensor2 -> input + tensor1 tensor2",
    "addcdiv": "input, tensor1, tensor2 -> input + tensor1",
    "lerp": "input, end, weight -> input + input weight + end weight",
    "linear": "input, weight, bias -> input weight + bias",
    "bilinear": "input1, input2, weight, bias -> input1 input2 weight + bias",
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], "input, weight, bias -> input weight + bias"),
    **dict.fromkeys(
        ["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], "input, weight, bias -> input weight + bias"
    ),
    "affine_grid": "theta",
    "diff": "input, n, dim, prepend, append -> input + prepend + append",
    "masked_fill": "input, mask, value -> input + value",
    "index_fill": "input, dim, index, value -> input + value",
    **dict.fromkeys(["index_add", "index_copy"], "input, dim, index, source -> input + source"),
    **dict.fromkeys(["scatter", "scatter_add"], "input, dim, index, src -> input + src"),
    **dict.fromkeys(["select_scatter", "slice_scatter", "diagonal_scatter"], "input, src"),
    "index_put": "input, indices, values -> input + values",
    "where": "condition, input, other -> input + other",
    # only shape and type of an argument
    **dict.fromkeys(["expand_as", "view_as", "reshape_as", "type_as", "to"], "input, ~other"),
    **dict.fromkeys(["zeros_like", "ones_like", "full_like"], "~input"),
    **dict.fromkeys(["new_zeros", "new_ones", "new_full", "new_tensor"], "~input"),
    "fill": "~input, value",
}
"""The rows, by the name of the operator in PyTorch."""

_OWN_METHODS: Mapping[str, str] = {"where": "input, condition, other -> input + other"}
"""Methods whose arguments stand in another order than those of the function."""

HOMES = (torch, F, torch.linalg, torch.fft)
"""Where functions are."""

OPERATORS: Mapping[Any, str] = {
    **dict.fromkeys([operator.add, operator.sub], "input, other"),
    **dict.fromkeys([operator.mul, operator.matmul], "input, other -> input other"),
    **dict.fromkeys([operator.truediv, operator.neg, operator.pos, operator.getitem], "input"),
}

ATTRIBUTES = frozenset(["T", "mT", "H", "mH", "real", "imag", "data"])
"""Attributes of a tensor that are linear in it."""


def _by_target() -> dict[Any, Form]:
    found = {target: Form.of(text) for target, text in OPERATORS.items()}
    for name, text in TABLE.items():
        functions = (getattr(home, name, None) for home in HOMES)
        found.update({function: Form.of(text) for function in functions if callable(function)})
        if callable(getattr(Tensor, name, None)):
            found[name] = Form.of(_OWN_METHODS.get(name, text))
    return found


FORMS: Mapping[Any, Form] = _by_target()
"""The table: forms by function, or by the name of a method."""

INPUT = Form.of("input")
"""Linear in the first argument."""

BILINEAR = Form.of("input1, input2 -> input1 input2")

LINEAR_MODULES: tuple[type[nn.Module], ...] = (
    nn.modules.conv._ConvNd,
    nn.Linear,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.dropout._DropoutNd,
    nn.modules.padding._ConstantPadNd,
    nn.modules.padding._ReflectionPadNd,
    nn.modules.padding._ReplicationPadNd,
    nn.modules.padding._CircularPadNd,
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Fold,
    nn.Unfold,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.ChannelShuffle,
)
"""Modules that are linear in their first argument."""


def form_of(node: fx.Node) -> Form | None:
    """The row of a function, method or attribute; None for what is not linear in time with these arguments."""
    if node.target is getattr:
        return INPUT if node.args[1] in ATTRIBUTES else None
    if any(node.kwargs.get(name) is not None for name in ("rounding_mode", "out")):
        return None  # rounds, or writes into another tensor
    if node.kwargs.get("reduce") not in (None, "add"):
        return None  # a scatter that multiplies
    if node.target == "view" and any(isinstance(value, torch.dtype) for value in _values(node)):
        return None  # the same bits as other numbers
    return FORMS.get(node.target)


def _values(node: fx.Node) -> Iterable[Any]:
    return (*node.args, *node.kwargs.values())
