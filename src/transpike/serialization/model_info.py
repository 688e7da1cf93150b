"""What a network says about itself: how to rebuild it and what it expects at its input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

_META = "transpike_info"


@dataclass(frozen=True)
class ModelSource:
    """A network that `transpike.zoo.build` makes.

    Attributes:
        name: built in, or ``torchvision:NAME`` or ``timm:NAME``.
        options: keyword arguments of its builder.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InputSpec:
    """What goes in and what the answers mean.

    Attributes:
        shape: one sample, ``(channels, height, width)`` for images.
        mean: per channel, subtracted from values scaled to [0, 1].
        std: per channel, divided by.
        classes: names of the classes, in the order of the outputs.
        dataset: name of the data set.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    dataset: str = ""

    def __post_init__(self) -> None:
        if not self.shape or any(size < 1 for size in self.shape):
            raise ValueError(f"shape must hold positive sizes, got {self.shape}")
        if len(self.mean) != len(self.std) or any(value <= 0 for value in self.std):
            raise ValueError(f"mean and std must have equal length, std positive; got {self.mean} and {self.std}")


@dataclass(frozen=True)
class ModelInfo:
    """Travels with a network through `tailor`, `convert`, `save` and `load`."""

    source: ModelSource | None = None
    inputs: InputSpec | None = None


def model_info(model: nn.Module) -> ModelInfo:
    """The info of a network; an empty one for models that have none."""
    found = model.meta.get(_META) if isinstance(model, fx.GraphModule) else vars(model).get(_META)
    return found if isinstance(found, ModelInfo) else ModelInfo()


def set_model_info(model: nn.Module, info: ModelInfo) -> None:
    """Attaches the info to a graph or to a network that `transpike.zoo.build` makes."""
    if isinstance(model, fx.GraphModule):
        model.meta[_META] = info
    else:
        vars(model)[_META] = info
