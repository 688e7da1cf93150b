"""Where the error of a spiking network comes from: its causes at every site, and the unified objective of SlipReLU.

At one site let z be the ANN's pre-activation, x the mean drive that the spiking network brings there, f the activation
that the network was converted from, and s the mean output of the neurons. Then

    relu(z) - s = [relu(z) - f(z)]    the source's activation is no ReLU           ``deviation``
                + [f(z) - f(x)]       earlier sites bring another drive            ``inherited``
                + [f(x) - clip(x)]    the neurons cannot send more                 ``clipping``
                + [clip(x) - Q(x)]    T steps know so many values only             ``quantisation``
                + [Q(x) - s]          the same total arrives unevenly              ``unevenness``

clip(x) is f(x), at most as much as a neuron can send; Q(x) is what the same neurons send under the same schedule if x
arrives in every step (eq. 7 of the paper for integrate-and-fire neurons). Each bracket is computed from these values;
that they add up is checked and reported as ``residual``. Under a code of digits (`DigitCode`) means are sums, Q(x) is
what the digits say if x arrives at once, and unevenness is what later digits could not take back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from transpike.errors import InputError
from transpike.evaluation.offsets.counts import checked_batches
from transpike.graph.equivalence import tensors_in
from transpike.graph.site import Site
from transpike.graph.walk import NodeVisitor
from transpike.kernels import KernelPreference
from transpike.network.spiking import SpikingNetwork, need_relu_sites
from transpike.schedules import Memory, Schedule, SiteContext
from transpike.schedules.contract import check_schedule
from transpike.serialization.fields import check_count

CAUSES = ("deviation", "inherited", "clipping", "quantisation", "unevenness")
"""In the order in which they arise; attributes of `SiteError`."""


@dataclass(frozen=True)
class Cause:
    """One cause at one site.

    Attributes:
        size: mean absolute value over samples and neurons, in the units of the activations.
        bias: mean value; positive where the neurons send too little.
        share: its part of the mean squared error, ``E[cause * error] / E[error^2]``. The shares of a site add up to
            1; a cause that undoes others has a negative share. 0 where there is no error.
    """

    size: float
    bias: float
    share: float


@dataclass(frozen=True)
class SiteError:
    """The error of one site and its causes.

    Attributes:
        site: its name.
        scale: mean of ``relu(z)``, the size to which errors compare.
        error: mean of ``|relu(z) - s|``.
        conversion: mean of ``|f(z) - s|``, the second half of the unified objective.
        deviation: see the module's text, like the other causes.
        inherited: see there.
        clipping: see there.
        quantisation: see there.
        unevenness: see there.
        residual: the largest ``|relu(z) - s - sum of causes|`` of a neuron, a rounding error.
        saturated: share of neurons, over samples, that send as much as they can.
        silent: share of neurons that send nothing for any sample.
    """

    site: str
    scale: float
    error: float
    conversion: float
    deviation: Cause
    inherited: Cause
    clipping: Cause
    quantisation: Cause
    unevenness: Cause
    residual: float
    saturated: float
    silent: float

    def cause(self, name: str) -> Cause:
        """One of `CAUSES`."""
        found: Cause = getattr(self, name)
        return found

    @property
    def own(self) -> float:
        """The mean sizes of the causes that conversion adds at this site: clipping, quantisation, unevenness."""
        return self.clipping.size + self.quantisation.size + self.unevenness.size

    @property
    def worst(self) -> str:
        """The name of the cause with the largest share."""
        return max(CAUSES, key=lambda name: self.cause(name).share)

    def objective(self, weight: float) -> float:
        """The unified objective of this site, eq. 5: ``w E|relu(z) - f(z)| + (1 - w) E|f(z) - s|``.

        Raises:
            ValueError: the weight does not lie in [0, 1].
        """
        return _weighed(weight, self.deviation.size, self.conversion)


@dataclass(frozen=True)
class ErrorCauses:
    """Why a spiking network answers otherwise than its source.

    Attributes:
        sites: in execution order.
        deviation: mean absolute difference of the answers of the ReLU network and the source network.
        conversion: the same of the source network and the spiking one after T steps.
        agreement: share of samples with the same largest answer in both; None if the answer is no single ``[N, C]``.
        steps: T.
        schedule: in words.
        digits: whether events were digits instead of rates.
        images: number of samples.
    """

    sites: tuple[SiteError, ...]
    deviation: float
    conversion: float
    agreement: float | None
    steps: int
    schedule: str
    digits: bool
    images: int

    def objective(self, weight: float) -> float:
        """The unified objective of the whole network, eq. 5.

        Raises:
            ValueError: the weight does not lie in [0, 1].
        """
        return _weighed(weight, self.deviation, self.conversion)

    @property
    def worst(self) -> tuple[SiteError, ...]:
        """The sites by the error that conversion adds there, the largest in relation to `scale` first."""
        return tuple(sorted(self.sites, key=lambda site: site.own / (site.scale or 1.0), reverse=True))

    def rows(self) -> list[dict[str, Any]]:
        """One flat record per site, for ``pandas.DataFrame(causes.rows())``."""
        return [_flat(site) for site in self.sites]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def _weighed(weight: float, deviation: float, conversion: float) -> float:
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight must lie in [0, 1], got {weight}")
    return weight * deviation + (1 - weight) * conversion


def _flat(site: SiteError) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for field in fields(site):
        value = getattr(site, field.name)
        if isinstance(value, Cause):
            flat |= {field.name: value.size, f"{field.name} bias": value.bias, f"{field.name} share": value.share}
        else:
            flat[field.name] = value
    return flat


def error_causes(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    *,
    steps: int,
    schedule: Schedule | None = None,
    progress: bool = False,
) -> ErrorCauses:
    """Splits the error of every site into its causes.

    Args:
        snn: the network.
        batches: tensors, or tuples that start with the model's inputs (labels are ignored).
        steps: T.
        schedule: how the network runs; None is the network's own schedule.
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, or no schedule.
        ModelError: the network has sites that are no ReLU.
        InputError, DataError: unusable batches, or none.
    """
    check_count("steps", steps)
    schedule = snn.schedule if schedule is None else check_schedule(schedule)
    need_relu_sites(snn, "the error by cause")
    tallies = {site.name: _Tally() for site in snn.sites}
    answers = _Answers()
    images = 0
    for inputs in checked_batches(snn, batches, f"causes of error after {steps} steps", progress):
        with torch.no_grad():
            relu = NodeVisitor(snn.network, on_site=lambda _, site, args: args[0].clamp_min(0.0)).run(*inputs)
            drives: dict[str, Tensor] = {}
            source = NodeVisitor(snn.network, on_site=_source(drives)).run(*inputs)
            seen = _Seen(schedule)
            answer = snn(*inputs, steps=steps, schedule=schedule, observe=seen)
            for name, tally in tallies.items():
                tally.add(*_values(snn, name, drives[name], seen.passes[name], schedule))
            answers.add(relu, source, answer)
        images += len(inputs[0])
    deviation, conversion, agreement = answers.result()
    sites = tuple(tally.result(name) for name, tally in tallies.items())
    return ErrorCauses(sites, deviation, conversion, agreement, steps, str(schedule), schedule.incremental, images)


def _source(drives: dict[str, Tensor]) -> Any:
    def activate(name: str, site: Site, args: tuple[Any, ...]) -> Tensor:
        drives[name] = args[0]
        value: Tensor = site(args[0])
        return value

    return activate


@dataclass
class _Pass:
    """What came to a site and left it, in thresholds, in one pass: sums ``[N, *]`` over steps, and their numbers."""

    drive: Tensor
    received: int
    sent: Tensor
    steps: int


class _Seen:
    """An observer that adds up drives and events of every site; a run in parts is one pass unless there are several."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.apart = schedule.passes > 1
        self.passes: dict[str, list[_Pass]] = {}

    def __call__(self, name: str, drive: Tensor, events: Tensor) -> None:
        sent = self.schedule.values(events.double(), torch.ones((), dtype=torch.float64, device=events.device)).sum(0)
        own = _Pass(drive.double().sum(0), drive.shape[0], sent, events.shape[0])
        known = self.passes.setdefault(name, [])
        if not known or self.apart:
            known.append(own)
        else:
            known[0].drive += own.drive
            known[0].received += own.received
            known[0].sent += own.sent
            known[0].steps += own.steps


def _values(snn: SpikingNetwork, name: str, z: Tensor, passes: list[_Pass], schedule: Schedule) -> Iterator[Tensor]:
    """relu(z), f(z), f(x), clip(x), Q(x) and s in float64, and the most that a neuron sends."""
    site = snn.site(name)
    last = passes[-1]
    once = schedule.incremental
    x = (last.drive if once else last.drive / last.received).to(z.dtype)
    theta = site.theta.double()
    most = snn.neuron.most_events * theta
    even: Tensor | None = None
    memory: Memory | None = None
    for number, own in enumerate(passes):
        drive = x.unsqueeze(0).expand(own.received, *x.shape)
        if once:
            drive = torch.cat([drive[:1], torch.zeros_like(drive[1:])])
        context = SiteContext(
            name, drive, snn.neuron, site.parameters_of_neurons, memory, number, KernelPreference.AUTO
        )
        even, memory = schedule.emit(context)
    assert even is not None
    one = torch.ones((), dtype=torch.float64)
    largest = float(schedule.total(schedule.values(one.expand(len(even), 1), one)))
    after = site(x).double()
    yield z.double().clamp_min(0.0)
    yield site(z).double()
    yield after
    yield torch.minimum(after, most)
    yield schedule.total(schedule.values(even.double(), theta))
    yield theta * last.sent if once else theta * last.sent / last.steps
    yield most * largest


class _Tally:
    """Running sums of one site in float64."""

    def __init__(self) -> None:
        self.number = 0
        self.sums = dict.fromkeys(("scale", "error", "conversion", "square", "saturated"), 0.0)
        self.sizes = dict.fromkeys(CAUSES, 0.0)
        self.biases = dict.fromkeys(CAUSES, 0.0)
        self.parts = dict.fromkeys(CAUSES, 0.0)
        self.residual = 0.0
        self.active: Tensor | None = None

    def add(
        self, relu: Tensor, source: Tensor, after: Tensor, clipped: Tensor, even: Tensor, sent: Tensor, most: Tensor
    ) -> None:
        """Counts one batch; all tensors ``[N, *]``."""
        chain = (relu, source, after, clipped, even, sent)
        error = relu - sent
        total = torch.zeros_like(error)
        for name, before, behind in zip(CAUSES, chain[:-1], chain[1:], strict=True):
            cause = before - behind
            total += cause
            self.sizes[name] += float(cause.abs().sum())
            self.biases[name] += float(cause.sum())
            self.parts[name] += float((cause * error).sum())
        self.residual = max(self.residual, float((error - total).abs().max()))
        new = {"scale": relu, "error": error.abs(), "conversion": (source - sent).abs(), "square": error.square()}
        for key, values in (new | {"saturated": (sent >= most * (1 - 1e-9)).double()}).items():
            self.sums[key] += float(values.sum())
        self.number += error.numel()
        active = (sent != 0).any(0)
        self.active = active if self.active is None else self.active | active

    def result(self, name: str) -> SiteError:
        assert self.active is not None
        mean = {key: value / self.number for key, value in self.sums.items()}
        square = self.sums["square"]
        causes = {
            cause: Cause(
                self.sizes[cause] / self.number,
                self.biases[cause] / self.number,
                self.parts[cause] / square if square else 0.0,
            )
            for cause in CAUSES
        }
        silent = 1.0 - float(self.active.double().mean())
        return SiteError(
            name,
            mean["scale"],
            mean["error"],
            mean["conversion"],
            **causes,
            residual=self.residual,
            saturated=mean["saturated"],
            silent=silent,
        )


class _Answers:
    """Differences of the answers of three networks."""

    def __init__(self) -> None:
        self.number = 0
        self.deviation = 0.0
        self.conversion = 0.0
        self.same: int | None = 0
        self.images = 0

    def add(self, relu: Any, source: Any, spiking: Any) -> None:
        """Counts one batch; the spiking answer is ``[T, N, *]``."""
        tensors = zip(tensors_in(relu), tensors_in(source), tensors_in(spiking), strict=True)
        for before, own, rows in tensors:
            if own.shape != rows.shape[1:]:
                raise InputError(
                    "the answers of ANN and spiking network differ in shape",
                    where=str(list(own.shape)),
                    fix="report it",
                )
            self.deviation += float((before - own).double().abs().sum())
            self.conversion += float((own - rows[-1]).double().abs().sum())
            self.number += own.numel()
        if self.same is not None and isinstance(source, Tensor) and source.dim() == 2:
            self.same += int((source.argmax(1) == spiking[-1].argmax(1)).sum())
            self.images += len(source)
        else:
            self.same = None

    def result(self) -> tuple[float, float, float | None]:
        number = max(self.number, 1)
        agreement = None if self.same is None else self.same / self.images
        return self.deviation / number, self.conversion / number, agreement
