"""Everything that a report shows about one converted network, measured by the library's own functions."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from transpike.data import Data, loader, test_images
from transpike.errors import InputError, needs_extra
from transpike.evaluation.causes import ErrorCauses, error_causes
from transpike.evaluation.evaluate import evaluate
from transpike.evaluation.offsets.counts import checked_batches
from transpike.evaluation.offsets.spikes import Offsets, iterated_schedules, offset_spikes
from transpike.evaluation.one_image import ImageAnswers, ImageEvents, image_answers, image_events
from transpike.evaluation.operations import Operations, count_ann_operations, count_operations
from transpike.evaluation.report import Report
from transpike.graph.walk import NodeVisitor
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import Schedule
from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.digest import digest, digest_batches
from transpike.serialization.environment import Environment, environment
from transpike.serialization.fields import check_count, check_fields
from transpike.serialization.json_records import to_json
from transpike.serialization.model_info import InputSpec, model_info

_EVENT_BITS = 2_500_000
"""Of the events of one image, all sites and steps: more neurons are left out."""
_LEAST_SHOWN = 256


@dataclass(frozen=True)
class StudySettings:
    """What to measure.

    Attributes:
        steps: the largest T.
        images: test images for accuracy: ``all``, ``fixed`` or a number.
        detail_images: the first so many of these for causes, offsets and answers.
        counted_images: the first so many of these for operations.
        probe_steps: rho of offset spikes.
        examples: pictures with their answers.
        raster: number of the test image whose events are shown; None is the example that changes most.
        batch_size: images that run at once.
    """

    steps: int = 8
    images: str = "all"
    detail_images: int = 200
    counted_images: int = 50
    probe_steps: int = 4
    examples: int = 12
    raster: int | None = None
    batch_size: int = 50

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("steps", "probe_steps"):
            check_count(name, getattr(self, name), most=MOST_STEPS)
        for name in ("detail_images", "counted_images", "batch_size"):
            check_count(name, getattr(self, name))
        check_count("examples", self.examples, 0)
        if self.raster is not None:
            check_count("raster", self.raster, 0)


@dataclass(frozen=True)
class CountedRun:
    """Operations of one schedule.

    Attributes:
        label: the schedule.
        steps: T.
        top1: accuracy in percent on all images of the study; None for a T without a row.
        operations: per image.
    """

    label: str
    steps: int
    top1: float | None
    operations: Operations


@dataclass(frozen=True)
class Example:
    """One image and its answers.

    Attributes:
        answers: by both networks.
        png: the picture in base64; empty for data that is no picture.
    """

    answers: ImageAnswers
    png: str


@dataclass(frozen=True)
class Study:
    """What `study_network` found; plain values only, see `to_json`.

    Attributes:
        name: of the network.
        conversion: how it was converted, in words.
        schedule: its own schedule, in words.
        neurons: of all sites.
        dataset: name of the data set.
        about_data: its sizes in words.
        classes: their names; empty if the data has none.
        settings: what was measured.
        relu_top1: accuracy in percent with ReLU in place of every activation, the same weights.
        reports: accuracy, spikes and latency by label of the schedule.
        main: label of the schedule that all details are about.
        baseline: the same of a converted plain ReLU network, by label; empty without one.
        rows: reports of a recipe's rows, by label; empty without a recipe.
        causes: error by cause at the largest T.
        offsets: offset spikes without and with calibration (COS), by label; empty where they are not defined.
        no_offsets: why they are not defined, else empty.
        ann_operations: per image.
        operations: by schedule and T.
        events: of one image.
        event_png: its picture.
        examples: images with their answers.
        agreement: share of the detail images with the ANN's answer after 1 .. T steps.
        environment: where and when.
        data_digest: of the test images and labels.
        network_digest: of the network and its conversion.
        origin: how the numbers can be made again: lines of text.
    """

    name: str
    conversion: str
    schedule: str
    neurons: int
    dataset: str
    about_data: str
    classes: tuple[str, ...]
    settings: StudySettings
    relu_top1: float
    reports: Mapping[str, Report]
    main: str
    baseline: Mapping[str, Report]
    rows: Mapping[str, Report]
    causes: ErrorCauses
    offsets: Mapping[str, Offsets]
    no_offsets: str
    ann_operations: Operations
    operations: tuple[CountedRun, ...]
    events: ImageEvents
    event_png: str
    examples: tuple[Example, ...]
    agreement: tuple[float, ...]
    environment: Environment
    data_digest: str
    network_digest: str
    origin: tuple[str, ...] = field(default=())

    @property
    def report(self) -> Report:
        """The report of the schedule that all details are about."""
        return self.reports[self.main]

    def class_name(self, index: int) -> str:
        """The name of a class, else its number."""
        return self.classes[index] if index < len(self.classes) else str(index)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        record: dict[str, Any] = to_json(self)
        return record


def study_network(
    snn: SpikingNetwork,
    data: Data,
    schedules: Mapping[str, Schedule],
    settings: StudySettings | None = None,
    *,
    at: Mapping[str, Sequence[int]] | None = None,
    baseline: SpikingNetwork | None = None,
    rows: Mapping[str, Report] | None = None,
    name: str = "",
    origin: Sequence[str] = (),
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Study:
    """Measures everything that a report shows.

    Args:
        snn: the converted network, a classifier of one input, on the device where it is to run.
        data: the data set, of which test images are used.
        schedules: by label; the first one is used where one is needed. Empty runs the network's own.
        settings: None is `StudySettings` as it stands.
        at: the rows wanted by label of a schedule; other schedules have all T.
        baseline: a converted plain ReLU network to compare with, under its own schedule.
        rows: reports of other conversions to show beside it, such as a recipe's.
        name: of the network; empty takes the one that it was built by.
        origin: lines that say how to make the numbers again.
        progress: show progress bars.
        say: called with a line about each part.

    Raises:
        ValueError: an image number that is not there.
        InputError, DataError: see `evaluate`; or the network takes several inputs.
    """
    snn = converted(snn, "study_network")
    settings = StudySettings() if settings is None else settings
    schedules = dict(schedules) or {str(snn.schedule).split(" ")[0]: snn.schedule}
    main = next(iter(schedules.values()))
    steps, tests = settings.steps, test_images(data, settings.images)
    there = len(tests)  # type: ignore[arg-type]
    if settings.raster is not None and settings.raster >= there:
        raise ValueError(f"there is no image {settings.raster}: the test images have the numbers 0 to {there - 1}")
    everything, few = loader(tests, settings.batch_size), loader(tests, settings.batch_size, settings.detail_images)
    counted = loader(tests, settings.batch_size, settings.counted_images)
    began = environment()  # before the work, whose code is the checkout's now

    def run(network: SpikingNetwork, label: str, schedule: Schedule, rows_at: Sequence[int]) -> Report:
        report = evaluate(network, everything, steps=max(rows_at), schedule=schedule, at=rows_at, progress=progress)
        say(f"{label}: T = {report.rows[-1].steps}, {report.rows[-1].top1:.2f} % (ANN {report.ann_top1:.2f} %)")
        return report

    every = tuple(range(1, steps + 1))
    wanted = {label: tuple((at or {}).get(label, every)) for label in schedules}
    reports = {label: run(snn, label, schedule, wanted[label]) for label, schedule in schedules.items()}
    others = {} if baseline is None else {"ReLU baseline": run(baseline, "baseline", baseline.schedule, every)}
    say("causes of error, offset spikes, operations, single images")
    offsets, no_offsets = _offsets(snn, few, main, settings, progress)
    answers = image_answers(snn, few, steps=steps, schedule=main, progress=progress)
    chosen = choose_examples(answers, settings.examples)
    raster = settings.raster if settings.raster is not None else (chosen or answers)[0].image
    inputs = model_info(snn.network).inputs or data.inputs
    image, label = tests[raster]
    bits = _EVENT_BITS // (steps * len(snn.sites))
    events = image_events(
        snn,
        torch.as_tensor(image),
        steps=steps,
        schedule=main,
        number=raster,
        label=int(label),
        most_neurons=max(_LEAST_SHOWN, bits),
    )
    return Study(
        name=name or _name(snn),
        conversion=str(snn.conversion),
        schedule=str(snn.schedule),
        neurons=sum(site.neurons for site in snn.sites),
        dataset=data.inputs.dataset,
        about_data=str(data),
        classes=data.inputs.classes,
        settings=settings,
        relu_top1=relu_accuracy(snn, everything, progress=progress),
        reports=reports,
        main=next(iter(schedules)),
        baseline=others,
        rows=dict(rows or {}),
        causes=error_causes(snn, few, steps=steps, schedule=main, progress=progress),
        offsets=offsets,
        no_offsets=no_offsets,
        ann_operations=count_ann_operations(snn, counted, progress=progress),
        operations=_operations(snn, counted, schedules, reports, progress),
        events=events,
        event_png=picture(torch.as_tensor(image), inputs),
        examples=tuple(Example(each, picture(torch.as_tensor(tests[each.image][0]), inputs)) for each in chosen),
        agreement=_agreement(answers),
        environment=began,
        data_digest=digest_batches(everything),
        network_digest=digest("converted", snn.network, snn.capture, snn.conversion),
        origin=tuple(origin),
    )


def relu_accuracy(snn: SpikingNetwork, batches: Iterable[Any], *, progress: bool = False) -> float:
    """Top-1 accuracy in percent of the source network with ReLU in place of every activation, the same weights."""
    labels = torch.cat([batch[1] for batch in batches])
    hits = seen = 0
    for inputs in checked_batches(snn, batches, "plain ReLU", progress):
        with torch.no_grad():
            outputs = NodeVisitor(snn.network, on_site=lambda _, __, args: args[0].clamp_min(0.0)).run(*inputs)
        size = inputs[0].shape[0]
        hits += int((outputs.argmax(-1).cpu() == labels[seen : seen + size]).sum())
        seen += size
    return 100.0 * hits / seen


def choose_examples(answers: Sequence[ImageAnswers], count: int) -> list[ImageAnswers]:
    """So many images: half of them wrong in the end where there are as many, those that settle last first."""
    order = sorted(answers, key=lambda each: (-each.settled, -each.changes, each.image))
    right = [each for each in order if each.answers[-1] == each.label]
    wrong = [each for each in order if each.answers[-1] != each.label]
    half = min(len(wrong), max(count // 2, count - len(right)))
    return [*right[: count - half], *wrong[:half]]


def picture(image: Tensor, inputs: InputSpec) -> str:
    """A PNG in base64 of one input, its normalisation undone; empty if it is no picture of one or three channels."""
    if image.dim() != 3 or image.shape[0] not in (1, 3):
        return ""
    with needs_extra("plots", "a picture"):
        from PIL import Image

    values = image.double()
    if len(inputs.mean) == image.shape[0]:
        mean, std = (torch.tensor(each, dtype=torch.float64).reshape(-1, 1, 1) for each in (inputs.mean, inputs.std))
        values = values * std + mean
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if image.shape[0] == 1 else pixels).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _agreement(answers: Sequence[ImageAnswers]) -> tuple[float, ...]:
    """Share of images with the ANN's answer at every T."""
    same = torch.tensor([[answer == each.ann for answer in each.answers] for each in answers])
    return tuple(same.double().mean(0).tolist())


def _offsets(
    snn: SpikingNetwork, batches: Iterable[Any], main: Schedule, settings: StudySettings, progress: bool
) -> tuple[dict[str, Offsets], str]:
    """Offset spikes of plain and of COS, or why there are none."""
    if main.incremental:
        return {}, f"{main} sends digits, of which none is a spike too many or too few"
    rho = settings.probe_steps
    try:
        return offset_spikes(snn, batches, iterated_schedules(rho, 1), probe_steps=rho, progress=progress), ""
    except InputError as error:
        return {}, f"{error.what}; {error.where}"


def _operations(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    schedules: Mapping[str, Schedule],
    reports: Mapping[str, Report],
    progress: bool,
) -> tuple[CountedRun, ...]:
    """Operations at the powers of two among the rows of a report, and at its last one."""
    return tuple(
        CountedRun(
            label,
            row.steps,
            row.top1,
            count_operations(snn, batches, steps=row.steps, schedule=schedules[label], progress=progress),
        )
        for label, report in reports.items()
        for row in report.rows
        if row.steps & (row.steps - 1) == 0 or row is report.rows[-1]
    )


def _name(snn: SpikingNetwork) -> str:
    source = model_info(snn.network).source
    return type(snn.network).__name__ if source is None else source.name


__all__ = ["CountedRun", "Example", "Study", "StudySettings", "choose_examples", "picture", "study_network"]
