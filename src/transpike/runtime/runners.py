"""What advances in time: populations of neurons, max-pooling and readouts, as modules that take their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from transpike.functional import summing_type
from transpike.graph.function_site import FunctionSite
from transpike.graph.plan import Kind, Layout
from transpike.graph.site import Site
from transpike.graph.sizes import Grows, at_steps
from transpike.kernels import KernelPreference
from transpike.neurons import Neuron
from transpike.runtime.sequences import fold, in_time, out_of_time, unfold
from transpike.schedules import FunctionContext, Memory, Schedule, SiteContext


class SiteRunner(nn.Module):
    """Runs one population under a schedule, and turns events into output ``theta * events``."""

    def __init__(
        self,
        name: str,
        site: Site,
        neuron: Neuron,
        schedule: Schedule,
        kernel: KernelPreference,
        number: int,
        constant_drive: bool,
        layout: Layout,
    ) -> None:
        super().__init__()
        self.name = name
        self.site = site
        self.neuron = neuron
        self.schedule = schedule
        self.kernel = kernel
        self.number = number
        self.constant_drive = constant_drive
        self.layout = layout

    def currents(self, value: Tensor, batch: int, steps: int) -> Tensor:
        """What arrives, ``[S, N, *]``; a constant current takes no memory, and arrives once as an increment."""
        sequence = in_time(value, batch, self.layout)
        if not self.constant_drive or self.schedule.incremental:
            return sequence
        return sequence.expand(steps, *sequence.shape[1:])

    def drive(self, value: Tensor, batch: int, steps: int, start: Tensor) -> Tensor:
        """The input current ``[S, N, *]``: what arrives, and the site's bias."""
        once = self.schedule.incremental
        if self.constant_drive and self.site.steady and not once:
            drive = self.site.biased(in_time(value, batch, self.layout), start)
            return drive.expand(steps, *drive.shape[1:])
        return self.site.biased(self.currents(value, batch, steps), start, once=once)

    def emit(self, drive: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The events ``[S_out, N, *]`` and the new memory for a drive ``[S, N, *]``."""
        parameters = self.site.parameters_of_neurons
        context = SiteContext(self.name, drive, self.neuron, parameters, memory, self.number, self.kernel)
        return self.schedule.emit(context)

    def forward(
        self, value: Tensor, memory: Memory | None, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory]:
        """Folded currents (or one constant current) in, folded output and new memory out."""
        return self.run(None, value, memory, batch, steps, start)

    def run(
        self,
        observe: Callable[[Tensor, Tensor], None] | None,
        value: Tensor,
        memory: Memory | None,
        batch: int,
        steps: int,
        start: Tensor,
    ) -> tuple[Tensor, Memory]:
        """`forward`, which shows drive and events ``[S, N, *]``."""
        drive = self.drive(value, batch, steps, start)
        events, memory = self.emit(drive, rows_of(memory, self.layout))
        if observe is not None:
            observe(drive, events)
        return out_of_time(self.schedule.values(events, self.site.theta), self.layout), by_sample(memory, self.layout)


def by_sample(memory: Memory, layout: Layout) -> Memory:
    """What is kept for a value of this layout as ``[N, *]``, also where a sample has several rows."""
    rows = layout[1]
    return memory if rows == 1 else tuple(each.reshape(-1, rows, *each.shape[1:]) for each in memory)


def rows_of(memory: Memory | None, layout: Layout) -> Memory | None:
    """The inverse of `by_sample` for a value of this layout."""
    if memory is None or layout[1] == 1:
        return memory
    return tuple(each.flatten(0, 1) for each in memory)


class Argument(NamedTuple):
    """One argument of a site of any function.

    Attributes:
        kind: what it is in time; None for a plain value.
        layout: where it holds the batch.
        grows: of a size, whether it is a multiple of the batch size.
    """

    kind: Kind | None
    layout: Layout = (0, 1)
    grows: Grows = False


class FunctionRunner(SiteRunner):
    """Runs a population that follows a function of the running sums, or running means, of its arguments.

    Args:
        arguments: what each argument is.
    """

    site: FunctionSite

    def __init__(
        self,
        name: str,
        site: FunctionSite,
        neuron: Neuron,
        schedule: Schedule,
        kernel: KernelPreference,
        number: int,
        arguments: tuple[Argument, ...],
        layout: Layout,
    ) -> None:
        constant = all(argument.kind is not Kind.SEQUENCE for argument in arguments)
        super().__init__(name, site, neuron, schedule, kernel, number, constant, layout)
        self.arguments = arguments

    def run(
        self,
        observe: Callable[[Tensor, Tensor], None] | None,
        value: Any,
        memory: Memory | None,
        batch: int,
        steps: int,
        start: Tensor,
    ) -> tuple[Tensor, Memory]:
        """`forward`, which shows the function's values and the events ``[S, N, *]``."""
        sums, totals = self._sums(value, batch, memory)
        arrived = max((len(each) for each in sums.values()), default=1 if self.schedule.incremental else steps)
        used = self.schedule.needed(self.name, arrived)
        number = used.stop - used.start
        given = []
        for index, (each, argument) in enumerate(zip(value, self.arguments, strict=True)):
            if argument.kind is Kind.SEQUENCE:
                given.append(out_of_time(self._known(sums[index], used, start), argument.layout))
            elif argument.kind is Kind.STATIC:
                held = in_time(each, batch, argument.layout)
                given.append(out_of_time(held.expand(number, *held.shape[1:]), argument.layout))
            else:
                given.append(at_steps(each, argument.grows, number))
        values = in_time(self.site(*given), batch, self.layout)
        own = None if memory is None else rows_of(memory[len(totals) :], self.layout)
        context = FunctionContext(self.name, values, start, self.site.theta, self.site.limits, own)
        events, kept = self.schedule.follow(context)
        if observe is not None:
            observe(values, events)
        memory = (*totals, *by_sample(kept, self.layout))
        return out_of_time(self.schedule.values(events, self.site.theta), self.layout), memory

    def _sums(self, values: Any, batch: int, memory: Memory | None) -> tuple[dict[int, Tensor], Memory]:
        """The running sums ``[S, rows, *]`` of every argument that differs from step to step, and the last of each."""
        moving = [index for index, argument in enumerate(self.arguments) if argument.kind is Kind.SEQUENCE]
        sums: dict[int, Tensor] = {}
        for place, index in enumerate(moving):
            layout = self.arguments[index].layout
            sequence = in_time(values[index], batch, layout)
            found = sequence.cumsum(0, dtype=summing_type(sequence.dtype))
            before = rows_of(None if memory is None else memory[place : place + 1], layout)
            sums[index] = found if before is None else before[0] + found
        lengths = [len(each) for each in sums.values()]
        for index, found in sums.items():
            if self.schedule.incremental:  # nothing arrives behind the end of a sequence
                sums[index] = torch.cat([found, found[-1:].expand(max(lengths) - len(found), *found.shape[1:])])
            else:
                sums[index] = found[: min(lengths)]
        last = [by_sample((each[-1],), self.arguments[index].layout)[0] for index, each in sums.items()]
        return sums, tuple(last)

    def _known(self, sums: Tensor, used: slice, start: Tensor) -> Tensor:
        """Sums, or means, after the steps that are read."""
        chosen = sums[used]
        if not self.schedule.incremental:
            steps = start + torch.arange(1, len(chosen) + 1, device=chosen.device)
            chosen = chosen / steps.view(-1, *[1] * (chosen.dim() - 1)).to(chosen.dtype)
        return chosen.to(self.site.theta.dtype)


class TemporalMaxPool(nn.Module):
    """Max-pooling of a sequence: with C the running sum of the input, emits ``max C(t) - max C(t-1)``.

    T steps add up to the maximum of the sums, so the mean converges to the maximum of the means.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(
        self, value: Tensor, memory: Memory | None, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory]:
        """Folded sequence in, folded sequence of increments out; the memory is C, at least in float32."""
        sequence = unfold(value, batch)
        dtype = summing_type(value.dtype)
        before = torch.zeros_like(sequence[0], dtype=dtype) if memory is None else memory[0]
        sums = torch.cat([before.unsqueeze(0), before + sequence.cumsum(0, dtype=dtype)])
        pooled = unfold(self.pool(fold(sums)), batch)
        return fold(pooled[1:] - pooled[:-1]).to(value.dtype), (sums[-1],)


class Readout(nn.Module):
    """The running mean of a sequence: integrates and never fires (SlipReLU paper, section 2).

    Args:
        name: of the node of the network whose value it is.
        incremental: the running sum instead.
    """

    def __init__(self, name: str, incremental: bool = False) -> None:
        super().__init__()
        self.name = name
        self.incremental = incremental

    def forward(
        self, value: Tensor, memory: Memory | None, batch: int, steps: int, start: Tensor
    ) -> tuple[Tensor, Memory]:
        """Folded sequence in, folded running means out; sums of increments stay where a sequence ends before ``steps``.

        The memory is the sum so far, at least in float32; ``start`` are the steps in it.
        """
        sums = unfold(value, batch).cumsum(0, dtype=summing_type(value.dtype))
        if memory is not None:
            sums = memory[0] + sums
        if self.incremental:
            last = sums[-1:].expand(max(0, steps - len(sums)), *sums.shape[1:])
            return fold(torch.cat([sums[:steps], last])).to(value.dtype), (sums[-1],)
        count = start + torch.arange(1, sums.shape[0] + 1, device=sums.device)
        means = sums / count.view(-1, *[1] * (sums.dim() - 1)).to(sums.dtype)
        return fold(means).to(value.dtype), (sums[-1],)
