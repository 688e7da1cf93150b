"""What a model computes with while its values are traced: tensors and numbers that know where they come from.

Everything is computed for two batches of different size. What differs between them in size depends on the batch size
and stays a node of the graph; every other size is a plain number.
"""

from __future__ import annotations

import builtins
import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, SupportsIndex

import torch
from torch import Tensor, fx, nn

BATCHES = (2, 5)
"""Samples in the two batches: ``N // 2`` and ``min(N, 4)`` differ, too. Tensors and numbers show the first."""

_SAMPLES = (1, 2, 3, 5, 7, 8, 64, 1009)
"""Batch sizes for which a decision must go the same way."""


class BatchSizeDecisionError(Exception):
    """The model's code decides on the number of samples."""


class RefusedError(Exception):
    """The code decides on data or on the batch size; no other way of capturing helps."""


class UnfollowedError(Exception):
    """The code does something that this tracer does not follow."""


@dataclass(eq=False)
class Traced:
    """What is known of a tensor.

    Attributes:
        node: what computes it.
        values: its values for the two batches; the same tensor twice where it does not depend on the batch.
        sources: the inputs that it depends on, by index.
        item_of: the tensor that it is an item of, and with which index.
        stale: it was changed through another tensor that shares its memory, and ``node`` does not know.
    """

    node: fx.Node
    values: tuple[Tensor, Tensor]
    sources: frozenset[int] = frozenset()
    item_of: tuple[Tensor, Any] | None = None
    stale: bool = False

    @property
    def batched(self) -> bool:
        """Whether it depends on the batch."""
        return self.values[0] is not self.values[1]


class TracedTensor(Tensor):
    """A tensor of the first batch, with its node."""

    traced: Traced

    __torch_function__: Any = torch._C._disabled_torch_function_impl  # the mode of the tracer handles every call

    @classmethod
    def of(cls, traced: Traced) -> TracedTensor:
        """A tensor that shares the memory of its first value."""
        made: TracedTensor = traced.values[0].as_subclass(cls)
        made.traced = traced
        return made


class Recorder(Protocol):
    """What numbers need of the tracer."""

    def record(self, function: Any, arguments: tuple[Any, ...]) -> fx.Node:
        """A new node that calls a function."""

    def guard(self, traced: Traced, dimension: int) -> None:
        """Notes that the graph holds a size of a tensor as a plain number."""


class _Number:
    """A number that depends on the batch size, as a function of it."""

    recorder: Recorder
    of: Callable[[int], Any]
    _make: Callable[[], fx.Node]
    _node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:
        """What computes it; made where it is needed first."""
        if self._node is None:
            self._node = self._make()
        return self._node

    def _compute(self, function: Callable[..., Any], *operands: Any) -> Any:
        if not all(isinstance(each, int | float) for each in operands):
            return NotImplemented
        return number(
            self.recorder,
            lambda samples: _evaluated(function, operands, samples),
            lambda: self.recorder.record(function, operands),
        )

    def _decide(self, function: Callable[..., Any], *operands: Any) -> Any:
        if not all(isinstance(each, int | float) for each in operands):
            return NotImplemented
        answers = {_evaluated(function, operands, samples) for samples in _SAMPLES}
        if len(answers) > 1 or None in answers:
            raise BatchSizeDecisionError("a decision depends on the number of samples in the batch")
        return bool(answers.pop())

    def __bool__(self) -> bool:
        return bool(self._decide(operator.truth, self))

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, _: Any) -> Any:
        return self

    def __hash__(self) -> int:
        return hash(_at(self, BATCHES[0]))


class TracedInt(_Number, int):
    """A whole number that depends on the batch size."""


class TracedFloat(_Number, float):
    """A fraction that depends on the batch size."""


def _calculation(function: Callable[..., Any], *, swapped: bool = False) -> Any:
    def method(self: _Number, *others: Any) -> Any:
        return self._compute(function, *((*others, self) if swapped else (self, *others)))

    return method


def _comparison(function: Callable[..., Any]) -> Any:
    def method(self: _Number, other: Any) -> Any:
        return self._decide(function, self, other)

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(_Number, f"__{_name}__", _calculation(getattr(operator, _name)))
    setattr(_Number, f"__r{_name}__", _calculation(getattr(operator, _name), swapped=True))
for _name in ("neg", "pos", "abs"):
    setattr(_Number, f"__{_name}__", _calculation(getattr(operator, _name)))
for _name in ("floor", "ceil", "trunc"):
    setattr(_Number, f"__{_name}__", _calculation(getattr(math, _name)))
_Number.__round__ = _calculation(round)  # type: ignore[attr-defined]
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(_Number, f"__{_name}__", _comparison(getattr(operator, _name)))


def _at(value: Any, samples: int) -> Any:
    return value.of(samples) if isinstance(value, _Number) else value


def _evaluated(function: Callable[..., Any], operands: tuple[Any, ...], samples: int) -> Any:
    """The result for a batch size; None where it is not known."""
    values = [_at(each, samples) for each in operands]
    try:
        return None if None in values else function(*values)
    except (ArithmeticError, ValueError):
        return None


def number(recorder: Recorder, of: Callable[[int], Any], make: Callable[[], fx.Node]) -> Any:
    """A number as a function of the batch size; a plain one where that does not matter.

    Args:
        recorder: the tracer.
        of: its value for a batch size.
        make: makes the node that computes it.
    """
    value = of(BATCHES[0])
    if all(of(samples) == value for samples in _SAMPLES):
        return value
    made: Any = (TracedFloat if isinstance(value, float) else TracedInt)(value)
    made.recorder, made.of, made._make = recorder, of, make
    return made


def at_batch(value: Any, which: int) -> Any:
    """A traced tensor or number for the first or second batch; other values as they are."""
    if isinstance(value, TracedTensor):
        return value.traced.values[which]
    return _at(value, BATCHES[which])


class TracedShape(tuple[Any, ...]):
    """A shape whose sizes are numbers of the graph where they depend on the batch size.

    Sizes that are read as plain numbers are reported, for guards.
    """

    recorder: Recorder
    traced: Traced | None

    @classmethod
    def of(cls, recorder: Recorder, traced: Traced) -> TracedShape:
        """The shape of a tensor."""
        first, second = (tuple(value.shape) for value in traced.values)
        shape: list[fx.Node] = []
        tensor = traced.node  # a later change in place keeps the shape

        def entry(dimension: int) -> fx.Node:
            if not shape:
                shape.append(recorder.record(getattr, (tensor, "shape")))
            return recorder.record(operator.getitem, (shape[0], dimension))

        made = cls(
            size
            if size == other
            else number(recorder, _line(size, other), lambda dimension=dimension: entry(dimension))  # type: ignore[misc]
            for dimension, (size, other) in enumerate(zip(first, second, strict=True))
        )
        made.recorder, made.traced = recorder, traced
        return made

    def _read(self, *dimensions: int) -> None:
        if self.traced is None:
            return
        for dimension in dimensions or range(tuple.__len__(self)):
            if not isinstance(tuple.__getitem__(self, dimension), _Number):
                self.recorder.guard(self.traced, dimension)

    def entries(self) -> tuple[Any, ...]:
        """All sizes."""
        self._read()
        return tuple(tuple.__iter__(self))

    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        if not isinstance(index, slice):
            place = index.__index__()
            self._read(place if place >= 0 else place + tuple.__len__(self))
            return tuple.__getitem__(self, index)
        self._read(*range(tuple.__len__(self))[index])
        piece = TracedShape(tuple.__getitem__(self, index))
        piece.recorder, piece.traced = self.recorder, None
        return piece

    def __iter__(self) -> Iterator[Any]:
        return iter(self.entries())

    def __add__(self, other: Any) -> Any:
        return (*self.entries(), *other)

    def __radd__(self, other: Any) -> Any:
        return (*other, *self.entries())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple | list) or len(other) != tuple.__len__(self):
            return False
        return all(mine == its for mine, its in zip(self.entries(), tuple(other), strict=True))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.entries())

    def numel(self) -> int:
        """The product of the sizes."""
        return math.prod(self.entries())


def _line(first: int, second: int) -> Callable[[int], Any]:
    """A size as a function of the batch size: the straight line through what the two batches have."""
    slope, rest = divmod(second - first, BATCHES[1] - BATCHES[0])
    if rest:
        return {BATCHES[0]: first, BATCHES[1]: second}.get  # of other batches it is not known, so no decision on it
    return lambda samples: first + slope * (samples - BATCHES[0])


class _LikeInt(type):
    """Lets ``isinstance(x, int)`` mean what it says while ``int`` is replaced."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, builtins.int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, builtins.int)


class TracingInt(metaclass=_LikeInt):
    """``int`` for the user's code, since Python's own makes plain numbers: ``int(windows.shape[0] / count)``."""

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        """A whole number, traced if its argument is."""
        if len(arguments) == 1 and isinstance(arguments[0], _Number) and not keywords:
            whole: Any = arguments[0]
            return whole if isinstance(whole, int) else math.trunc(whole)
        return builtins.int(*arguments, **keywords)


@contextmanager
def traced_int(root: nn.Module) -> Iterator[None]:
    """``int`` in the modules of the user's code keeps a number traced."""
    homes = {cls.__module__ for module in root.modules() for cls in type(module).__mro__}
    spaces = [vars(sys.modules[home]) for home in homes if home in sys.modules and home.split(".")[0] != "torch"]
    spaces = [space for space in spaces if space.get("__name__") != "builtins" and "int" not in space]
    for space in spaces:
        space["int"] = TracingInt
    try:
        yield
    finally:
        for space in spaces:
            del space["int"]
