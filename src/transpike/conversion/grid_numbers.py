"""Computes the numbers of a quantised network: units and grids of every value, and whole numbers of every layer.

Everything is computed in float64 and rounded once. A *unit* is what the number 1 means in the source network: at
neurons their threshold, elsewhere 1. Units, grid steps and bounds of values are tensors of the values' shapes, which go
through the operators that only put values elsewhere as values do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike.conversion.grid_values import Value, along, constant, same_in_space, smallest
from transpike.errors import RangeError
from transpike.graph.capture import source_of
from transpike.graph.grid import ChannelScale, InputGrid, PoolSum
from transpike.graph.grid_pass import GridGraph
from transpike.graph.site import Site
from transpike.neurons import Neuron
from transpike.rules.quantisation import EXACT, Quantisation, smallest_event, threshold_on_grid
from transpike.schedules import Schedule


class GridNumbers:
    """Sets the numbers of one graph.

    Args:
        graph: the graph with the operators of `transpike.graph.grid_pass`.
        settings: how fine the grids are.
        schedule: how the network runs.
        neuron: the neuron model.
        largest: magnitude of each of the model's arguments.
    """

    def __init__(
        self, graph: GridGraph, settings: Quantisation, schedule: Schedule, neuron: Neuron, largest: Sequence[float]
    ) -> None:
        self.graph, self.settings = graph, settings
        self.theta = threshold_on_grid(schedule)
        self.event = smallest_event(schedule)
        self.most = self.theta if schedule.incremental else float(neuron.most_events)
        self.steps = 1 if schedule.incremental else settings.steps
        self.largest = list(largest)
        self.values: dict[fx.Node, Value] = {}
        self.groups: dict[fx.Node, list[fx.Node]] = {}

    def set(self) -> None:
        """Sets every number.

        Raises:
            RangeError: sums would be inexact; names the site.
        """
        order = [node for node in self.graph.gm.graph.nodes if self.graph.on_the_way(node)]
        roots = {node: self.graph.root(node) for node in order}
        for node in order:
            root = roots[node]
            if root is not None:
                self.groups.setdefault(root, []).append(node)
            if root is None:
                self.values[node] = self._value(node)
            elif root is node:
                _Group(self, root).set()

    def _value(self, node: fx.Node) -> Value:
        """Of everything but sums."""
        module = self.graph.module(node)
        if node.op == "placeholder":
            bound = torch.full(self.graph.shape(node), self.largest[len(self.values_of_inputs())], dtype=torch.float64)
            return Value(torch.ones_like(bound), torch.zeros_like(bound), bound)
        (source,) = node.all_input_nodes[:1]
        if isinstance(module, InputGrid):
            return self._input(module, self.values[source])
        if isinstance(module, Site):
            shape = self.graph.shape(node)
            unit = module.unit if module.unit is not None else torch.ones(())
            full = torch.ones(shape, dtype=torch.float64)
            return Value(full * unit.double(), full * self.event, full * self.most)
        if isinstance(module, PoolSum):
            found, ratio = self.values[source], module.divisor / module.area
            step = found.step / ratio
            module.step.fill_(smallest(step) * module.divisor)
            return Value(found.unit * ratio, step, found.bound / ratio)
        return self.apply(node)

    def values_of_inputs(self) -> list[Value]:
        """Of the placeholders that were seen."""
        return [value for node, value in self.values.items() if node.op == "placeholder"]

    def _input(self, module: InputGrid, found: Value) -> Value:
        """The finest grid on which the largest input has so many bits."""
        largest, most = float(found.bound.max()), 2**self.settings.input_bits - 1
        step = 2.0 ** -math.floor(math.log2(most / largest)) if largest > 0 else 1.0
        limit = round(largest / step) * step
        module.step.fill_(step)
        module.limit.fill_(limit / step)
        full = torch.ones_like(found.bound)
        return Value(full, full * step, full * limit)

    def apply(self, node: fx.Node) -> Value:
        """An operator that puts values elsewhere, pools, or adds up, on units, steps and bounds."""
        area = self.graph.area(node)
        pooled = area or self.graph.is_max_pool(node)
        unit = self._run(node, "unit")
        step, bound = self._run(node, "step"), self._run(node, "bound")
        if pooled:
            source = self.values[node.all_input_nodes[0]]
            if not all(same_in_space(part) for part in (source.unit, source.step)):
                raise RangeError(
                    "values of different units are pooled together",
                    where=f"{node.name} at {source_of(node)}",
                    fix="give the neurons in front of the pooling one threshold per channel, or do not quantise",
                )
            unit, step = constant(source.unit, unit), constant(source.step, step) / max(1, area)
            bound = source.bound.max() * torch.ones_like(bound) if self.graph.is_max_pool(node) else bound
        elif self.graph.is_sum(node):
            parts = [self.values[source] for source in node.all_input_nodes]
            unit = torch.stack([part.unit for part in parts]).amax(0)
            steps = torch.stack([part.step for part in parts])
            step = torch.where(steps > 0, steps, torch.inf).amin(0)
            step = torch.where(torch.isinf(step), 0.0, step)
            bound = sum(self.values[source].bound for source in node.args if isinstance(source, fx.Node))
        return Value(unit, step, bound)

    def _run(self, node: fx.Node, part: str) -> Any:
        def argument(source: fx.Node) -> Any:
            return getattr(self.values[source], part) if source in self.values else self.graph.examples[source]

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        if self.graph.is_sum(node):
            return args[0]
        if node.op == "call_module":
            return self.graph.modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target)
        return node.target(*args, **kwargs)


@dataclass(eq=False)
class _Layer:
    """One layer of a group, in float64, in the group's unit.

    Attributes:
        module: the layer.
        node: its call.
        exact: what it multiplies by, before rounding.
        bias: what it adds, else None.
        most: largest whole number of a weight.
        arriving: the step of what it multiplies.
        most_arriving: the largest magnitude of what it multiplies.
        weight: the rounded weight.
        step: of what comes out of it, per output channel.
        area: over how many values its result is averaged inside of the group.
    """

    module: Any
    node: fx.Node
    exact: Tensor
    bias: Tensor | None
    most: int
    arriving: float
    most_arriving: float
    weight: Tensor
    step: Tensor
    area: int = 1

    @property
    def rounding(self) -> Tensor:
        """About what one step of all weights of an output channel makes of its sum, if they are rounded at random."""
        inputs = self.exact[0].numel() if self.exact.dim() > 1 else 1
        return self.most_arriving * self.step / self.arriving / self.area * math.sqrt(inputs)

    def per_output(self, values: Tensor) -> Tensor:
        """One number per output channel, to multiply the weight with."""
        return values.reshape(-1, *[1] * (self.weight.dim() - 1))


class _Group:
    """A sum and the layers that it adds up."""

    def __init__(self, numbers: GridNumbers, root: fx.Node) -> None:
        self.numbers, self.graph, self.root = numbers, numbers.graph, root
        self.nodes = numbers.groups[root]
        self.site = self.graph.target(root)
        last = any(isinstance(self.graph.module(node), nn.Linear) for node in self.nodes)
        self.axis = -1 if last and len(self.graph.shape(root)) > 2 else 1
        self.unit = self._unit()

    def _unit(self) -> Tensor:
        """Of the sum, per channel ``[C]``, or a scalar."""
        if self.site is None:
            return torch.ones((), dtype=torch.float64)
        unit = self.site.theta.detach().double() / self.numbers.theta
        if self.axis == -1 and unit.numel() > 1:
            raise RangeError(
                "its thresholds differ from row to row, which its linear layer has one set of weights for",
                where=f"site in front of {self.root.name} at {source_of(self.root)}",
                fix="convert with one threshold per layer (PerLayer()), or do not quantise",
            )
        return unit.reshape(-1) if unit.dim() else unit

    def set(self) -> None:
        """Sets the numbers of its layers and of the neurons that it drives."""
        layers = [self._layer(node) for node in self.nodes if self.graph.is_layer(node)]
        widened = torch.zeros((), dtype=torch.float64)
        alone = all(isinstance(layer.module, ChannelScale) and layer.bias is None for layer in layers)
        bits = self.numbers.settings.bits + (self.numbers.settings.fraction if alone else 0)
        sums = None
        while True:
            found = self._rounded(layers, widened)
            bound, step = self._sums(found)
            sums = bound / step if sums is None else sums
            coarse = torch.stack([layer.rounding for layer in layers])
            coarse = coarse.amax() if self.axis == -1 else coarse.amax(0)
            lost = (widened > bits / 2) & (coarse > self._scale(layers) / 4)
            if bool(lost.any()):
                self._refuse(sums)
            room = torch.floor(torch.log2(EXACT * step / bound.clamp_min(1e-30)))
            if bool((room >= 0).all()):
                break
            widened = widened + (-room).clamp_min(0)
        grid = step * torch.exp2(-room.clamp(0, self.numbers.settings.fraction))
        if self.site is not None:
            self._set_site(self.site, grid)
        for layer in layers:
            if layer.bias is not None:
                fine = grid.expand(len(layer.weight)) * layer.area
                layer.module.bias.copy_((torch.round(layer.bias / fine) * fine).reshape(layer.module.bias.shape))
        full = torch.ones_like(found.bound)
        unit, grid = (along(values, 1, found.bound) for values in (self.unit, grid))
        self.numbers.values[self.root] = Value(full * unit, full * grid, found.bound)

    def _rounded(self, layers: Sequence[_Layer], widened: Tensor) -> Value:
        """Rounds the weights to steps that are so many bits wider; returns what is then known about the sum."""
        edges = [layer for layer in layers if isinstance(layer.module, ChannelScale) and layer.bias is None]
        for layer in layers:
            if layer not in edges:
                self._round(layer, None, widened)
        siblings = [layer.step for layer in layers if layer not in edges]
        for layer in edges:
            self._round(layer, siblings, widened)
        by_node = {layer.node: layer for layer in layers}
        for node in self.nodes:
            found = self._result(by_node[node]) if node in by_node else self.numbers.apply(node)
            self.numbers.values[node] = found
        return self.numbers.values[self.root]

    def _layer(self, node: fx.Node) -> _Layer:
        module: Any = self.graph.module(node)
        found = self.numbers.values[node.all_input_nodes[0]]
        linear = isinstance(module, nn.Linear)
        arrives = self._arriving(found.unit, -1 if linear else 1, node)
        weight = module.weight.detach().double()
        if isinstance(module, ChannelScale):
            weight = weight * arrives.reshape(weight.shape)
        elif linear:
            weight = weight * arrives
        else:
            groups = module.groups
            each = arrives.view(groups, -1).repeat_interleave(weight.shape[0] // groups, 0)
            weight = weight * each.reshape(*each.shape, *[1] * (weight.dim() - 2))
        unit = self.unit.expand(weight.shape[0])
        weight = weight / unit.reshape(-1, *[1] * (weight.dim() - 1))
        bias = None if module.bias is None else module.bias.detach().double().reshape(-1) / unit
        most, arriving = self.numbers.settings.most, smallest(found.step)
        largest = float(found.bound.max())
        layer = _Layer(module, node, weight, bias, most, arriving, largest, weight, torch.ones(len(weight)).double())
        after = node
        while after is not self.root:
            (after,) = after.users
            layer.area *= max(1, self.graph.area(after))
        return layer

    def _arriving(self, unit: Tensor, axis: int, node: fx.Node) -> Tensor:
        """The unit of what arrives at a layer, per input channel."""
        if unit.dim() < 2:
            return unit.amax().reshape(1)
        rows = unit.movedim(axis, 0).flatten(1)
        found = rows.amax(1)
        if not bool(((rows == found.unsqueeze(1)) | (rows == 0)).all()):
            raise RangeError(
                "one input channel of it carries values of different units",
                where=f"{node.name} at {source_of(node)}",
                fix="convert with one threshold per layer (PerLayer()), or do not quantise",
            )
        return found

    def _round(self, layer: _Layer, siblings: Sequence[Tensor] | None, widened: Tensor) -> None:
        """Rounds the weight; ``siblings`` are the steps of a factor's fellow terms, than which it is no coarser."""
        largest = layer.exact.abs().flatten(1).amax(1) if layer.exact.dim() > 1 else layer.exact.abs()
        most = layer.most
        if siblings is not None and not siblings:
            most = (layer.most + 1) * 2**self.numbers.settings.fraction - 1
        power = torch.floor(torch.log2(most / largest)).where(largest > 0, torch.zeros(()).double()) - widened
        for step in siblings or ():
            step = step if len(step) == len(power) else step.min()
            power = torch.maximum(power, torch.log2(layer.arriving / step))
        scale = torch.exp2(power)
        layer.weight = torch.round(layer.exact * layer.per_output(scale)) / layer.per_output(scale)
        layer.module.weight.copy_(layer.weight.reshape(layer.module.weight.shape))
        layer.step = layer.arriving / scale

    def _result(self, layer: _Layer) -> Value:
        """What a layer makes of the bounds of its input."""
        found = self.numbers.values[layer.node.all_input_nodes[0]]
        positive = copy.deepcopy(layer.module).double()
        positive.weight.copy_(layer.weight.abs().reshape(positive.weight.shape))
        if layer.bias is not None:
            positive.bias.copy_(layer.bias.abs().reshape(positive.bias.shape))
        bound = positive(found.bound)
        full = torch.ones_like(bound)
        axis = -1 if isinstance(layer.module, nn.Linear) else 1
        return Value(full * along(self.unit, axis, bound), full * along(layer.step, axis, bound), bound)

    def _sums(self, found: Value) -> tuple[Tensor, Tensor]:
        """The largest sum of every channel, and the step of what it adds up, biases aside."""
        numbers = self.numbers
        bound, step = self._channels(found.bound, largest=True), self._channels(found.step, largest=False)
        if self.site is None:
            return numbers.steps * bound, step
        bound = bound + self._channels_of_site(self.site.bias) / self.unit + numbers.theta
        bound = numbers.steps * bound + self._channels_of_site(self.site.v_init) / self.unit
        return bound, step.clamp_max(numbers.event / 2)

    def _scale(self, layers: Sequence[_Layer]) -> Tensor:
        """What sums are compared with: a threshold, or biases. A quarter of it may be lost to steps of weights."""
        if self.site is not None:
            return torch.as_tensor(self.numbers.event)
        biases = [layer.bias.abs() for layer in layers if layer.bias is not None]
        scale = torch.stack(biases).sum(0) if biases else torch.zeros(())
        return scale.amax() if self.axis == -1 else scale

    def _refuse(self, sums: Tensor) -> None:
        where = self.root.name if self.site is None else _name(self.graph, self.site)
        raise RangeError(
            f"sums of {self.numbers.settings.steps} steps could reach {float(sums.max()):.3g} grid steps, "
            f"float32 holds {EXACT:,} exactly, and with wider steps less than half of the bits would be left",
            where=f"{'layer' if self.site is None else 'site'} {where} at {source_of(self.root)}",
            fix="quantise for fewer steps, or inputs to fewer bits: Quantisation(steps=8, input_bits=6)",
            shell_fix="quantise for fewer steps, or inputs to fewer bits: --quantise 8:steps=8:input_bits=6",
        )

    def _set_site(self, site: Site, grid: Tensor) -> None:
        like, population = site.theta, site.population
        assert population is not None
        per_channel = grid.numel() > 1 or self.unit.numel() > 1
        shape = (max(grid.numel(), self.unit.numel()), *[1] * (len(population) - 1)) if per_channel else ()
        unit = self.unit.expand(grid.shape if grid.numel() > 1 else self.unit.shape).reshape(shape)
        v_init, bias = site.v_init.detach().double() / unit, site.bias.detach()
        bias = bias.double() / unit if bias.dim() else bias
        site.theta = nn.Parameter(torch.full(shape, self.numbers.theta).to(like), requires_grad=False)
        site.unit = unit.to(like)
        site.grid = grid.expand(shape[:1] if per_channel else ()).reshape(shape).to(like)
        site.set_initial_potential(v_init.to(like))
        if bias.dim():
            site.set_bias(bias.to(like))

    def _channels_of_site(self, values: Tensor) -> Tensor:
        """The largest magnitude of each channel, ``[C]`` or a scalar."""
        values = values.detach().double().abs()
        assert self.site is not None
        population = self.site.population
        assert population is not None
        if values.dim() < len(population) or not population:
            return values.max()
        rows = values.movedim(values.dim() - len(population), 0).reshape(values.shape[-len(population)], -1).amax(1)
        return rows if self.unit.dim() and rows.numel() > 1 else rows.max()

    def _channels(self, values: Tensor, *, largest: bool) -> Tensor:
        """The largest or smallest number of every channel, ``[C]``; a scalar where channels share one."""
        values = values if largest else torch.where(values > 0, values, torch.inf)
        if self.axis == -1 or values.dim() < 2:
            found = values.amax() if largest else values.amin()
        else:
            rows = values.movedim(1, 0).flatten(1)
            found = rows.amax(1) if largest else rows.amin(1)
        return found if largest else torch.where(torch.isinf(found), 1.0, found)


def _name(graph: GridGraph, site: Site) -> str:
    names: Mapping[str, nn.Module] = graph.modules
    return next(name for name, module in names.items() if module is site)
