"""Model cards: what a trained network is, how it was trained, and how it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from transpike.activations import ActivationSettings
from transpike.rules import ThroughTime
from transpike.serialization.fields import ADDED, check_count, check_fields

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}|")


@dataclass(frozen=True)
class TrainingFacts:
    """How a network was trained.

    Attributes:
        about: optimizer, schedule, loss and augmentation in words.
        epochs: passes over the training images.
        learning_rate: initial.
        weight_decay: on all parameters.
        batch_size: images per step.
        seed: of weights, order and augmentation.
        start: the network that it went on from, in words; empty where its weights were fresh.
        training_images: how many; the others were held back.
    """

    about: str
    epochs: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    seed: int
    start: str
    training_images: int

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in {"epochs": 1, "batch_size": 1, "training_images": 1, "seed": 0}.items():
            check_count(name, getattr(self, name), least)
        if not self.about:
            raise ValueError("about must say in words how the network was trained")


@dataclass(frozen=True)
class ScheduleAccuracy:
    """Top-1 accuracy of the converted network under one schedule.

    Attributes:
        conversion: how the network was converted, in words.
        schedule: how it ran, in words.
        top1: percent, by T.
        pipeline_steps: pipeline latency by T.
    """

    conversion: str
    schedule: str
    top1: Mapping[int, float]
    pipeline_steps: Mapping[int, int]

    def __post_init__(self) -> None:  # JSON has no numbers as keys
        top1 = {int(t): float(value) for t, value in self.top1.items()}
        pipeline = {int(t): int(value) for t, value in self.pipeline_steps.items()}
        object.__setattr__(self, "top1", dict(sorted(top1.items())))
        object.__setattr__(self, "pipeline_steps", dict(sorted(pipeline.items())))
        if not self.top1 or set(self.top1) != set(self.pipeline_steps):
            raise ValueError("top1 and pipeline_steps must hold the same numbers of steps, at least one")
        if not all(0 <= value <= 100 for value in self.top1.values()):
            raise ValueError(f"top1 must hold percentages, got {list(self.top1.values())}")


@dataclass(frozen=True)
class ModelCard:
    """What is known of trained weights.

    Attributes:
        name: of the network and of its file.
        network: the architecture, a name of `ZOO`.
        activation: what its ReLUs became; None for ReLU.
        dataset: name of the data set.
        mean: of the preparation, per channel, subtracted from values in [0, 1].
        std: per channel, divided by.
        training: how it was trained.
        test_images: how many images the accuracies are of.
        ann_top1: accuracy of the ANN, in percent; where the network is converted, of the ANN that it came from.
        schedules: accuracies of converted networks; where the network is converted, of itself.
        record: file in ``results/`` that the accuracies were read from.
        licence: of the weights.
        sha256: of the file of weights.
        through_time: how it was trained after its conversion; None for an ANN.
    """

    name: str
    network: str
    activation: ActivationSettings | None
    dataset: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    training: TrainingFacts
    test_images: int
    ann_top1: float
    schedules: tuple[ScheduleAccuracy, ...]
    record: str
    licence: str = "MIT"
    sha256: str = ""
    through_time: ThroughTime | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("test_images", self.test_images)
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must be of small letters, digits, points and hyphens, got {self.name!r}")
        if not _SHA256.fullmatch(self.sha256):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, got {self.sha256!r}")
        if not 0 <= self.ann_top1 <= 100:
            raise ValueError(f"ann_top1 must be a percentage, got {self.ann_top1}")
