"""Built-in networks by name: with fresh weights, or trained ones with a card that says how."""

from __future__ import annotations

from transpike.architectures import (
    VGG16,
    WEIGHTS_VARIABLE,
    ZOO,
    AlexNet,
    CIFARNet,
    CifarResNet20,
    DigitsResNet,
    ResNet,
    ZooEntry,
    build,
    load_weights,
)
from transpike.zoo.cards import ModelCard, ScheduleAccuracy, TrainingFacts
from transpike.zoo.trained import add, card, cards, load, weights_file

__all__ = [
    "VGG16",
    "WEIGHTS_VARIABLE",
    "ZOO",
    "AlexNet",
    "CIFARNet",
    "CifarResNet20",
    "DigitsResNet",
    "ModelCard",
    "ResNet",
    "ScheduleAccuracy",
    "TrainingFacts",
    "ZooEntry",
    "add",
    "build",
    "card",
    "cards",
    "load",
    "load_weights",
    "weights_file",
]
