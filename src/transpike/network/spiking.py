"""The converted network: an ``nn.Module`` that runs in time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from transpike.engine.cache import Engines
from transpike.engine.engine import Engine, StageReport
from transpike.engine.tune import time_stages, tune
from transpike.errors import StateError
from transpike.graph.equivalence import Verification, verify
from transpike.graph.example_run import Inputs, check_inputs, check_run, explain_shapes, inputs_from
from transpike.graph.plan import Plan, SitePlan, longest_path, pass_lengths
from transpike.graph.prepare import Capture
from transpike.graph.site import Site
from transpike.kernels import KernelPreference, Rule
from transpike.network.summary import summary
from transpike.neurons import Neuron
from transpike.rules import Conversion
from transpike.runtime.encoding import Encoding
from transpike.runtime.execute import counting, run_passes
from transpike.runtime.interpreters import Clipped, Count, Observer
from transpike.runtime.lower import Lowered, lower
from transpike.runtime.step import State, Stepper, check_state
from transpike.runtime.time_varying import plan_for, split_frames
from transpike.schedules import Latency, Schedule

_Key = tuple[Schedule, KernelPreference, int, frozenset[str]]
_KEPT = 8
"""Lowered forms that a network keeps; a sweep over schedules must not fill the memory."""


class SpikingNetwork(nn.Module):
    """A spiking network made by `transpike.convert`.

    Attributes:
        network: the source network as an fx graph, with a `Site` where each activation stood. Calling it computes
            the ANN.
        plan: what every value of that graph is in time, the sites and stages.
        conversion: the record that it was converted by: rules, corrections, neuron and schedule.
        capture: how its source became a graph.
    """

    def __init__(self, network: fx.GraphModule, plan: Plan, conversion: Conversion, capture: Capture) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self.conversion = conversion
        self.capture = capture
        for site in plan.sites:
            self.site(site.name).population = site.shape
        self._lowered: dict[_Key, Lowered] = {}
        self._engines = Engines()
        self.register_load_state_dict_post_hook(_lower_again)  # type: ignore[no-untyped-call]
        self._lower_ahead()

    # ---- running -----------------------------------------------------------------------------------------------

    def forward(
        self,
        *inputs: Tensor | Encoding,
        steps: int,
        schedule: Schedule | None = None,
        chunk: int | None = None,
        kernel: KernelPreference = KernelPreference.AUTO,
        observe: Observer | None = None,
        count: Count | None = None,
    ) -> Any:
        """Runs the network.

        On a CPU, without gradients, it runs event by event (`stages`) unless the inputs change in time, the run is
        cut into chunks, or ``observe`` wants to see the currents.

        Args:
            inputs: per argument of the source model a tensor ``[N, *]``, a constant current, or an `Encoding`:
                `Sequence` of frames ``[T, N, *]``, `Poisson` spikes.
            steps: T, the number of time-steps, at least 1.
            schedule: how the sites run in time; None is the schedule that the network was converted for.
            chunk: how many steps every stage runs before the next stage starts; less takes less memory, the spikes
                are the same. None runs all steps at once.
            kernel: which kernel runs the neurons; ``AUTO`` and ``NATIVE`` run whole stages where they can.
            observe: called with the drive and events of every site.
            count: called with the number of spikes of every site and step.

        Returns:
            ``[T, N, *]`` in the structure of the model's output; row t-1 is the mean output of the first t steps.

        Raises:
            ValueError: steps or chunk below 1, or a chunk for a schedule that is not streamable.
            InputError: NaN, wrong types, shapes, batch sizes that differ, too few frames.
            ConversionError: an operator in front of the first neurons cannot take an input that changes.
        """
        schedule = self.schedule if schedule is None else schedule
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        if chunk is not None and not schedule.streamable:
            raise ValueError(f"{schedule} needs all steps at once; leave chunk out and use smaller batches")
        moving, first = split_frames(self.network, inputs, lambda: max(pass_lengths(self.network, schedule, steps)))
        batch = self._check(first, "SpikingNetwork")
        for name, frames in moving.items():
            check_inputs((frames.flatten(0, 1),), f"SpikingNetwork, frames of {name}")
        with self._explain_shapes(first):
            constant = tuple(value for value in inputs if isinstance(value, Tensor))
            compiled = kernel in (KernelPreference.AUTO, KernelPreference.NATIVE)
            recorded = torch.is_grad_enabled() and any(value.requires_grad for value in constant)
            eventful = compiled and not (moving or chunk or observe or recorded)
            if eventful and not self._refusal(schedule):
                engine, rule = self._find_engine(schedule)
                answer = engine.run(constant, batch, schedule.input_steps(steps), rule, count, rows=steps)
            else:
                answer = run_passes(
                    lambda number: self._lower(schedule, kernel, number, frozenset(moving)),
                    pass_lengths(self.network, schedule, steps),
                    constant,
                    moving,
                    batch=batch,
                    device=next(self.parameters()).device,
                    sites={site.node for site in self.sites},
                    chunk=chunk,
                    observe=observe if count is None else counting(count, observe),
                )
        if isinstance(answer, Tensor):
            return answer[:steps]
        return pytree.tree_map_only(Tensor, lambda rows: rows[:steps], answer)

    def step(self, x: Inputs, state: State | None = None, *, schedule: Schedule | None = None) -> tuple[Any, State]:
        """Advances the network by one time-step; the input may differ from step to step.

        Operators in front of the first neurons act on each step's input by itself; where that is a max-pooling, frames
        that differ are better run as a `Sequence`, which pools their running sums.

        Args:
            x: one tensor ``[N, *]``, or a tuple of them for a model with several arguments.
            state: what the last call returned; None at the first step.
            schedule: a streamable schedule; None is the network's own.

        Returns:
            The running mean of the output ``[N, *]`` after this step, and the new state.

        Raises:
            ValueError: the schedule is not streamable.
            StateError: the state belongs to another network or batch size.
            InputError: NaN, wrong types, shapes, batch sizes that differ.
        """
        if torch.compiler.is_compiling():  # the checks read values, which a compiled step must not
            return self.stepper(schedule)(x, state)  # type: ignore[no-any-return]
        inputs = inputs_from(x)
        batch = self._check(inputs, "SpikingNetwork.step")
        if state is not None:
            check_state(state, self._lower(*self._own).stateful, batch)
        stepper = self.stepper(schedule)
        try:
            with self._explain_shapes(inputs):
                return stepper(x, state)  # type: ignore[no-any-return]
        except ValueError as error:  # a kernel met a potential of another shape
            if state is None:
                raise
            raise StateError(
                f"the state does not fit: {error}", fix="use the state that this network's step returned"
            ) from error

    def stepper(self, schedule: Schedule | None = None) -> Stepper:
        """The module behind `step`; it shares this network's parameters."""
        schedule = self.schedule if schedule is None else schedule
        if not schedule.streamable:
            raise ValueError(
                f"{schedule} is not streamable: call the network with steps=... instead, or step it under another "
                "schedule, such as schedule=Plain()"
            )
        return Stepper(self._lower(schedule, KernelPreference.AUTO, 0))

    def ann(self, *inputs: Tensor) -> Any:
        """The source network's answer, computed by the converted graph."""
        return self.network(*inputs)

    def clipped(self, *inputs: Tensor, observe: Callable[[str, Tensor], None] | None = None) -> Any:
        """The clipped ANN: ``clip(z, 0, theta)`` at every site, the limit of the spiking network as T grows.

        Neurons that send several events in one step clip at that many thresholds.

        Args:
            inputs: one tensor ``[N, *]`` per argument.
            observe: called with each site's name and clipped activation ``[N, *]``.
        """
        return Clipped(self.network, observe, self.neuron.most_events).run(*inputs)

    # ---- looking -----------------------------------------------------------------------------------------------

    @property
    def neuron(self) -> Neuron:
        """The neuron model of all sites."""
        return self.conversion.neuron

    @property
    def schedule(self) -> Schedule:
        """The schedule that the network was converted for; what runs and evaluations take where none is given."""
        return self.conversion.schedule

    @property
    def sites(self) -> tuple[SitePlan, ...]:
        """The populations of neurons, in execution order."""
        return self.plan.sites

    def site(self, name: str) -> Site:
        """The module of a site.

        Raises:
            KeyError: there is no such site; the message lists them.
        """
        if all(site.name != name for site in self.sites):
            raise KeyError(f"no site {name!r}; sites: {', '.join(site.name for site in self.sites)}")
        module = self.network.get_submodule(name)
        assert isinstance(module, Site)
        return module

    def stages(self, schedule: Schedule | None = None) -> dict[str, StageReport]:
        """How each site's stage runs on a CPU under a schedule, by name: event by event or dense, and why.

        That is under ``torch.no_grad()``; where gradients are recorded, all stages run dense.

        Raises:
            ValueError: no stage of this network runs event by event; the message says why.
        """
        schedule = self.schedule if schedule is None else schedule
        with torch.no_grad():
            reason = self._refusal(schedule)
            if reason:
                raise ValueError(f"the network does not run event by event: {reason}")
            return self._find_engine(schedule)[0].reports

    def repack(self) -> None:
        """Packs the weights for the event-driven engine again at the next run.

        Changed weights and thresholds are noticed, except those written through ``.data`` without new memory, as
        ``p.data.mul_(2)`` does: call this then.
        """
        self._engines.clear()

    def tune(
        self, *inputs: Tensor, steps: int, schedule: Schedule | None = None, repeats: int = 3
    ) -> dict[str, StageReport]:
        """Lets torch operators compute the stages that they compute faster here, and says how each stage now runs.

        The choice holds for all schedules until the next call; it belongs to the machine and is not saved.

        Args:
            inputs: real data, one tensor ``[N, *]`` per argument.
            steps: T.
            schedule: None is the network's own.
            repeats: runs per measurement, at least 1; the fastest counts.

        Raises:
            ValueError: the network does not run event by event, or no repeats.
        """
        schedule, batch = self._check_measurement(inputs, schedule, repeats, "SpikingNetwork.tune")
        total = schedule.input_steps(steps)
        with torch.no_grad():
            tune(self._engines, lambda: self._find_engine(schedule), inputs, batch, total, repeats)
        return self.stages(schedule)

    def time_stages(
        self, *inputs: Tensor, steps: int, schedule: Schedule | None = None, repeats: int = 3
    ) -> dict[str, float]:
        """Seconds of each stage by its site, and of ``"readout"`` behind the last one, in event-driven runs.

        The torch operators in front of a stage, the first convolution too, count with it. Arguments as in `tune`.

        Raises:
            ValueError: the network does not run event by event, or no repeats.
        """
        schedule, batch = self._check_measurement(inputs, schedule, repeats, "SpikingNetwork.time_stages")
        with torch.no_grad():
            return time_stages(*self._find_engine(schedule), inputs, batch, schedule.input_steps(steps), repeats)

    def stored_neurons(self, schedule: Schedule) -> int:
        """Neurons of the largest population that a run stores numbers of, per sample and step.

        All populations where the network runs dense; event by event only those that torch operators read.
        """
        with torch.no_grad():
            if self._refusal(schedule):
                return max(site.neurons for site in self.sites)
            return self._find_engine(schedule)[0].largest_unpacked

    def latency(self, steps: int, schedule: Schedule | None = None) -> Latency:
        """The four latency figures of a run with T = ``steps``."""
        schedule = self.schedule if schedule is None else schedule
        earlier = sum(schedule.pass_steps(steps, number) for number in range(schedule.passes - 1))
        return Latency(
            answer_steps=steps,
            claimed_steps=schedule.claimed_steps(steps),
            pipeline_steps=earlier + longest_path(self.network, schedule.delay) + steps,
            interval=schedule.interval(steps) + longest_path(self.network, schedule.lag),
        )

    def summary(self) -> str:
        """A table of the sites: population, drive, thresholds, initial potentials, source line."""
        with torch.no_grad():
            reason = self._refusal(self.schedule)
        stages = {} if reason else self.stages()
        sites = {site.name: self.site(site.name) for site in self.sites}
        return summary(self.plan, sites, f"neuron {self.neuron}", stages, reason)

    def verify(self, *inputs: Tensor, ann: nn.Module | None = None, tolerance: float = 1e-3) -> Verification:
        """Checks on data that the graph computes what its source computes, sample by sample.

        Staircases are compared as ramps: in front of a step a rounding changes a whole level.

        Args:
            inputs: a batch of real data.
            ann: the source model, in evaluation mode; None checks only that samples do not influence each other.
            tolerance: largest accepted difference, relative to the largest output.

        Raises:
            VerificationError: a difference exceeds the tolerance.
        """
        batch = self._check(inputs, "verify")
        with torch.no_grad(), self._explain_shapes(inputs):
            return verify(self.network, inputs, batch, ann, tolerance)

    # ---- inside ------------------------------------------------------------------------------------------------

    def _lower(
        self, schedule: Schedule, kernel: KernelPreference, number: int, moving: frozenset[str] = frozenset()
    ) -> Lowered:
        key = (schedule, kernel, number, moving)
        try:
            found = self._lowered.get(key)
        except TypeError as error:
            raise ValueError(
                f"{schedule} is a schedule that cannot be hashed ({error}): make it a frozen dataclass whose fields "
                "are numbers, strings and tuples"
            ) from error
        if found is None:
            plan = plan_for(self.network, self.plan, self.capture, moving) if moving else self.plan
            found = lower(self.network, plan, self.neuron, schedule, kernel, number)
            self._lowered[key] = found
            if len(self._lowered) > _KEPT:
                del self._lowered[next(old for old in self._lowered if old != self._own)]
        return found

    def _refusal(self, schedule: Schedule) -> str:
        return self._engines.refusal(self.network, self.neuron, schedule)

    def _find_engine(self, schedule: Schedule) -> tuple[Engine, Rule]:
        return self._engines.find(
            self.network,
            self.plan,
            self.neuron,
            schedule,
            self.capture.input_shapes,
            lambda: self._lower(schedule, KernelPreference.AUTO, 0),
        )

    @property
    def _own(self) -> _Key:
        return self.schedule, KernelPreference.AUTO, 0, frozenset()

    def _lower_ahead(self) -> None:
        """Lowers ahead for `step`: ``torch.compile(snn.step)`` cannot trace the lowering itself."""
        self._lower(*self._own)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_lowered": {}, "_engines": Engines()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._lower_ahead()

    def train(self, mode: bool = True) -> Self:
        """Sets the training flag; the operators stay in evaluation mode, since time is folded into the batch."""
        super().train(mode)
        self.network.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        _lower_again(self)
        return self

    def _check(self, inputs: tuple[Tensor, ...], where: str) -> int:
        return check_run(self.network, inputs, self.site(self.sites[0].name).theta, where)

    def _check_measurement(
        self, inputs: tuple[Tensor, ...], schedule: Schedule | None, repeats: int, where: str
    ) -> tuple[Schedule, int]:
        """Checks what is to be timed event by event; returns the schedule and the number of samples."""
        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        schedule, batch = self.schedule if schedule is None else schedule, self._check(inputs, where)
        self.stages(schedule)
        return schedule, batch

    def _explain_shapes(self, inputs: tuple[Tensor, ...]) -> AbstractContextManager[None]:
        return explain_shapes(inputs, self.capture.input_shapes, "SpikingNetwork")


def _lower_again(network: SpikingNetwork, *_: Any) -> None:
    """Lowered graphs hold references to tensors, which moving and ``load_state_dict(assign=True)`` replace."""
    network._lowered.clear()
    network._engines.clear()
    network._lower_ahead()
