"""What makes a network runnable under a schedule: lowered graphs, packed weights, and when they are made anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from transpike.engine.engine import Engine
from transpike.engine.rules import rule_for
from transpike.engine.weights import WeightSnapshot
from transpike.errors import count as count_of
from transpike.graph.example_run import shapes_of
from transpike.graph.plan import Kind, Plan
from transpike.graph.prepare import Capture
from transpike.graph.walk import reference_tensor
from transpike.kernels import KernelPreference, native
from transpike.neurons import Neuron
from transpike.runtime.execute import DenseRun
from transpike.runtime.interpreters import Count, Observer
from transpike.runtime.lower import Lowered, lower
from transpike.runtime.time_varying import plan_for
from transpike.runtime.timing import timing
from transpike.schedules import Schedule

_KEPT = 6
"""Forms of a network that are kept; a sweep over schedules must not fill the memory."""

_Key = tuple[Schedule, KernelPreference, int, frozenset[str]]


Backend = Callable[[Sequence[Tensor], Mapping[str, Tensor], int, Count | None], Any]
"""Gives the answer ``[S, N, *]``, at least the rows asked for: called with constant arguments ``[N, *]``, frames
``[S, N, *]`` of the others by name, N, and what is called with the spikes of every site."""


@dataclass(frozen=True)
class Call:
    """How a network shall run.

    Attributes:
        schedule: how the sites run in time.
        steps: T.
        kernel: which kernel runs the neurons.
        chunk: steps that every stage runs before the next stage starts; None is what fits into memory.
        memory: bytes for the currents of one site.
        observe: called with the drive and events of every site.
    """

    schedule: Schedule
    steps: int
    kernel: KernelPreference = KernelPreference.AUTO
    chunk: int | None = None
    memory: int = sys.maxsize
    observe: Observer | None = None


@dataclass
class _Form:
    """A network lowered for one pass of a schedule, and packed or compiled, if it was asked for."""

    lowered: Lowered
    engine: Engine | None = None
    compiled: Callable[..., Any] | None = None


class Backends:
    """Lowers and packs one network, keeps what it made, and notices when weights have changed.

    Args:
        network: the ANN graph with its sites.
        plan: its plan.
        neuron: the neuron model.
        schedule: the network's own, whose lowered form is always kept.
        capture: how its source became a graph.

    Attributes:
        own: the form lowered for the network's own schedule, found without a look-up, which not every
            ``torch.compile`` can trace.
    """

    own: Lowered

    def __init__(
        self, network: fx.GraphModule, plan: Plan, neuron: Neuron, schedule: Schedule, capture: Capture
    ) -> None:
        self.network, self.plan, self.neuron, self.capture = network, plan, neuron, capture
        (output,) = network.graph.find_nodes(op="output")
        kinds = [plan.kinds[source.name] for source in output.all_input_nodes]
        self._cuttable = Kind.CONSTANT not in kinds and Kind.SIZE not in kinds
        self._own: _Key = (schedule, KernelPreference.AUTO, 0, frozenset())
        self._forms: dict[_Key, _Form] = {}
        self._dense: frozenset[str] = frozenset()
        self._snapshot: WeightSnapshot | None = None
        self.options: Mapping[str, Any] | None = None  # of torch.compile, where dense runs are compiled
        self._usable = False  # whether type and place of the tensors were found right
        self.renew()

    def renew(self) -> None:
        """Forgets everything that refers to the network's tensors, which moving or loading has replaced.

        Its own schedule is lowered ahead: ``torch.compile(snn.step)`` cannot trace the lowering itself.
        """
        self._forms.clear()
        self.own = self.lower(*self._own)

    def repack(self) -> None:
        """Forgets the packed weights."""
        for form in self._forms.values():
            form.engine = None

    @property
    def dense(self) -> frozenset[str]:
        """Sites whose drive torch operators compute in event-driven runs."""
        return self._dense

    @dense.setter
    def dense(self, sites: frozenset[str]) -> None:
        self._dense = sites
        self.repack()

    def backend_for(self, call: Call, batch: int, time_varying: frozenset[str], *, recorded: bool) -> Backend:
        """What runs a call: event by event where that is possible and nothing asks for more than answers and counts.

        Args:
            call: how to run.
            batch: N.
            time_varying: names of the arguments that differ from step to step.
            recorded: whether gradients of the inputs are recorded.

        Raises:
            ValueError: the schedule cannot be hashed, or says that it streams and does not.
            ConversionError: an operator in front of the first neurons cannot take an input that changes.
        """
        call = call if self._cuttable else replace(call, memory=sys.maxsize)
        compiled = call.kernel in (KernelPreference.AUTO, KernelPreference.NATIVE)
        eventful = compiled and not (time_varying or call.chunk or call.observe or recorded)
        if eventful and self.unsupported_reason(call.schedule) is None:
            engine, steps = self.engine(call.schedule), call.schedule.site_steps(call.steps)

            def run(constant: Sequence[Tensor], _: Mapping[str, Tensor], batch: int, count: Count | None) -> Any:
                return engine.run(constant, batch, steps, count, rows=call.steps, memory=call.memory)

            return run
        return self._dense_run(call, batch, time_varying).run

    def _dense_run(self, call: Call, batch: int, time_varying: frozenset[str]) -> DenseRun:
        schedule = call.schedule
        lengths = timing(self.network, schedule, call.steps).pass_lengths
        if schedule.incremental:  # sequences end by themselves
            lengths = (call.steps,)
        reference = reference_tensor(self.network)
        largest = max(site.neurons for site in self.plan.sites) * reference.element_size()
        budget = max(1, call.memory // largest)  # samples times steps
        size, chunk = batch, call.chunk or max(lengths)
        if call.observe is None:  # an observer sees whole batches
            if call.chunk is None and schedule.streamable:
                chunk = max(1, min(chunk, budget // batch))
            if not self._potentials_of_samples():
                size = max(1, budget // min(chunk, max(lengths)))
        forms = [self._form(schedule, call.kernel, number, time_varying) for number in range(schedule.passes)]
        passes = [form.lowered for form in forms]
        bodies = [form.lowered.body if self.options is None else _compiled(form, self.options) for form in forms]
        sites = {site.node for site in self.plan.sites}
        narrow = reference.dtype == torch.float16
        return DenseRun(passes, bodies, lengths, sites, reference.device, size, chunk, call.observe, narrow)

    def compile(self, options: Mapping[str, Any] | None) -> None:
        """Dense runs go through ``torch.compile`` with these options from now on; None stops it."""
        self.options = options
        for form in self._forms.values():
            form.compiled = None

    def _potentials_of_samples(self) -> bool:
        starts = ((self.network.get_parameter(f"{site.name}.v_init"), site.shape) for site in self.plan.sites)
        return any(v_init.dim() > max(1, len(shape)) for v_init, shape in starts)

    def lower(
        self,
        schedule: Schedule,
        kernel: KernelPreference = KernelPreference.AUTO,
        number: int = 0,
        time_varying: frozenset[str] = frozenset(),
    ) -> Lowered:
        """The lowered form of one pass of a schedule.

        Raises:
            ValueError: the schedule cannot be hashed, or says that it streams and does not.
            ConversionError: an operator in front of the first neurons cannot take an input that changes.
        """
        return self._form(schedule, kernel, number, time_varying).lowered

    def _form(self, *key: Any) -> _Form:
        schedule, kernel, number, time_varying = key
        try:
            found = self._forms.get(key)
        except TypeError as error:
            raise ValueError(
                f"{schedule} is a schedule that cannot be hashed ({error}): make it a frozen dataclass whose fields "
                "are numbers, strings and tuples"
            ) from error
        if found is None:
            plan = plan_for(self.network, self.plan, self.capture, time_varying) if time_varying else self.plan
            found = _Form(lower(self.network, plan, self.neuron, schedule, kernel, number))
            self._forms[key] = found
            if len(self._forms) > _KEPT:
                del self._forms[next(old for old in self._forms if old != self._own)]
        return found

    def unsupported_reason(self, schedule: Schedule) -> str | None:
        """Why the network, as it is now, cannot run event by event under a schedule; None if it can."""
        if native.load()[0] is None:
            return f"the native kernels are not there: {native.load()[1]}"
        if rule_for(schedule, self.neuron) is None:
            return f"{schedule} with {self.neuron} has no compiled form"
        if self.plan.functions:
            return f"{count_of(len(self.plan.functions), 'site')} of {len(self.plan.sites)} follow no ReLU"
        if self.plan.layouts:
            return "the batch moves to another dimension in between"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        state = self._look()
        if state.unsupported_reason is not None:
            return state.unsupported_reason
        if not self._usable:
            for tensor in state.tensors:
                if tensor.device.type != "cpu":
                    return "the network is not on the CPU"
                if tensor.is_floating_point() and tensor.dtype != torch.float32:
                    return "the network is not in float32"
            self._usable = True
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in state.tensors):
            return "gradients are recorded; run it under torch.no_grad()"
        return None

    def engine(self, schedule: Schedule) -> Engine:
        """The engine for a supported schedule, for the network as it was at the last `unsupported_reason`."""
        form = self._form(schedule, KernelPreference.AUTO, 0, frozenset())
        if form.engine is None:
            form.engine = self.pack(schedule, self._dense)
        return form.engine

    def pack(self, schedule: Schedule, dense: frozenset[str]) -> Engine:
        """A new engine for a supported schedule, in which torch operators compute the drive of some sites."""
        rule = rule_for(schedule, self.neuron)
        assert rule is not None
        example = [torch.zeros(1, *shape) for shape in self.capture.input_shapes]
        shapes = {node.name: shape for node, shape in shapes_of(self.network, example).items() if shape is not None}
        return Engine(self.network, self.plan, self.lower(schedule), shapes, rule, dense)

    def _look(self) -> WeightSnapshot:
        """Forgets packed weights that are no longer the network's."""
        if self._snapshot is None or not self._snapshot.is_current(self.network):
            snapshot = WeightSnapshot(self.network)
            self.repack()  # before the snapshot is there for other threads, which would run the old weights
            self._snapshot, self._usable = snapshot, False
        return self._snapshot


def _compiled(form: _Form, options: Mapping[str, Any]) -> Callable[..., Any]:
    if form.compiled is None:
        form.compiled = torch.compile(form.lowered.body, **options)
    return form.compiled
