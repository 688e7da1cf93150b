"""A converted network beside the ANN it came from and others: ratios from one run, behind a gate.

Nothing is timed before the fast kernels gave the answers of the reference. Runs are interleaved, so that a slow moment
of the machine hits all of them, and the fastest of several is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike.bench.timing import fastest
from transpike.errors import TranspikeError
from transpike.kernels import KernelPreference, native
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import Schedule


class BenchError(TranspikeError):
    """Nothing to time: no stage runs event by event, or the answers are not those of the reference."""


@dataclass(frozen=True)
class Gate:
    """How far the fast kernels are from the reference on the timed inputs.

    Attributes:
        samples: number of inputs.
        flipped: spikes more or fewer per site and step, as a share of all; ties of rounded sums fall either way.
        answers: share of inputs whose class differs.
    """

    samples: int
    flipped: float
    answers: float


@dataclass(frozen=True)
class Measurement:
    """One way to answer.

    Attributes:
        what: the ANN, the spiking network event by event, dense, or somebody else's.
        batch: samples at once.
        steps: T; 0 for an ANN.
        milliseconds: of one call, the fastest of several.
        ratio: to the fastest ANN at this batch.
    """

    what: str
    batch: int
    steps: int
    milliseconds: float
    ratio: float


@dataclass(frozen=True)
class BenchReport:
    """Everything `bench` measured, with what it was measured on."""

    gate: Gate
    timings: tuple[Measurement, ...]
    stages: int
    dense_stages: int
    schedule: str
    threads: int
    instruction_set: str
    torch: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


Baseline = Callable[[Tensor, int], Any]
"""Somebody else's spiking network: called with inputs ``[N, *]`` and T."""


def bench(
    snn: SpikingNetwork,
    inputs: Tensor,
    *,
    batches: Sequence[int] = (1, 16, 100),
    steps: Sequence[int] = (1, 4, 8),
    schedule: Schedule | None = None,
    repeats: int = 7,
    compile_ann: bool = False,
    tune: bool = False,
    others: dict[str, Baseline] | None = None,
    references: dict[str, Callable[[Tensor], Any]] | None = None,
    tolerance: float = 0.01,
) -> BenchReport:
    """Times a converted network against its ANN.

    The ANN is the source with BatchNorm folded and plain ReLU, in float32, in both memory formats and, if asked
    for, compiled; the fastest of these at each batch is what all ratios are to.

    Args:
        snn: the network, on the CPU in float32.
        inputs: at least as many samples as the largest batch; real ones, since time depends on how many neurons spike.
        batches: batch sizes.
        steps: numbers of time-steps.
        schedule: how the network runs; None is the network's own.
        repeats: calls per row, at least 1.
        compile_ann: also time the ANN under ``torch.compile``, which takes a minute to prepare.
        tune: first measure, at the largest batch and T, which stages torch operators compute faster, and let them
            (`SpikingNetwork.engine`); the network stays so.
        others: further spiking networks by name, called with inputs and T.
        references: further networks without time by name, quantised ones for example; no ratio is to them.
        tolerance: as in `pass_gate`.

    Raises:
        BenchError: as `pass_gate`.
        ValueError: too few inputs, or no repeats.
    """
    schedule = snn.schedule if schedule is None else schedule
    if max(batches) > inputs.shape[0] or repeats < 1:
        raise ValueError(f"batches up to {max(batches)} need as many inputs, got {inputs.shape[0]}, and repeats >= 1")
    gate = pass_gate(snn, inputs, max(steps), schedule, tolerance)
    if tune:
        snn.engine.tune(inputs[: max(batches)], steps=max(steps), schedule=schedule, repeats=repeats)
        gate = pass_gate(snn, inputs, max(steps), schedule, tolerance)
    stages = snn.engine.report(schedule)
    timings: list[Measurement] = []
    with torch.no_grad():
        networks = anns(snn, compile_ann)
        for batch in batches:
            x = inputs[:batch].contiguous()
            calls: dict[tuple[str, int], Callable[[], Any]] = {}
            for name, (network, memory_format) in networks.items():
                image = x.contiguous(memory_format=memory_format) if x.dim() == 4 else x
                calls[name, 0] = partial(network, image)
            for name, reference in (references or {}).items():
                calls[name, 0] = partial(reference, x)
            for t in steps:
                calls["events", t] = partial(snn, x, steps=t, schedule=schedule)
                calls["dense", t] = partial(snn, x, steps=t, schedule=schedule, kernel=KernelPreference.EAGER)
                for name, other in (others or {}).items():
                    calls[name, t] = partial(other, x, t)
            found = fastest(calls, repeats)
            ann = min(found[name, 0] for name in networks)
            timings += [Measurement(what, batch, t, 1e3 * found[what, t], found[what, t] / ann) for what, t in calls]
    return BenchReport(
        gate,
        tuple(timings),
        len(stages),
        sum(not stage.events for stage in stages.values()),
        str(schedule),
        torch.get_num_threads(),
        native.module().instruction_set(),
        torch.__version__,
    )


def pass_gate(
    snn: SpikingNetwork, inputs: Tensor, steps: int, schedule: Schedule, tolerance: float = 0.01, samples: int = 32
) -> Gate:
    """What must come before any timing: the fast kernels answer as the reference does.

    Args:
        snn: the network, on the CPU in float32.
        inputs: real ones, of which the first are looked at.
        steps: T.
        schedule: how the network runs.
        tolerance: largest share of flipped spikes, and of other answers.
        samples: how many inputs.

    Raises:
        BenchError: the network does not run event by event under this schedule, or the fast kernels disagree.
    """
    try:
        snn.engine.report(schedule)
    except ValueError as error:
        raise BenchError(str(error), fix="transpike doctor says what is missing") from error
    with torch.no_grad():
        gate = check(snn, inputs[:samples], steps, schedule)
    if max(gate.flipped, gate.answers) > tolerance:
        raise BenchError(
            f"the fast kernels disagree with the reference in {gate.flipped:.1e} of the spikes and "
            f"{gate.answers:.1%} of the answers",
            fix="report this network",
        )
    return gate


def check(snn: SpikingNetwork, inputs: Tensor, steps: int, schedule: Schedule) -> Gate:
    """Compares the fast kernels with the reference."""
    fast: dict[str, Tensor] = {}
    slow: dict[str, Tensor] = {}
    answer = snn(inputs, steps=steps, schedule=schedule, count=lambda name, n: fast.update({name: n}))
    wanted = snn(
        inputs,
        steps=steps,
        schedule=schedule,
        kernel=KernelPreference.REFERENCE,
        count=lambda name, n: slow.update({name: n}),
    )
    different = sum(int((fast[name] - slow[name]).abs().sum()) for name in fast)
    spikes = max(1, sum(int(slow[name].sum()) for name in fast))
    others = float((answer[-1].argmax(-1) != wanted[-1].argmax(-1)).float().mean())
    return Gate(inputs.shape[0], different / spikes, others)


def anns(snn: SpikingNetwork, compiled: bool = False) -> dict[str, tuple[Callable[[Tensor], Any], torch.memory_format]]:
    """The source network with plain ReLU, by name with its memory format."""
    plain = relu_network(snn)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    found: dict[str, tuple[Callable[[Tensor], Any], torch.memory_format]] = {
        "ANN": (plain, torch.contiguous_format),
        "ANN, channels last": (last, torch.channels_last),
    }
    if compiled:  # weights as constants, which the compiler packs
        options: dict[str, Any] = {"freezing": True}
        found["ANN, torch.compile"] = (torch.compile(last, dynamic=False, options=options), torch.channels_last)
    return found


def relu_network(snn: SpikingNetwork) -> fx.GraphModule:
    """The source network's graph, BatchNorm folded, with plain ReLU at every site; in place where nobody else reads."""
    network = copy.deepcopy(snn.network)
    for plan in snn.sites:
        (node,) = (node for node in network.graph.nodes if node.op == "call_module" and node.target == plan.name)
        alone = len(node.all_input_nodes[0].users) == 1
        parent, _, leaf = plan.name.rpartition(".")
        setattr(network.get_submodule(parent), leaf, nn.ReLU(inplace=alone))
    return network.requires_grad_(False)
