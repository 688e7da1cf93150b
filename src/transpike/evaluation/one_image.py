"""What single images do in a spiking network: every event of one, and the answers to many at every T."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transpike.errors import InputError
from transpike.evaluation.offsets.counts import checked_batches
from transpike.network.spiking import SpikingNetwork, converted
from transpike.schedules import Schedule
from transpike.schedules.contract import check_schedule
from transpike.serialization.fields import check_count


@dataclass(frozen=True)
class SiteEvents:
    """The events of one site for one image.

    Attributes:
        site: its name.
        shape: of the neurons that are kept, channels first: ``(C, H, W)``, or fewer dimensions.
        neurons: how many the site has.
        kept: numbers of the channels that are kept.
        totals: events of the whole site at every step that it sends, in absolute numbers.
        rows: the kept neurons' events at every step as hexadecimal bits, the first neuron highest; signs and numbers
            of events are left out.
    """

    site: str
    shape: tuple[int, ...]
    neurons: int
    kept: tuple[int, ...]
    totals: tuple[int, ...]
    rows: tuple[str, ...]

    def events(self) -> Tensor:
        """The kept events as ``[S, *shape]`` of 0 and 1."""
        size = 1
        for each in self.shape:
            size *= each
        bits = [[int(bit) for bit in f"{int(row, 16):0{4 * len(row)}b}"[:size]] for row in self.rows]
        return torch.tensor(bits).reshape(-1, *self.shape)


@dataclass(frozen=True)
class ImageEvents:
    """One image in a spiking network.

    Attributes:
        image: its number in the data.
        label: its class.
        schedule: in words.
        sites: in execution order.
        answers: the answer after every step, ``[T][classes]``.
        ann: the outputs of the source network.
    """

    image: int
    label: int
    schedule: str
    sites: tuple[SiteEvents, ...]
    answers: tuple[tuple[float, ...], ...]
    ann: tuple[float, ...]


@dataclass(frozen=True)
class ImageAnswers:
    """The classes that an image was given.

    Attributes:
        image: its number in the data.
        label: its class.
        ann: the source network's class.
        answers: the spiking network's after 1 .. T steps.
        confidence: the softmax of the answer's class after every step.
    """

    image: int
    label: int
    ann: int
    answers: tuple[int, ...]
    confidence: tuple[float, ...]

    @property
    def changes(self) -> int:
        """How often the answer changes from one T to the next."""
        return sum(a != b for a, b in zip(self.answers, self.answers[1:], strict=False))

    @property
    def settled(self) -> int:
        """The smallest T from which on the answer is the last one."""
        return max((t + 1 for t, answer in enumerate(self.answers, 1) if answer != self.answers[-1]), default=1)


def image_answers(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    *,
    steps: int,
    schedule: Schedule | None = None,
    progress: bool = False,
) -> tuple[ImageAnswers, ...]:
    """The answer to every image after 1 .. ``steps`` steps.

    Args:
        snn: a classifier.
        batches: pairs ``(images [N, *], class indices [N])``.
        steps: the largest T.
        schedule: how the network runs; None is the network's own schedule.
        progress: show a progress bar.

    Raises:
        ValueError: steps below 1, or no schedule.
        InputError, DataError: unusable batches, or none.
    """
    snn = converted(snn, "image_answers")
    check_count("steps", steps)
    how = snn.schedule if schedule is None else check_schedule(schedule)
    found: list[ImageAnswers] = []
    labels = [int(label) for batch in batches for label in batch[1]]
    for inputs in checked_batches(snn, batches, f"answers at T = 1 .. {steps}", progress):
        with torch.no_grad():
            lengths = [steps] if how.prefix_consistent else range(1, steps + 1)
            rows = [snn(*inputs, steps=length, schedule=how) for length in lengths]
            outputs = rows[0] if how.prefix_consistent else torch.stack([row[-1] for row in rows])
            confidence, answers = outputs.float().softmax(-1).max(-1)
            ann = snn.ann(*inputs).argmax(-1)
        for index in range(inputs[0].shape[0]):
            number = len(found)
            found.append(
                ImageAnswers(
                    number,
                    labels[number],
                    int(ann[index]),
                    tuple(answers[:, index].tolist()),
                    tuple(round(value, 4) for value in confidence[:, index].tolist()),
                )
            )
    return tuple(found)


def image_events(
    snn: SpikingNetwork,
    image: Tensor,
    *,
    steps: int,
    schedule: Schedule | None = None,
    number: int = 0,
    label: int = 0,
    most_neurons: int = 16_384,
) -> ImageEvents:
    """Every event of one image.

    Args:
        snn: a classifier of one input.
        image: ``[*]``, without batch.
        steps: T.
        schedule: how the network runs; None is the network's own schedule. Of several passes the last one is kept.
        number: of the image, for the record.
        label: its class, for the record.
        most_neurons: of larger sites evenly spaced channels are kept, at least one.

    Raises:
        ValueError: steps or most_neurons below 1, or no schedule.
        InputError: the network refuses the image.
    """
    snn = converted(snn, "image_events")
    check_count("steps", steps)
    check_count("most_neurons", most_neurons)
    how = snn.schedule if schedule is None else check_schedule(schedule)
    seen: dict[str, list[Tensor]] = {}

    def look(name: str, drive: Tensor, events: Tensor) -> None:
        parts = seen.setdefault(name, [])
        if how.passes > 1:
            parts.clear()
        parts.append(events[:, 0])

    (batch,) = checked_batches(snn, image.unsqueeze(0), "one image", False)
    with torch.no_grad():
        answers = snn(*batch, steps=steps, schedule=how, observe=look)
        ann = snn.ann(*batch)
    if not isinstance(answers, Tensor) or answers.dim() != 3:
        raise InputError(
            "the events of one image are shown beside one answer per class",
            where="the model's answer",
            fix="wrap the model to return its logits [N, classes]",
        )
    sites = tuple(_site_events(site.name, torch.cat(seen[site.name]), most_neurons) for site in snn.sites)
    rows = tuple(tuple(round(value, 4) for value in row) for row in answers[:, 0].tolist())
    return ImageEvents(number, label, str(how), sites, rows, tuple(round(value, 4) for value in ann[0].tolist()))


def _site_events(name: str, events: Tensor, most: int) -> SiteEvents:
    """The record of events ``[S, C, *]``."""
    channels, each = events.shape[1], events[0, 0].numel()
    kept = min(channels, max(1, most // each))
    chosen = [index * channels // kept for index in range(kept)]
    part = events[:, chosen]
    return SiteEvents(
        name,
        tuple(part.shape[1:]),
        events[0].numel(),
        tuple(chosen),
        tuple(events.abs().flatten(1).sum(1).long().tolist()),
        tuple(_hexadecimal(row) for row in (part != 0).flatten(1)),
    )


def _hexadecimal(bits: Tensor) -> str:
    """Bits as hexadecimal digits, zeros behind them up to a whole byte."""
    text = "".join("1" if bit else "0" for bit in bits.tolist())
    text += "0" * (-len(text) % 8)
    return f"{int(text, 2):0{len(text) // 4}x}"
