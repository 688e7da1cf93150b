"""What a file may ask for: no more memory and modules than its own tensors make plausible."""

from __future__ import annotations

import contextlib
import copy
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from transpike.errors import CheckpointError

_MOST_ACTIVATIONS = 2**28
"""Values that the layers of a small network may give for one sample."""
_ACTIVATIONS_PER_WEIGHT = 64
"""The same for each weight of a large one: FCN-ResNet50 on 1024x1024 pixels has 47, ResNet-50 on 512x512 seven."""
_MOST_INPUTS = 2**24
_UNKNOWN = 64
"""Values per input value of a model that cannot be counted."""
_SHAPES: Mapping[Callable[..., Any], bool] = {
    **dict.fromkeys((torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn), True),
    **dict.fromkeys((torch.full, torch.eye, torch.arange, torch.linspace), False),
}
"""Functions that make tensors, and whether all their positional arguments are sizes."""


class _TooLargeError(CheckpointError):
    """The network that a header describes is larger than the file."""


class _Sizes(TorchFunctionMode):
    """Adds up what constructors ask for, before they get it."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.asked = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _SHAPES:
            self.ask(_asked(func, args, kwargs))
        else:
            shapes = [value.shape for value in args if isinstance(value, Tensor)]
            if len(shapes) > 1:
                with contextlib.suppress(RuntimeError):  # not made for broadcasting
                    self.ask(math.prod(torch.broadcast_shapes(*shapes)), once=True)  # type: ignore[no-untyped-call]
        return func(*args, **kwargs)

    def ask(self, values: float, *, once: bool = False) -> None:
        """Counts values that are kept, or looks at those of one operation."""
        self.asked += 0 if once else int(min(values, 2**62))
        if max(self.asked, values) > self.limit:
            raise _TooLargeError(
                "the network that the header describes is larger than the tensors of the file",
                fix="make the file again, or pass the model that was saved",
            )


def _asked(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    numbers = [value for value in args if isinstance(value, int | float) and not isinstance(value, bool)]
    size = kwargs.get("size", args[0] if args else ())
    if func in (torch.arange, torch.linspace):
        numbers += [value for key in ("start", "end", "steps") if isinstance(value := kwargs.get(key), int | float)]
        return max(map(abs, numbers), default=0.0)
    if func is torch.eye:
        return math.prod(numbers) if len(numbers) > 1 else max(numbers, default=0) ** 2
    if isinstance(size, list | tuple):
        return math.prod(value for value in size if isinstance(value, int))
    return math.prod(numbers) if _SHAPES[func] else max(numbers, default=0)


@contextmanager
def limited_by(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Iterator[None]:
    """What is built inside takes at most a few times as many values and modules as a file has.

    Args:
        tensors: of the file.
        options: that the file gives to the builder.

    Raises:
        CheckpointError: an option is no plain value, or the network grows larger.
    """
    values = sum(tensor.numel() for tensor in tensors.values())
    largest = max([4096, *(4 * size for tensor in tensors.values() for size in tensor.shape)])
    for name, option in options.items():
        _check_option(name, option, largest)
    sizes = _Sizes(4 * values + 2**20)
    left, thread = 50 * len(tensors) + 2000, threading.get_ident()

    def count(*_: Any) -> None:
        nonlocal left
        left -= threading.get_ident() == thread
        if left < 0:
            sizes.ask(math.inf)

    hook = register_module_module_registration_hook(count)
    try:
        with sizes:
            yield
    finally:
        hook.remove()


def _check_option(name: str, option: Any, largest: int) -> None:
    if isinstance(option, list | tuple) and len(option) <= 100:
        for item in option:
            _check_option(name, item, largest)
    elif not (option is None or isinstance(option, bool | str)) and not (
        isinstance(option, int | float) and abs(option) <= largest
    ):
        raise _TooLargeError(
            f"the header gives the network the option {name} = {str(option)[:80]}, which does not fit its tensors",
            fix="make the file again, or pass the model that was saved",
        )


def check_input_shapes(model: nn.Module, shapes: Sequence[Sequence[int]]) -> None:
    """Checks that a run on inputs of these shapes is one that a network is converted with, without running it.

    Args:
        model: what will be run.
        shapes: of one sample of each input, as a file says.

    Raises:
        CheckpointError: the shapes are none, or the layers would give too many values.
    """
    where = f"input shapes {str([list(shape) for shape in shapes])[:80]}"
    if not shapes or len(shapes) > 100 or any(len(shape) > 10 or min(shape, default=1) < 1 for shape in shapes):
        raise _TooLargeError("the header's input shapes are none", where=where, fix="make the file again")
    asked = sum(math.prod(shape) for shape in shapes)
    counted = asked if asked > _MOST_INPUTS else _activations(model, shapes)
    weights = sum(parameter.numel() for parameter in model.parameters())
    most = max(_MOST_ACTIVATIONS, _ACTIVATIONS_PER_WEIGHT * weights)
    if asked > _MOST_INPUTS or counted > most:
        raise _TooLargeError(
            f"one sample would need {counted:,} values in the layers, more than {most:,}",
            where=where,
            fix="convert the network again on smaller samples",
        )


def _activations(model: nn.Module, shapes: Sequence[Sequence[int]]) -> int:
    """Values that the layers of a model give for one sample; tensors without memory go through a copy."""
    counted = 0

    def add(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal counted
        counted += output.numel() if isinstance(output, Tensor) else 0

    try:
        with torch.no_grad(), torch.device("meta"):
            hollow = copy.deepcopy(model).to("meta").eval()
            reference = next(hollow.parameters(), torch.empty(0))
            for module in hollow.modules():
                if not any(True for _ in module.children()):
                    module.register_forward_hook(add)
            hollow(*(torch.empty(1, *shape, dtype=reference.dtype) for shape in shapes))
    except Exception:  # a model that needs values, or does not take these shapes: the run itself will say it
        return _UNKNOWN * sum(math.prod(shape) for shape in shapes)
    return counted
