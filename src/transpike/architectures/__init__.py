"""Architectures: networks by name, with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from transpike.architectures.digits import DigitsResNet
from transpike.architectures.libraries import DOWNLOADS, LIBRARIES
from transpike.architectures.resnet import ResNet
from transpike.architectures.resnet20 import CifarResNet20
from transpike.architectures.vgg import VGG16
from transpike.architectures.weights import WEIGHTS_VARIABLE, load_weights
from transpike.architectures.wide_cnn import AlexNet, CIFARNet
from transpike.errors import ModelError, known_words
from transpike.serialization.model_info import InputSpec, ModelInfo, ModelSource, set_model_info

__all__ = [
    "VGG16",
    "WEIGHTS_VARIABLE",
    "ZOO",
    "AlexNet",
    "CIFARNet",
    "CifarResNet20",
    "DigitsResNet",
    "ResNet",
    "ZooEntry",
    "build",
    "load_weights",
]


@dataclass(frozen=True)
class ZooEntry:
    """One built-in network.

    Attributes:
        build: returns the network with fresh weights, from keyword options.
        inputs: what it expects by default.
        about: one line for listings.
    """

    build: Callable[..., nn.Module]
    inputs: InputSpec
    about: str


_CIFAR = InputSpec((3, 32, 32), dataset="cifar10")
_IMAGENET = InputSpec((3, 224, 224), dataset="imagenet")


def _preset(cls: Callable[..., nn.Module], **preset: Any) -> Callable[..., nn.Module]:
    """The builder of a variant: ``cls`` with other defaults."""
    return lambda **options: cls(**{**preset, **options})


ZOO: Mapping[str, ZooEntry] = {
    "digits-resnet": ZooEntry(
        DigitsResNet, InputSpec((1, 8, 8), dataset="digits"), "a ResNet-20 in miniature for 8x8 handwritten digits"
    ),
    "cifar-resnet20": ZooEntry(
        CifarResNet20, _CIFAR, "ResNet-20 for 32x32 images, parameter-free shortcuts (option A), functional ReLU"
    ),
    "cifar-resnet20-conv": ZooEntry(
        _preset(CifarResNet20, shortcut="conv"),
        _CIFAR,
        "ResNet-20 as the conversion papers use it: 1x1 convolution with BatchNorm in the shortcuts",
    ),
    "cifar-vgg16": ZooEntry(VGG16, _CIFAR, "VGG-16 of the papers: two hidden layers of 4096 behind 32x32 images"),
    "cifar-vgg16-linear": ZooEntry(_preset(VGG16, head="linear"), _CIFAR, "VGG-16 with one linear layer as head"),
    "cifar-resnet18": ZooEntry(ResNet, _CIFAR, "ResNet-18 of the papers: 3x3 stem, no pooling"),
    "cifar-resnet34": ZooEntry(_preset(ResNet, depth=34), _CIFAR, "ResNet-34 with a 3x3 stem, no pooling"),
    "cifarnet": ZooEntry(CIFARNet, _CIFAR, "CIFARNet of Wu et al. 2019, average pooling"),
    "cifar-alexnet": ZooEntry(AlexNet, _CIFAR, "AlexNet for 32x32 images of Wu et al. 2019, average pooling"),
    "imagenet-vgg16": ZooEntry(
        _preset(VGG16, classes=1000, image_size=224), _IMAGENET, "VGG-16 with BatchNorm for 224x224 images"
    ),
    "imagenet-resnet18": ZooEntry(
        _preset(ResNet, classes=1000, stem="imagenet"), _IMAGENET, "ResNet-18 with the 7x7 stem and max-pooling"
    ),
    "imagenet-resnet34": ZooEntry(
        _preset(ResNet, depth=34, classes=1000, stem="imagenet"), _IMAGENET, "ResNet-34 with the 7x7 stem"
    ),
    "imagenet-resnet34-papers": ZooEntry(
        _preset(ResNet, depth=34, classes=1000),
        _IMAGENET,
        "ResNet-34 as QCFS, SlipReLU and COS run it on ImageNet: 3x3 stem, no pooling, about 16 times the work",
    ),
}


def build(name: str, **options: Any) -> nn.Module:
    """Builds a network with fresh weights.

    Args:
        name: a key of `ZOO`, ``torchvision:NAME`` or ``timm:NAME``.
        options: keyword arguments of its builder. They are kept with the network, so that it can be built again, but
            not those that download weights.

    Raises:
        ModelError: unknown name or option.
        MissingExtraError: torchvision is not installed.
    """
    return _build(name, options)


def build_untrained(name: str, options: Mapping[str, Any]) -> nn.Module:
    """As `build`, for options that come from a file: those that fetch or read weights are refused.

    Raises:
        ModelError: see `build`; or such an option.
    """
    fetching = sorted(set(options) & set(DOWNLOADS))
    if fetching:
        raise ModelError(f"a file must not ask for {fetching[0]}", fix="make the file again")
    return _build(name, dict(options))


def _build(name: str, options: dict[str, Any]) -> nn.Module:
    library, _, own = name.partition(":")
    if own and library in LIBRARIES:
        model, inputs = LIBRARIES[library](own, options)
    elif name in ZOO:
        inputs = replace(ZOO[name].inputs)
        try:
            model = ZOO[name].build(**options)
        except (TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{name} refuses its options: {error}", where=str(options)) from error
    else:
        raise ModelError(f"there is no built-in network {name!r}", fix=known_words(name, ZOO))
    kept = {key: value for key, value in options.items() if key not in DOWNLOADS}
    set_model_info(model, ModelInfo(ModelSource(name, kept), inputs))
    return model
