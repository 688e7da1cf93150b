"""The converted network: an ``nn.Module`` that runs in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from transpike.errors import ModelError, StateError
from transpike.errors import count as count_of
from transpike.graph.equivalence import Verification, verify
from transpike.graph.example_run import Inputs, check_guards, check_inputs, check_run, explain_shapes, inputs_from
from transpike.graph.plan import Plan, SitePlan
from transpike.graph.prepare import Capture
from transpike.graph.site import Site
from transpike.graph.unwrap import unwrapped
from transpike.graph.walk import reference_tensor
from transpike.kernels import KernelPreference
from transpike.network.backends import Backends, Call
from transpike.network.engine import NetworkEngine
from transpike.network.summary import summary
from transpike.neurons import Neuron
from transpike.rules import Conversion, ThroughTime
from transpike.rules.quantisation import unsupported_run
from transpike.runtime.encoding import Encoding
from transpike.runtime.execute import MEMORY, MEMORY_ON_GPU
from transpike.runtime.interpreters import Count, Observer, refuse_overflow, run_clipped
from transpike.runtime.step import State, Stepper, check_state
from transpike.runtime.time_varying import split_frames
from transpike.runtime.timing import Timing, timing
from transpike.schedules import Latency, Schedule
from transpike.schedules.contract import MOST_STEPS, check_schedule
from transpike.serialization.fields import check_count, fitted


class SpikingNetwork(nn.Module):
    """A spiking network made by `transpike.convert`.

    Attributes:
        network: the source network as an fx graph, with a `Site` where each activation stood. Calling it computes
            the ANN.
        plan: what every value of that graph is in time, and its sites.
        capture: how its source became a graph.
        trained: how `transpike.fit_snn` trained it after the conversion, else None.
    """

    trained: ThroughTime | None = None

    def __init__(self, network: fx.GraphModule, plan: Plan, conversion: Conversion, capture: Capture) -> None:
        super().__init__()
        self.network = network
        self.plan = plan
        self._conversion = conversion
        self.capture = capture
        for site in plan.sites:
            module = self.site(site.name)
            module.layout = plan.layouts.get(site.node, module.layout)
            module.population = site.shape[1:] if module.layout[1] > 1 else site.shape  # its rows share parameters
        self._backends: Backends | None = None
        self.register_load_state_dict_post_hook(_renew)  # type: ignore[no-untyped-call]
        self._backend_cache()

    def forward(
        self,
        *inputs: Tensor | Encoding,
        steps: int,
        schedule: Schedule | None = None,
        chunk: int | None = None,
        kernel: KernelPreference = KernelPreference.AUTO,
        observe: Observer | None = None,
        count: Count | None = None,
        memory_mib: int | None = None,
    ) -> Any:
        """Runs the network.

        On a CPU, without gradients, it runs event by event (`engine`) unless the inputs change in time, the run is
        cut into chunks, or ``observe`` wants to see the currents.

        Args:
            inputs: per argument of the source model a tensor ``[N, *]``, a constant current, or an `Encoding`:
                `FrameSequence` of frames ``[T, N, *]``, `Poisson` spikes.
            steps: T, the number of time-steps, at least 1.
            schedule: how the sites run in time; None is the schedule that the network was converted for.
            chunk: how many steps every stage runs before the next stage starts; None runs as many as fit into memory.
            kernel: which kernel runs the neurons; ``AUTO`` and ``NATIVE`` run whole stages where they can.
            observe: called with the drive and events of every site; the whole batch then runs at once.
            count: called once per site and pass with the number of spikes of every step, all samples together.
            memory_mib: MiB that one site's currents may take: so many samples and steps run at once. None is 32, and
                1,024 on a GPU. Spikes do not depend on it, nor on ``chunk``.

        Returns:
            ``[T, N, *]`` in the structure of the model's output; row t-1 is the mean output of the first t steps.

        Raises:
            ValueError: steps or chunk are no whole numbers of at least 1, or a chunk for a schedule that is not
                streamable; or what is no schedule.
            InputError: NaN, wrong types, shapes, batch sizes that differ, too few frames.
            ConversionError: an operator in front of the first neurons cannot take an input that changes.
            RangeError: a drive became infinite or NaN, and with it the answer; in float16 any drive.
        """
        schedule = self._chosen(schedule)
        steps = check_count("steps", steps, most=MOST_STEPS)
        self._check_grid(schedule, steps)
        memory = None if memory_mib is None else check_count("memory_mib", memory_mib, 0) * 2**20
        kernel = fitted("kernel", kernel, KernelPreference)
        chunk = None if chunk is None else check_count("chunk", chunk)
        if chunk is not None and not schedule.streamable:
            raise ValueError(f"{schedule} needs all steps at once; leave chunk out and use smaller batches")
        backends = self._backend_cache()
        if schedule.incremental and not all(isinstance(value, Tensor) for value in inputs):
            raise ValueError(f"{schedule} takes its input once: give tensors [N, *], no frames")
        frames, first = split_frames(self.network, inputs, lambda: max(self.timing(steps, schedule).pass_lengths))
        batch = self._check(first, "SpikingNetwork")
        for name, values in frames.items():
            check_inputs((values.flatten(0, 1),), f"SpikingNetwork, frames of {name}")
        constant = tuple(value for value in inputs if isinstance(value, Tensor))
        recorded = torch.is_grad_enabled() and any(value.requires_grad for value in constant)
        if memory is None:
            memory = MEMORY_ON_GPU if reference_tensor(self.network).device.type == "cuda" else MEMORY
        call = Call(schedule, steps, kernel, chunk, memory, observe)
        with self._explain_shapes(first):
            backend = backends.backend_for(call, batch, frozenset(frames), recorded=recorded)
            answer = backend(constant, frames, batch, count)
            if not _finite(answer):  # once more, to see at which site it began; an answer may be so by itself
                call = replace(call, observe=refuse_overflow)
                watched = backends.backend_for(call, batch, frozenset(frames), recorded=recorded)
                watched(constant, frames, batch, None)
        if isinstance(answer, Tensor):
            return answer[:steps]
        return pytree.tree_map_only(Tensor, lambda rows: rows[:steps], answer)

    def compile(self, *, dynamic: bool = False, **options: Any) -> None:
        """Compiles dense runs with ``torch.compile``: all layers and steps of a pass become one graph.

        It is worth it on a GPU; on a CPU the engine is faster. A graph is made at the first run of every T, batch size
        and schedule. Runs by the engine and runs that are observed stay as they are, and so does `step`.

        Args:
            dynamic: one graph for all batch sizes and T.
            options: others of ``torch.compile``, such as ``mode="max-autotune"``.
        """
        self._backend_cache().compile({"fullgraph": True, "dynamic": dynamic, **options})

    def step(self, x: Inputs, state: State | None = None, *, schedule: Schedule | None = None) -> tuple[Any, State]:
        """Advances the network by one time-step; the input may differ from step to step.

        Operators in front of the first neurons act on each step's input by itself; where that is a max-pooling, frames
        that differ are better run as a `FrameSequence`, which pools their running sums.

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
            check_state(state, self._backend_cache().lower(self.schedule).stateful, batch)
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
        schedule = self._chosen(schedule)
        self._check_grid(schedule, 1)
        if not schedule.streamable:
            raise ValueError(
                f"{schedule} is not streamable: call the network with steps=... instead, or step it under another "
                "schedule, such as schedule=Plain()"
            )
        backends = self._backend_cache()
        return Stepper(backends.own if schedule is self.schedule else backends.lower(schedule))

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
        return run_clipped(self.network, inputs, self.neuron.most_events, observe)

    @property
    def conversion(self) -> Conversion:
        """The record that it was converted by: rules, corrections, neuron and schedule."""
        return self._conversion

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

    @property
    def engine(self) -> NetworkEngine:
        """The event-driven engine: how stages run, tuning, times by stage."""
        return NetworkEngine(self._backend_cache(), self.schedule, self._check)

    def timing(self, steps: int, schedule: Schedule | None = None) -> Timing:
        """When sites send, and when the answer is there, in a run with T = ``steps``."""
        return timing(self.network, self._chosen(schedule), check_count("steps", steps, most=MOST_STEPS))

    def latency(self, steps: int, schedule: Schedule | None = None) -> Latency:
        """The four latency figures of a run with T = ``steps``."""
        return self.timing(steps, schedule).latency

    def summary(self) -> str:
        """A table of the sites: population, drive, thresholds, initial potentials, source line."""
        reason = self.engine.unsupported_reason()
        stages = self.engine.report() if reason is None else {}
        sites = {site.name: self.site(site.name) for site in self.sites}
        about = f"neuron {self.neuron}"
        about += "" if self.conversion.quantise is None else f", quantised to {self.conversion.quantise}"
        about += "" if self.trained is None else f", {self.trained}"
        return summary(self.plan, sites, about, stages, reason)

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

    def _chosen(self, schedule: Schedule | None) -> Schedule:
        return self.schedule if schedule is None else check_schedule(schedule)

    def _check_grid(self, schedule: Schedule, steps: int) -> None:
        """Refuses what is not exact on a quantised network's grid."""
        settings = self.conversion.quantise
        if settings is not None:
            lengths = self.timing(steps, schedule).pass_lengths if schedule is not self.schedule or steps > 1 else (1,)
            reason = unsupported_run(settings, self.schedule, schedule, max(lengths))
            if reason is not None:
                raise ValueError(reason)

    def _backend_cache(self) -> Backends:
        """What runs this network; made anew for another graph in the place of ``network``."""
        if self._backends is None or self._backends.network is not self.network:
            self._backends = Backends(self.network, self.plan, self.neuron, self.schedule, self.capture)
        return self._backends

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backends": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._backend_cache()

    def train(self, mode: bool = True) -> Self:
        """Sets the training flag; the operators stay in evaluation mode, since time is folded into the batch."""
        super().train(mode)
        self.network.eval()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        _renew(self)
        return self

    def _check(self, inputs: tuple[Tensor, ...], where: str) -> int:
        batch = check_run(self.network, inputs, self.site(self.sites[0].name).theta, where)
        check_guards(self.capture.guards, inputs, where)
        return batch

    def _explain_shapes(self, inputs: tuple[Tensor, ...]) -> AbstractContextManager[None]:
        return explain_shapes(inputs, self.capture.input_shapes, "SpikingNetwork")


def _finite(answer: Any) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor))


def _renew(network: SpikingNetwork, *_: Any) -> None:
    """Lowered graphs hold references to tensors, which moving and ``load_state_dict(assign=True)`` replace."""
    network._backend_cache().renew()


def converted(network: Any, what: str) -> SpikingNetwork:
    """The converted network that a user means, without wrappers.

    Raises:
        ModelError: it is none.
    """
    network = unwrapped(network, what, "snn")
    if not isinstance(network, SpikingNetwork):
        raise ModelError(
            f"the network, a {type(network).__name__}, is not converted", where=what, fix="pass what tp.convert returns"
        )
    return network


@contextmanager
def compiled(network: SpikingNetwork) -> Iterator[None]:
    """Compiles dense runs for a while, where they are not compiled already."""
    backends = network._backend_cache()
    before = backends.options
    if before is None:
        network.compile()
    try:
        yield
    finally:
        backends.compile(before)


def need_relu_sites(network: SpikingNetwork, what: str) -> None:
    """Refuses what is defined for the spikes of integrate-and-fire neurons only.

    Raises:
        ModelError: the network has sites that follow another function than ReLU.
    """
    functions = network.plan.functions
    if functions:
        first = functions[0]
        raise ModelError(
            f"{what} is defined for ReLU sites, and {count_of(len(functions), 'site')} of {len(network.sites)} follow "
            "another function",
            where=f"site {first.name} ({first.operator}) at {first.source}",
            fix="use evaluate, which measures any network",
        )
