"""Runs a graph node by node and reports what happens at its sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from transpike.graph.normalize import modules_of
from transpike.graph.site import Site
from transpike.neurons import EventKind
from transpike.runtime.lower import SiteRunner

Observer = Callable[[str, Tensor, Tensor], None]
"""Called per site and chunk with its name, drive ``[S, N, *]`` and events ``[S, N, *]``."""

Count = Callable[[str, Tensor], None]
"""Called per site with its name and the spikes of each step, all samples together ``[S]``, whole numbers."""


class _Interpreter(fx.Interpreter):
    """An interpreter whose answer has the dicts and lists of the model, not fx's immutable ones."""

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The answer."""
        return mutable(super().output(target, args, kwargs))


def mutable(value: Any) -> Any:
    """The same structure with plain dicts, lists and tuples."""
    if isinstance(value, dict):
        return {key: mutable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mutable(item) for item in value]
    if isinstance(value, tuple):
        items = [mutable(item) for item in value]
        return type(value)(*items) if pytree.is_namedtuple_instance(value) else tuple(items)
    return value


class Observing(_Interpreter):
    """Runs a lowered body and reports every site."""

    def __init__(self, body: fx.GraphModule, observe: Observer) -> None:
        super().__init__(body)
        self.observe = observe
        self.runners = modules_of(body)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Runs one module; a site is reported."""
        result = super().call_module(target, args, kwargs)
        runner = self.runners[target]
        if isinstance(runner, SiteRunner):
            value, _, batch, steps, start = args
            events = result[0].unflatten(0, (-1, batch)) / runner.site.theta
            if runner.neuron.events is EventKind.COUNT:  # (k theta) / theta may miss k by a rounding, unless k is 1
                events = events.round()
            self.observe(runner.name, runner.drive(value, batch, steps, start), events)
        return result


class Clipped(_Interpreter):
    """Runs the ANN graph with ``clip(z, 0, most_events * theta)`` at every site."""

    def __init__(
        self, network: fx.GraphModule, observe: Callable[[str, Tensor], None] | None, most_events: int
    ) -> None:
        super().__init__(network)
        self.observe = observe
        self.most_events = most_events
        self.found = modules_of(network)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Runs one module; a site is clipped and reported."""
        site = self.found[target]
        if not isinstance(site, Site):
            return super().call_module(target, args, kwargs)
        value = site.clipped(args[0], self.most_events)
        if self.observe is not None:
            self.observe(str(target), value)
        return value
