"""Random networks on dyadic numbers: the engine and every kernel send the same events and give the same answers.

    python tests/fuzz/networks.py --cases 500 --seed 0
    python tests/fuzz/networks.py --only 1234          # one case again

A case is made from its number alone. What the reference kernel does is right; where it refuses a run, all others must.
Cases whose events differ in float64 are not exact in float32, so that the order of sums matters: they are left out.
"""

from __future__ import annotations

import copy
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from cases import run_cases
from torch import Tensor, nn

import transpike as tp
from transpike.kernels import KernelPreference
from transpike.neurons import IF, Burst, Neuron, Reset, SignedIF
from transpike.schedules import (
    AccumulateThenFire,
    ExactPotential,
    OffsetSpike,
    Plain,
    Residual,
    Schedule,
    Staggered,
    TwoPasses,
)
from transpike.testing import assert_same_answer, dyadic_batch, make_dyadic, record

CHANNELS = (1, 2, 3, 5, 8, 11, 16, 17, 24, 32, 33, 48, 64, 70)
NEURONS = 6000  # a layer with more is pooled


class Residuals(nn.Module):
    """``act(body(x) + shortcut(x))``; without a shortcut as in option A: every second pixel, zero channels."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None, act: nn.Module, stride: int, more: int) -> None:
        super().__init__()
        self.body, self.shortcut, self.act, self.stride, self.more = body, shortcut, act, stride, more

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        if self.shortcut is not None:
            return self.act(self.body(x) + self.shortcut(x))  # type: ignore[no-any-return]
        kept = x[:, :, :: self.stride, :: self.stride]
        return self.act(self.body(x) + F.pad(kept, (0, 0, 0, 0, 0, self.more)))  # type: ignore[no-any-return]


class Joined(nn.Module):
    """``cat(x, body(x))``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        return torch.cat([x, self.body(x)], 1)


class Maker:
    """Draws a network whose every part fits the one before it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.shape = (rng.choice((1, 2, 3, 4, 16)), rng.randint(4, 12), rng.randint(4, 12))
        self.inputs = self.shape
        self.parts: list[nn.Module] = []

    def activation(self) -> nn.Module:
        """ReLU, at times a clipped one."""
        ceiling = self.rng.choice((None, None, None, 0.5, 1.0, 2.0))
        return nn.ReLU() if ceiling is None else nn.Hardtanh(0.0, ceiling)

    def convolution(self, outputs: int | None = None, same: bool = False) -> list[nn.Module]:
        """A convolution of any geometry, or one that keeps the size, and at times BatchNorm."""
        rng, (inputs, *size) = self.rng, self.shape
        kernel = [rng.choice((1, 1, 2, 3, 3, 3, 4, 5, 7)) for _ in size]
        dilation = [rng.choice((1, 1, 1, 2)) for _ in size]
        if same:
            kernel, dilation = [k | 1 for k in kernel], [1, 1]
        kernel = [k if d * (k - 1) < n else 1 for k, d, n in zip(kernel, dilation, size, strict=True)]
        padding = [k // 2 if same else rng.randint(0, k // 2 + 1) for k in kernel]
        stride = [1, 1] if same else [rng.choice((1, 1, 2, 3)) for _ in size]
        outputs = outputs or rng.choice(CHANNELS)
        groups = 1
        if outputs == inputs and rng.random() < 0.4:
            groups = inputs
        elif rng.random() < 0.3:
            groups = rng.choice([g for g in (1, 2, 3, 4) if inputs % g == 0 and outputs % g == 0])
        bias = rng.random() < 0.6
        found: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias)]
        if rng.random() < 0.4:
            found.append(nn.BatchNorm2d(outputs))
        return found

    def add(self, part: nn.Module) -> None:
        """Appends a part."""
        self.parts.append(part.eval())
        with torch.no_grad():
            self.shape = tuple(part(torch.zeros(1, *self.shape)).shape[1:])  # type: ignore[assignment]

    def block(self) -> None:
        """Appends one or several layers that end with an activation, at times a pooling."""
        rng = self.rng
        kind = rng.choice(("layer", "layer", "layer", "depthwise", "two", "residual", "option A", "cat"))
        channels = self.shape[0]
        if kind == "depthwise":
            self.add(nn.Sequential(*self.convolution(channels), self.activation()))
        elif kind == "two":
            self.add(nn.Sequential(*self.convolution()))
            self.add(nn.Sequential(*self.convolution(), self.activation()))
        elif kind == "residual":
            outputs = rng.choice((channels, channels, rng.choice(CHANNELS)))
            shortcut = (
                nn.Identity() if outputs == channels else nn.Conv2d(channels, outputs, 1, bias=rng.random() < 0.5)
            )
            inner = nn.Sequential(*self.convolution(channels, same=True), self.activation())
            body = nn.Sequential(inner, *self.convolution(outputs, same=True))
            self.add(Residuals(body, shortcut, self.activation(), 1, 0))
        elif kind == "option A" and channels <= 35:
            more, stride = rng.choice((0, 1, channels)), rng.choice((1, 2))
            body = nn.Conv2d(channels, channels + more, 3, stride, 1)
            self.add(Residuals(body, None, self.activation(), stride, more))
        elif kind == "cat" and channels <= 32:
            self.add(Joined(nn.Sequential(*self.convolution(rng.choice((1, 3, 8, 16)), same=True), self.activation())))
        else:
            self.add(nn.Sequential(*self.convolution(), self.activation()))
        _, height, width = self.shape
        large = channels * height * width > NEURONS
        if min(height, width) >= 2 and (large or rng.random() < 0.35):
            self.add(rng.choice((nn.AvgPool2d(2), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2, 1, 1))))

    def network(self) -> nn.Module:
        """The network, with weights on the grid."""
        for _ in range(self.rng.randint(1, 4)):
            self.block()
        self.add(nn.Flatten())
        if self.rng.random() < 0.4:
            hidden = self.rng.choice((1, 5, 16, 33, 64))
            self.add(nn.Sequential(nn.Linear(self.shape[0], hidden), self.activation()))
        self.add(nn.Linear(self.shape[0], self.rng.choice((1, 3, 10, 17))))
        return make_dyadic(nn.Sequential(*self.parts), self.rng.choice((1.0, 2.0)))


@dataclass(frozen=True)
class Case:
    """A network, its inputs, and how it runs."""

    snn: tp.SpikingNetwork
    inputs: Tensor
    steps: int
    schedule: Schedule
    chunk: int
    said: str


def make(number: int) -> Case:
    """The case of a number.

    Raises:
        TranspikeError: the network does not convert, as a burst neuron with a clipped activation.
    """
    rng = random.Random(number)
    torch.manual_seed(number)
    maker = Maker(rng)
    model = maker.network()
    batch = rng.choice((1, 2, 3, 7))
    x = dyadic_batch((batch, *maker.inputs), number)
    neuron: Neuron = rng.choice((IF(), IF(), IF(), IF(), IF(Reset.HARD), SignedIF(), Burst(rng.randint(1, 5))))
    rho = rng.randint(1, 8)
    schedule: Schedule = rng.choice(
        (
            *(Plain(), Plain(), Plain(), Residual(rho), ExactPotential(rho), AccumulateThenFire(rho)),
            *(OffsetSpike(rho, iterations=rng.randint(1, 3)), Staggered(rng.randint(0, 3)), TwoPasses(rho)),
        )
    )
    per = rng.choice((tp.PerLayer(), tp.PerChannel()))
    conversion = tp.Conversion(tp.rules.Maximum(per), neuron=neuron, schedule=schedule)
    snn = tp.convert(model, conversion, example_inputs=x, calibration=x)
    settings = [_set_numbers(snn.site(site.name), site.shape, batch, rng) for site in snn.sites]
    layout = rng.choice(("plain", "plain", "channels last", "strided", "expanded"))
    steps, chunk = rng.randint(1, 17), rng.randint(1, 6)
    said = f"{neuron}, {schedule}, T={steps}, chunk {chunk}, batch {batch}, {layout}, {settings}\n{model}"
    return Case(snn, _laid_out(x, layout), steps, schedule, chunk, said)


def _laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout; expanded: those of the first sample."""
    if layout == "channels last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "strided":
        return x.repeat_interleave(2, 3)[..., ::2]
    return x[:1].expand_as(x) if layout == "expanded" else x


def _set_numbers(site: Any, shape: tuple[int, ...], batch: int, rng: random.Random) -> str:
    """Thresholds that are powers of two; potentials and biases of any granularity."""
    theta = torch.exp2(site.theta.clamp_min(0.25).log2().round())
    if theta.dim():
        theta = theta * 2.0 ** torch.randint(-1, 2, theta.shape)
    site.set_threshold(theta)
    sizes = {"layer": (), "channel": shape[:1], "neuron": shape, "sample": (batch, *shape)}
    start, bias = (
        rng.choice(("half", "half", *sizes)),
        rng.choice(("none", "none", "layer", "channel", "neuron", "steps")),
    )

    def drawn(*size: int) -> Tensor:
        return torch.randint(-16, 33, size) / 32

    site.set_initial_potential(theta / 2 if start == "half" else drawn(*sizes[start]))
    if bias == "steps":
        site.set_bias(drawn(rng.randint(1, 5), shape[0], *[1] * (len(shape) - 1)) / 4)
    elif bias != "none":
        site.set_bias(drawn(*sizes[bias]) / 4)
    return f"{start}/{bias}"


class Mismatch(AssertionError):
    """Two ways to run a network differ."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch and the kernels on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def attempt(run: Callable[[], Any]) -> tuple[Any, str]:
    """What a run gives, and how it was refused; one of them is empty."""
    try:
        return run(), ""
    except (ValueError, tp.errors.TranspikeError) as error:
        return None, type(error).__name__


def check(case: Case) -> str:
    """Runs a case in every way; ``right``, ``refused`` or ``inexact``.

    Raises:
        Mismatch: two ways differ.
    """
    snn, x, settings = case.snn, case.inputs, {"steps": case.steps, "schedule": case.schedule}
    wanted_counts: dict[str, list[Tensor]] = {}
    wanted, refused = attempt(
        lambda: record(snn, x, kernel=KernelPreference.REFERENCE, count=_into(wanted_counts), **settings)
    )
    if not refused:
        exact = record(copy.deepcopy(snn).double(), x.double(), kernel=KernelPreference.REFERENCE, **settings)
        if any(not torch.equal(exact.events[site], events.double()) for site, events in wanted.events.items()):
            return "inexact"

    def same(way: str, run: Callable[[], Any], compare: Callable[[Any], None]) -> None:
        got, why = attempt(run)
        if why != refused:
            raise Mismatch(f"{way}: {why or 'runs'}, the reference: {refused or 'runs'}")
        if not refused:
            try:
                compare(got)
            except AssertionError as error:
                raise Mismatch(f"{way}: {error}") from error

    def events(got: Any) -> None:
        assert got.events.keys() == wanted.events.keys()
        for site, expected in wanted.events.items():
            assert torch.equal(got.events[site], expected), f"events at {site}"
        assert_same_answer(got.answer, wanted.answer)

    by_name = (KernelPreference.EAGER, KernelPreference.NATIVE) if isinstance(snn.neuron, IF) else ()
    for kernel in (KernelPreference.AUTO, *by_name):  # other neurons have no kernels by name
        same(kernel.value, lambda kernel=kernel: record(snn, x, kernel=kernel, **settings), events)
    comparing = _comparing(wanted, wanted_counts)
    for number, inputs in ((1, x), (2, x), (1, x.contiguous())):
        with threads(number):
            same(f"engine, {number} threads", lambda given=inputs: _counted(snn, given, settings), comparing)
    if refused:
        return "refused"
    if case.schedule.streamable:
        same("chunks", lambda: record(snn, x, chunk=case.chunk, **settings), events)
        same("stream", lambda: _streamed(case), lambda got: assert_same_answer(got, wanted.answer))
    return "right"


def _into(found: dict[str, list[Tensor]]) -> Callable[[str, Tensor], None]:
    return lambda site, number: found.setdefault(site, []).append(number)


def _counted(snn: tp.SpikingNetwork, x: Tensor, settings: dict[str, Any]) -> tuple[Any, dict[str, list[Tensor]]]:
    found: dict[str, list[Tensor]] = {}
    return snn(x, count=_into(found), **settings), found


def _comparing(wanted: Any, wanted_counts: dict[str, list[Tensor]]) -> Callable[[Any], None]:
    def compare(got: Any) -> None:
        answer, counts = got
        for site, parts in counts.items():  # sites that the answer does not need are not run
            assert torch.equal(torch.cat(parts), torch.cat(wanted_counts[site])), f"spikes per step at {site}"
        assert_same_answer(answer, wanted.answer)

    return compare


def _streamed(case: Case) -> Tensor:
    rows, state = [], None
    for _ in range(case.steps):
        row, state = case.snn.step(case.inputs, state, schedule=case.schedule)
        rows.append(row)
    return torch.stack(rows)


def outcome(number: int) -> tuple[str, str]:
    """What came of a case, ``right``, ``refused``, ``inexact`` or ``wrong``; and what was wrong."""
    said = ""
    try:
        case, why = attempt(lambda: make(number))
        if why:
            return "refused", why
        said = case.said
        with torch.no_grad():
            return check(case), said
    except Mismatch as error:
        return "wrong", f"{error}; {said}"
    except Exception:  # whatever it is, a run must not end so
        return "wrong", f"{traceback.format_exc()}; {said}"


if __name__ == "__main__":
    sys.exit(run_cases("Random networks, run in every way.", 100, outcome))
