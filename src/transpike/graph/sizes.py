"""Which sizes and constants hold the batch: they are computed with a symbol in place of the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import SymBool, SymFloat, SymInt, Tensor, fx
from torch.utils import _pytree as pytree

_HINT = 1_000_003
"""Where torch must decide a comparison with the symbol, it takes this number, which no size equals."""

_DIVISIONS = ("IntTrueDiv", "FloatTrueDiv")
"""Torch's own symbols for ``/``, which cancel nothing."""

Grows = bool | None | tuple[Any, ...]
"""Whether a number is a multiple of the batch size; None if it depends on it otherwise; for a shape, entry by entry."""


_UNKNOWN = object()
"""Stands for a value that depends on the batch size in a way that was not followed."""


class _Symbol:
    """A number of samples without a value. Tensors that have it in their shape have no values either."""

    def __init__(self) -> None:
        # half a second of imports, which networks that read no size need not pay
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

        self.mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
        context: Any = StatelessSymbolicContext([DimDynamic.DYNAMIC])
        samples = torch.empty(_HINT, device="meta")
        self.size: Any = self.mode.from_tensor(samples, symbolic_context=context).shape[0]

    def batch(self, example: Tensor, layout: tuple[int, int]) -> Tensor:
        """A batch ``[symbol, *]`` of samples like those of ``example``, ``[N, *]``, or of another layout."""
        dim, rows = layout
        shape = [*example.shape[:dim], self.size * rows if rows > 1 else self.size, *example.shape[dim + 1 :]]
        with self.mode:
            return torch.empty(shape, dtype=example.dtype, device=example.device)

    def grows(self, value: Any) -> Grows:
        """What `SymbolicSizes.grows` says of a value."""
        if value is _UNKNOWN or isinstance(value, SymBool):
            return None
        if isinstance(value, Tensor):
            return self.grows(value.shape)
        if isinstance(value, slice):
            return self.grows((value.start, value.stop, value.step))
        if isinstance(value, tuple | list):
            return tuple(self.grows(entry) for entry in value)
        if not isinstance(value, SymInt | SymFloat):
            return False
        symbol = self.size.node.expr
        plain = value.node.expr.replace(
            lambda part: type(part).__name__ in _DIVISIONS, lambda part: part.args[0] / part.args[1]
        )
        if symbol not in plain.free_symbols:
            return False
        return True if (plain / symbol).is_number else None


class SymbolicSizes:
    """Sizes and constants of a graph, computed with a symbol for the number of samples.

    Args:
        gm: the graph.
        examples: the value of every node for some batch, of which sizes within a sample are taken.
        batched: where a node's value holds the batch, and its rows per sample; None if it is no batch. That its
            samples do not mix is checked elsewhere.
    """

    def __init__(
        self,
        gm: fx.GraphModule,
        examples: Mapping[fx.Node, Any],
        batched: Callable[[fx.Node], tuple[int, int] | None],
    ) -> None:
        self._interpreter = fx.Interpreter(gm)
        self._examples = examples
        self._batched = batched
        self._values: dict[fx.Node, Any] = {}

    @cached_property
    def _symbol(self) -> _Symbol:
        return _Symbol()

    def grows(self, node: fx.Node) -> Grows:
        """Whether a number grows with the batch size, or which entries of a shape or of a tensor's shape do."""
        return self._symbol.grows(self._value(node))

    def _value(self, node: fx.Node) -> Any:
        if node not in self._values:
            self._values[node] = self._compute(node)
        return self._values[node]

    def _compute(self, node: fx.Node) -> Any:
        layout = self._batched(node)
        if layout is not None:
            return pytree.tree_map_only(Tensor, lambda each: self._symbol.batch(each, layout), self._examples[node])
        if node.op == "placeholder":
            return node.args[0] if node.args else None
        args, kwargs = fx.map_arg((node.args, node.kwargs), self._value)
        try:
            with self._symbol.mode, torch.no_grad():
                return getattr(self._interpreter, node.op)(node.target, args, kwargs)
        except Exception:  # an operator of the user's may need values
            sources = [self._symbol.grows(self._values[source]) for source in node.all_input_nodes]
            return (
                self._examples[node]
                if not any(contains(own, True) or contains(own, None) for own in sources)
                else _UNKNOWN
            )


def contains(grows: Grows, wanted: bool | None) -> bool:
    """Whether a number, or any entry of a shape, is as wanted."""
    if isinstance(grows, tuple):
        return any(contains(entry, wanted) for entry in grows)
    return grows is wanted


def at_steps(size: Any, grows: Grows, steps: int) -> Any:
    """A size of the ANN as that of a folded sequence: multiples of the batch size grow by the number of steps.

    Args:
        size: a number, a shape or a slice.
        grows: which of them are multiples.
        steps: of the sequence.
    """
    if isinstance(grows, tuple):
        entries = (size.start, size.stop, size.step) if isinstance(size, slice) else size
        new = tuple(at_steps(entry, own, steps) for entry, own in zip(entries, grows, strict=True))
        return slice(*new) if isinstance(size, slice) else new
    return size * steps if grows else size
