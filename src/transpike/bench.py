"""How fast a converted network is on this machine, beside the ANN it came from: ratios from one run, behind a gate.

Nothing is timed before the fast kernels gave the answers of the reference. Runs are interleaved, so that a slow moment
of the machine hits all of them, and the fastest of several is kept.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transpike.errors import TranspikeError
from transpike.graph.site import Site
from transpike.kernels import KernelPreference, Rule, native
from transpike.kernels.events import EventStage, Halo, MapShape, Source, Tap
from transpike.network import SpikingNetwork
from transpike.schedules import Plain, Schedule


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
class Timing:
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
class SweepPoint:
    """One 3x3 convolution with its neurons at one firing rate, beside one pass of the dense convolution.

    Attributes:
        channels: in and out.
        size: rows and columns.
        rate: share of inputs that spike at a step.
        steps: T.
        milliseconds: of all steps, event by event.
        ratio: to one dense pass.
        nanoseconds_per_addition: time over the vector additions that the spikes ask for, one thread.
    """

    channels: int
    size: int
    rate: float
    steps: int
    milliseconds: float
    ratio: float
    nanoseconds_per_addition: float


@dataclass(frozen=True)
class BenchReport:
    """Everything `bench` measured, with what it was measured on."""

    gate: Gate
    timings: tuple[Timing, ...]
    stages: int
    dense_stages: int
    schedule: str
    threads: int
    instruction_set: str
    torch: str

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


Contender = Callable[[Tensor, int], Any]
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
    others: dict[str, Contender] | None = None,
    tolerance: float = 0.01,
) -> BenchReport:
    """Times a converted network against its ANN.

    The ANN is the source with BatchNorm folded and plain ReLU, in both memory formats; the fastest counts.

    Args:
        snn: the network, on the CPU in float32.
        inputs: at least as many samples as the largest batch; real ones, since time depends on how many neurons spike.
        batches: batch sizes.
        steps: numbers of time-steps.
        schedule: how the network runs; None is `Plain`.
        repeats: calls per row, at least 1.
        compile_ann: also time the ANN under ``torch.compile``, which takes a minute to prepare.
        others: further spiking networks by name.
        tolerance: largest share of flipped spikes, and of other answers, that passes the gate.

    Raises:
        BenchError: the network does not run event by event under this schedule, or the gate is closed.
        ValueError: too few inputs, or no repeats.
    """
    schedule = Plain() if schedule is None else schedule
    if max(batches) > inputs.shape[0] or repeats < 1:
        raise ValueError(f"batches up to {max(batches)} need as many inputs, got {inputs.shape[0]}, and repeats >= 1")
    try:
        stages = snn.stages(schedule)
    except ValueError as error:
        raise BenchError(str(error), fix="transpike doctor says what is missing") from error
    timings: list[Timing] = []
    with torch.no_grad():
        gate = check(snn, inputs[: min(32, inputs.shape[0])], max(steps), schedule)
        if max(gate.flipped, gate.answers) > tolerance:
            raise BenchError(f"the fast kernels disagree with the reference: {gate}", fix="report this network")
        networks = anns(snn, inputs[:1], compile_ann)
        for batch in batches:
            x = inputs[:batch].contiguous()
            calls: dict[tuple[str, int], Callable[[], Any]] = {}
            for name, (network, memory_format) in networks.items():
                image = x.contiguous(memory_format=memory_format) if x.dim() == 4 else x
                calls[name, 0] = partial(network, image)
            for t in steps:
                calls["events", t] = partial(snn, x, steps=t, schedule=schedule)
                calls["dense", t] = partial(snn, x, steps=t, schedule=schedule, kernel=KernelPreference.EAGER)
                for name, other in (others or {}).items():
                    calls[name, t] = partial(other, x, t)
            found = fastest(calls, repeats)
            ann = min(found[key] for key in calls if key[1] == 0)
            timings += [Timing(what, batch, t, 1e3 * found[what, t], found[what, t] / ann) for what, t in calls]
    return BenchReport(
        gate,
        tuple(timings),
        len(stages),
        sum(not stage.events for stage in stages.values()),
        repr(schedule),
        torch.get_num_threads(),
        native.module().instruction_set(),
        torch.__version__,
    )


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


def anns(
    snn: SpikingNetwork, example: Tensor, compiled: bool
) -> dict[str, tuple[Callable[[Tensor], Any], torch.memory_format]]:
    """The source network with plain ReLU, by name with its memory format."""
    network = copy.deepcopy(snn.network)
    for name, module in list(network.named_modules()):
        if isinstance(module, Site):
            parent, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(parent), leaf, nn.ReLU(inplace=True))
    network.requires_grad_(False)
    last = copy.deepcopy(network).to(memory_format=torch.channels_last)
    found: dict[str, tuple[Callable[[Tensor], Any], torch.memory_format]] = {
        "ANN": (network, torch.contiguous_format),
        "ANN, channels last": (last, torch.channels_last),
    }
    if compiled:
        found["ANN, torch.compile"] = (torch.compile(last, dynamic=False), torch.channels_last)
        found["ANN, torch.compile"][0](example)
    return found


def fastest(calls: dict[Any, Callable[[], Any]], repeats: int) -> dict[Any, float]:
    """Seconds of the fastest call each: rounds of all contenders, in each of which one warms up and then runs twice."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            call()
            for _ in range(2):
                begin = time.perf_counter()
                call()
                found[name] = min(found[name], time.perf_counter() - begin)
    return found


LAYERS = ((16, 32), (32, 16), (64, 8), (64, 32), (128, 16), (256, 8), (512, 4), (512, 2))
"""Channels and size of the convolutions of CIFAR networks."""


def sweep(
    layers: Sequence[tuple[int, int]] = LAYERS,
    rates: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.4),
    *,
    steps: int = 4,
    batch: int = 16,
    repeats: int = 7,
) -> list[SweepPoint]:
    """Times single layers with random spikes: what a stage costs does not depend on training, only on its rate.

    Args:
        layers: channels and size.
        rates: shares of inputs that spike.
        steps: T.
        batch: samples.
        repeats: calls per point.
    """
    points: list[SweepPoint] = []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for channels, size in layers:
            conv = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
            image = torch.randn(batch, channels, size, size, generator=generator)
            image = image.contiguous(memory_format=torch.channels_last)
            shape = MapShape(channels, size, size, Halo(1, 1, 1, 1))
            taps = tuple(Tap(index // 3 - 1, index % 3 - 1, index) for index in range(9))
            weights = tuple(conv.weight.detach()[:, :, index // 3, index % 3].T for index in range(9))
            stage = EventStage(
                shape, [(Source("in", (1, 1), taps, weights), shape)], torch.zeros(channels), torch.ones(())
            )
            stage.set_potential(stage.pad(torch.full((1, 1, channels), 0.5)))
            calls: dict[Any, Callable[[], Any]] = {"dense": partial(conv, image)}
            for rate in rates:
                spikes = random_map(shape, batch, steps, rate, generator)
                calls[rate] = partial(stage.run, {"in": spikes}, None, Rule("plain"), batch, steps)
            found = fastest(calls, repeats)
            for rate in rates:
                additions = rate * steps * batch * size * size * 9 * channels * channels
                points.append(
                    SweepPoint(
                        channels,
                        size,
                        rate,
                        steps,
                        1e3 * found[rate],
                        found[rate] / found["dense"],
                        1e9 * found[rate] * torch.get_num_threads() / additions,
                    )
                )
    return points


def random_map(shape: MapShape, batch: int, steps: int, rate: float, generator: torch.Generator) -> Any:
    """A spike map in which every neuron spikes independently with probability ``rate``."""
    spikes = shape.empty(batch, steps)
    events = torch.rand(batch, steps, shape.rows, shape.columns, shape.bytes * 8, generator=generator) < rate
    events[..., shape.channels :] = False
    packed = (events.view(*events.shape[:-1], shape.bytes, 8) * 2 ** torch.arange(8)).sum(-1).to(torch.uint8)
    whole = spikes.bytes.view(batch, steps, shape.padded_rows, shape.padded_columns, shape.bytes)
    whole[:, :, shape.halo.top :, shape.halo.left :][:, :, : shape.rows, : shape.columns] = packed
    return spikes
