"""Tracing of changes in place: ``x.add_(y)`` becomes ``x = x.add(y)``, also for what ``x`` is an item of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from transpike.graph.node_target import is_method
from transpike.graph.setitem import scattered
from transpike.graph.traced_values import Traced, TracedTensor, UnfollowedError


class ChangesInPlace:
    """The part of a tracer that follows changes in place; tensors that share the memory become unusable."""

    _known: dict[int, tuple[Tensor, Traced]]
    _alive: Iterable[TracedTensor]
    _buffers: set[int]

    def mode(self) -> TorchFunctionMode:
        """Hands every call of torch to the tracer, where it is entered."""
        raise NotImplementedError

    def _call(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Records and runs one call."""
        raise NotImplementedError

    def create_arg(self, a: Any) -> Any:
        """What stands in the graph for a value."""
        raise NotImplementedError

    def _in_place(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """``x.add_(y)`` as ``x = x.add(y)``."""
        target = args[0]
        if name == "requires_grad_":
            return target
        plain = name[3:-2] if name.startswith("__") else name[:-1]
        value = 0 if plain == "zero" else next(iter([*args[1:], *kwargs.values()]), None)
        if plain in ("zero", "fill", "copy") and isinstance(value, Tensor):
            result = self._call(Tensor.expand_as, (value, self._adopted(target)), {})
            if result.dtype != target.dtype:
                result = self._call(Tensor.to, (result, target.dtype), {})
        elif plain in ("zero", "fill"):
            result = self._call(torch.full_like, (self._adopted(target), value), {})
        else:
            home = Tensor if is_method(function) else torch
            functional = getattr(home, plain, None) or getattr(Tensor, f"__{plain}__", None)
            if home is torch:
                functional = getattr(F, plain, None) or functional
            if functional is None:
                raise UnfollowedError(f"{name} changes a tensor in place")
            result = self._call(functional, (self._adopted(target), *args[1:]), kwargs)
        return self._rebind(target, result)

    def _rebind(self, target: Any, result: Any, spared: tuple[Any, ...] = ()) -> Any:
        """After a change in place: the same object stands for the result, and so does what it is an item of."""
        traced = self._adopted_traced(target)
        whole, index = traced.item_of or (None, None)
        if whole is not None and not _share_memory(target, whole):
            whole = None
        base = whole
        while base is not None:
            spared = (*spared, base)
            base = (self._adopted_traced(base).item_of or (None,))[0]
        self._mark_stale(traced, (target, *spared))
        old, new = traced.values, result.traced.values
        if new[0].shape == old[0].shape and new[0].dtype == old[0].dtype:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                old[0].copy_(new[0])
                if traced.batched:
                    old[1].copy_(new[1])
        traced.values = old if traced.batched or not result.traced.batched else (old[0], new[1])
        traced.node = result.traced.node
        traced.sources |= result.traced.sources
        if whole is not None:
            with self.mode():
                changed = scattered(self._adopted(whole), index, target)
            if changed is None:
                raise UnfollowedError("an item of a tensor is changed in place, with an index that is not followed")
            self._rebind(whole, changed, (target, *spared))
        return target

    def _set_item(self, target: Any, index: Any, value: Any) -> None:
        """``x[index] = value`` as ``x = scatter(x, value)``."""
        adopted = self._adopted(target)
        with self.mode():
            result = scattered(adopted, index, value)
        if result is None:
            raise UnfollowedError("an item assignment with this index is not followed")
        self._rebind(target, result)

    def _mark_stale(self, changed: Traced, spared: tuple[Any, ...]) -> None:
        """Marks the other tensors of which a change in place alters values."""
        memory = changed.values[0].untyped_storage().data_ptr()
        mine: Tensor | None = None
        for other in list(self._alive):
            value = other.traced.values[0]
            if other.traced is changed or any(other is each for each in spared):
                continue
            if value.untyped_storage().data_ptr() == memory:
                mine = _elements(changed.values[0]) if mine is None else mine
                other.traced.stale |= bool(torch.isin(_elements(value), mine).any())

    def _usable(self, traced: Traced) -> Traced:
        if traced.stale:
            raise UnfollowedError("a tensor is read that was changed in place through another one")
        return traced

    def _adopted(self, tensor: Any) -> Any:
        """A tensor as a traced one; a constant that is changed in place becomes one."""
        self._adopted_traced(tensor)
        return tensor

    def _adopted_traced(self, tensor: Any) -> Traced:
        if isinstance(tensor, TracedTensor):
            return self._usable(tensor.traced)
        if id(tensor) in self._buffers or isinstance(tensor, nn.Parameter):
            raise UnfollowedError("a parameter or buffer of the model changes while it runs")
        if id(tensor) not in self._known:
            constant = tensor.detach().clone()
            node = self.create_arg(constant)
            self._known[id(tensor)] = (tensor, Traced(node, (tensor, tensor)))
        return self._usable(self._known[id(tensor)][1])


def _share_memory(first: Tensor, second: Tensor) -> bool:
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def _elements(tensor: Tensor) -> Tensor:
    """Where in its storage the elements of a tensor lie."""
    with torch._C.DisableTorchFunction():
        size = tensor.untyped_storage().nbytes() // max(tensor.element_size(), 1)
        places = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return places.flatten()
