"""Which method of conversion suits this network and this number of steps: measured on held-back calibration images."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor, nn

from transpike.calibration import CalibrationData
from transpike.calibration.progress import ProgressBar
from transpike.calibration.sweep import batches_of, checked_inputs
from transpike.conversion.convert import convert, restore
from transpike.conversion.methods import METHODS, Method
from transpike.errors import CalibrationError, InputError, TranspikeError, reason
from transpike.graph.capture import LeafModules
from transpike.graph.example_run import Inputs, inputs_from
from transpike.graph.operators import MaxPooling
from transpike.graph.prepare import Capture
from transpike.graph.unwrap import check_weights, unwrapped
from transpike.graph.walk import reference_tensor
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import EventKind
from transpike.rules import Conversion
from transpike.runtime.timing import SentSpikes
from transpike.schedules import Latency, Schedule
from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.fields import check_count, fitted

_BATCH = 100


class LatencyKind(Enum):
    """Which of the four latency figures the budget is for.

    ``ANSWER``: T, the steps that are averaged; waiting and probing cost nothing. ``PIPELINE``: from the first input to
    the answer on a device that steps all layers at once.
    """

    ANSWER = "answer"
    PIPELINE = "pipeline"


@dataclass(frozen=True)
class Trial:
    """How one method did on the held-back images.

    Attributes:
        method: its name.
        tuned_for: steps that the conversion was tuned for, the probe's length under layer-after-layer schedules.
        schedule: how it ran.
        latency: the four figures of the answer.
        agreement: images whose answer is the ANN's own, in percent.
        error: mean squared difference of the outputs.
        events: spikes per image.
        seconds: wall time of the conversion.
        doubt: the best one mends fewer than two standard deviations of a fair coin more answers than it spoils
            compared with this one; never for the best one itself.
    """

    method: str
    tuned_for: int
    schedule: Schedule
    latency: Latency
    agreement: float
    error: float
    events: float
    seconds: float
    doubt: bool = False

    @property
    def order(self) -> tuple[float, float, float]:
        """Sorts trials, the best one first: agreement, then error, then events."""
        return (-self.agreement, self.error, self.events)


@dataclass(frozen=True)
class Refusal:
    """A method that was not run, and why."""

    method: str
    reason: str


@dataclass(frozen=True, eq=False)
class Choice:
    """What `choose` found.

    Attributes:
        network: converted by the best method with all images; it runs under that method's schedule.
        steps: T to run it for.
        budget: the steps allowed.
        latency: what the budget is for.
        images: number of images that calibrated, and of those held back to judge.
        ranking: every method that was run, the best first.
        refused: the others.
    """

    network: SpikingNetwork
    steps: int
    budget: int
    latency: LatencyKind
    images: tuple[int, int]
    ranking: tuple[Trial, ...]
    refused: tuple[Refusal, ...]


def choose(
    model: nn.Module,
    *,
    calibration: CalibrationData,
    budget: int,
    example_inputs: Inputs | None = None,
    latency: LatencyKind = LatencyKind.ANSWER,
    methods: Iterable[Method] = tuple(METHODS.values()),
    events: Collection[EventKind] = (EventKind.BINARY,),
    held_back: float = 1 / 3,
    seed: int = 0,
    leave: str | Collection[str] = (),
    leaf_modules: LeafModules = (),
    max_pooling: MaxPooling = MaxPooling.RUNNING,
    progress: bool = False,
) -> Choice:
    """Converts a network by each method for a number of steps, and again by the one that answers most like the ANN.

    A part of the images is held back from all conversions; on it, the answers (the largest outputs) are compared with
    those of the network itself. Labels are not used. Between equals the smaller squared difference of the outputs
    decides, then the fewer spikes. Under a pipeline budget a layer-after-layer schedule gets the longest probe that
    leaves as many steps to answer, and what then is left goes to the answer; what does not fit is refused.

    Args:
        model: the trained network, a classifier; it is not changed.
        calibration: training inputs, never those that accuracy is reported on.
        budget: steps that the answer may take, at least 1.
        example_inputs: for `convert`; None takes four of the images.
        latency: how the budget counts.
        methods: what to try.
        events: what neurons may send; by default 0 or 1 per step only.
        held_back: share of the images that judge, in (0, 1).
        seed: of the division of the images.
        leave: as for `convert`.
        leaf_modules: as for `convert`.
        max_pooling: as for `convert`.
        progress: show a progress bar.

    Raises:
        ValueError: budget below 1, or a share outside (0, 1).
        CalibrationError: fewer than two images, or every method was refused; the message has the reasons.
        InputError: the answer is not one tensor ``[N, classes]``.
        TranspikeError: the network does not convert at all.
    """
    model = unwrapped(model, "choose")
    check_weights(model, "choose")
    check_count("budget", budget, most=MOST_STEPS)
    fitted("held_back", held_back, float)
    latency = fitted("latency", latency, LatencyKind)
    if not 0.0 < held_back < 1.0:
        raise ValueError(f"held_back must lie in (0, 1), got {held_back}")
    methods = tuple(methods)
    data = list(batches_of(calibration))
    reference = reference_tensor(model)
    example = _first(data) if example_inputs is None else inputs_from(example_inputs)
    example = tuple(tensor.to(reference.device, reference.dtype) for tensor in example)
    capture = Capture.of(model, leave, leaf_modules, max_pooling)
    frame = restore(model, example, Conversion(), capture)
    chosen, judges = _divide(frame, data, held_back, seed)

    def converted(method: Method, tuned_for: int, inputs: tuple[Tensor, ...]) -> SpikingNetwork:
        batches = list(zip(*(torch.split(tensor, _BATCH) for tensor in inputs), strict=True))
        return convert(
            model,
            method(tuned_for),
            calibration=batches,
            example_inputs=example,
            leave=capture.leave,
            leaf_modules=capture.leaf_modules,
            max_pooling=capture.max_pooling,
        )

    judge = _Judge(frame, judges)
    trials: list[Trial] = []
    hits: dict[str, Tensor] = {}
    refused: list[Refusal] = []
    with torch.no_grad(), ProgressBar("methods", len(methods), progress) as bar:
        for method in methods:
            bar.rename(method.name)
            try:
                tuned_for, steps = _fit(frame, method, budget, latency, events)
                began = time.perf_counter()
                snn = converted(method, tuned_for, chosen)
                seconds = time.perf_counter() - began
                hits[method.name], error, sent = judge.score(snn, steps)
                agreement = 100.0 * float(hits[method.name].double().mean())
                found = (snn.schedule, snn.latency(steps), agreement, error, sent, seconds)
                trials.append(Trial(method.name, tuned_for, *found))
            except (TranspikeError, ValueError) as problem:
                refused.append(Refusal(method.name, reason(problem)))
            bar.advance()
        if not trials:
            reasons = "; ".join(f"{refusal.method}: {refusal.reason}" for refusal in refused)
            raise CalibrationError(
                f"no method fits: {reasons or 'none was given'}", fix="allow more steps, or other events"
            )
        ranking = _rank(trials, hits)
        best = ranking[0]
        method = next(method for method in methods if method.name == best.method)
        bar.rename(f"{method.name} with all images")
        everything = tuple(torch.cat(pair) for pair in zip(chosen, judges, strict=True))
        network = converted(method, best.tuned_for, everything)
    images = (chosen[0].shape[0], judges[0].shape[0])
    return Choice(network, best.latency.answer_steps, budget, latency, images, ranking, tuple(refused))


def _first(data: Sequence[object]) -> tuple[Tensor, ...]:
    """Four samples of the first batch, for models with one argument."""
    first = data[0] if data else None
    first = first[0] if isinstance(first, list | tuple) and first else first
    if not isinstance(first, Tensor):
        raise CalibrationError(
            "there are no images", where="calibration", fix="pass a tensor or batches; a used-up iterator gives none"
        )
    return (first[:4],)


def _divide(
    frame: SpikingNetwork, data: Sequence[object], held_back: float, seed: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The images that calibrate and those that judge; whatever follows the inputs in a batch is dropped here."""
    batches = [checked_inputs(frame.network, batch, index) for index, batch in enumerate(data)]
    inputs = tuple(torch.cat(tensors) for tensors in zip(*batches, strict=True))
    images = inputs[0].shape[0]
    if images < 2:
        raise CalibrationError(
            "one image cannot be divided into some that calibrate and others that judge",
            where="calibration",
            fix="pass some hundred training images",
        )
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed)).to(inputs[0].device)
    judges = min(max(1, round(held_back * images)), images - 1)
    return tuple(tensor[order[judges:]] for tensor in inputs), tuple(tensor[order[:judges]] for tensor in inputs)


def _fit(
    frame: SpikingNetwork, method: Method, budget: int, latency: LatencyKind, allowed: Collection[EventKind]
) -> tuple[int, int]:
    """Steps to tune for, and T.

    Raises:
        ValueError: the neuron sends what is not allowed, or the budget is too small.
    """
    kind = method(budget).events
    if kind not in allowed:
        names = ", ".join(each.value for each in allowed)
        raise ValueError(f"its neurons send {kind.value} events, allowed are: {names}")
    if latency is LatencyKind.ANSWER:
        return budget, budget
    for steps in range(budget, 0, -1):
        taken = frame.latency(steps, method(steps).schedule).pipeline_steps
        if taken <= budget:
            return steps, steps + budget - taken
    raise ValueError(f"it takes at least {taken} pipeline steps, the budget is {budget}")


class _Judge:
    """Compares answers with those of the source network."""

    def __init__(self, frame: SpikingNetwork, inputs: tuple[Tensor, ...]) -> None:
        self.inputs = inputs
        with torch.no_grad():
            self.wanted = torch.cat([self._matrix(frame.ann(*piece)) for piece in self._pieces()])

    def score(self, snn: SpikingNetwork, steps: int) -> tuple[Tensor, float, float]:
        """Which answers ``[N]`` are the source's, the mean squared difference of the outputs, spikes per image."""
        sent = SentSpikes([snn.timing(steps)])
        answer = torch.cat([self._matrix(snn(*piece, steps=steps, count=sent)[-1]) for piece in self._pieces()])
        events = sum(total for (total,) in sent.totals.values())
        error = float((answer - self.wanted).square().mean(dtype=torch.float64))
        return answer.argmax(1) == self.wanted.argmax(1), error, events / answer.shape[0]

    def _pieces(self) -> Iterable[tuple[Tensor, ...]]:
        return zip(*(torch.split(tensor, _BATCH) for tensor in self.inputs), strict=True)

    @staticmethod
    def _matrix(answer: object) -> Tensor:
        if not isinstance(answer, Tensor) or answer.dim() != 2:
            raise InputError(
                "choose needs one output of shape [N, classes]",
                where="the model's answer",
                fix="wrap the model so that it returns its logits",
            )
        return answer


def _rank(trials: list[Trial], hits: dict[str, Tensor]) -> tuple[Trial, ...]:
    """The best first; says of the others whether chance may have put them behind."""
    best, *others = sorted(trials, key=lambda trial: trial.order)
    ranked = [best]
    for trial in others:
        mended = int((hits[best.method] & ~hits[trial.method]).sum())
        spoilt = int((~hits[best.method] & hits[trial.method]).sum())
        ranked.append(replace(trial, doubt=mended - spoilt <= 2.0 * (mended + spoilt) ** 0.5))
    return tuple(ranked)
