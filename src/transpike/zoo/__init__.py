"""Built-in networks, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from transpike.card import Card, CardedModule, InputSpec, ModelSource
from transpike.errors import ModelError
from transpike.zoo.digits import DigitsResNet
from transpike.zoo.resnet20 import CifarResNet20
from transpike.zoo.weights import load_weights

__all__ = ["ZOO", "CifarResNet20", "DigitsResNet", "ZooEntry", "build", "load_weights"]


@dataclass(frozen=True)
class ZooEntry:
    """One built-in network.

    Attributes:
        build: returns the network with fresh weights, from keyword options.
        inputs: what it expects by default.
        about: one line for listings.
    """

    build: Callable[..., CardedModule]
    inputs: InputSpec
    about: str


_CIFAR = InputSpec((3, 32, 32), dataset="cifar10")

ZOO: Mapping[str, ZooEntry] = {
    "digits-resnet": ZooEntry(
        DigitsResNet, InputSpec((1, 8, 8), dataset="digits"), "a ResNet-20 in miniature for 8x8 handwritten digits"
    ),
    "cifar-resnet20": ZooEntry(
        CifarResNet20, _CIFAR, "ResNet-20 for 32x32 images, parameter-free shortcuts (option A), functional ReLU"
    ),
    "cifar-resnet20-conv": ZooEntry(
        lambda **options: CifarResNet20(**{"shortcut": "conv", **options}),
        _CIFAR,
        "ResNet-20 as the conversion papers use it: 1x1 convolution with BatchNorm in the shortcuts",
    ),
}


def build(name: str, **options: Any) -> CardedModule:
    """Builds a network of the zoo with fresh weights.

    Args:
        name: a key of `ZOO`.
        options: keyword arguments of its builder, kept in its card.

    Raises:
        ModelError: unknown name or option.
    """
    if name not in ZOO:
        raise ModelError(f"there is no built-in network {name!r}", fix=f"known: {', '.join(sorted(ZOO))}")
    entry = ZOO[name]
    try:
        model = entry.build(**options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} refuses its options: {error}", where=str(options)) from error
    model.card = Card(ModelSource(name, dict(options)), replace(entry.inputs))
    return model
