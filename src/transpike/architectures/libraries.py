"""Networks of torchvision and timm by name, with the input that they usually take."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from torch import nn

from transpike.errors import ModelError, needs_extra
from transpike.serialization.model_info import InputSpec

Built = tuple[nn.Module, InputSpec | None]
_VIDEO_FRAMES = 16


def from_torchvision(name: str, options: Mapping[str, Any]) -> Built:
    """A network of torchvision with fresh weights; ``weights="DEFAULT"`` among the options downloads trained ones.

    Raises:
        ModelError: torchvision has no such network, or it refuses its options.
    """
    with needs_extra("vision", "a network of torchvision"):
        from torchvision import models

    name = name.rsplit(".", 1)[-1]
    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    builder = models.get_model_builder(name)
    if "weights_backbone" in signature(builder).parameters:  # else a half of it is downloaded
        options = {"weights_backbone": None, **options}
    return _build(f"torchvision:{name}", builder, options), _torchvision_inputs(name)


def _torchvision_inputs(name: str) -> InputSpec | None:
    """As the transforms of the default weights cut and normalise images and clips."""
    from torchvision import models

    transforms: Any = models.get_model_weights(name).DEFAULT.transforms()
    settings = vars(transforms)
    size = settings.get("crop_size") or settings.get("resize_size")
    if not size:
        return None
    height, width = (size[0], size[-1]) if isinstance(size, list | tuple) else (size, size)
    frames = (_VIDEO_FRAMES,) if "Video" in type(transforms).__name__ else ()
    return InputSpec((3, *frames, height, width), tuple(settings.get("mean", ())), tuple(settings.get("std", ())))


def from_timm(name: str, options: Mapping[str, Any]) -> Built:
    """A network of timm with fresh weights; ``pretrained=true`` among the options downloads trained ones.

    Raises:
        ModelError: timm is not installed, has no such network, or it refuses its options.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelError("timm is not installed", fix="pip install timm") from error
    name = name.removeprefix("models.")
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())
    model = _build(f"timm:{name}", lambda **settings: timm.create_model(name, **settings), options)
    settings = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None) or {}
    if "input_size" not in settings:
        return model, None
    mean, std = tuple(settings.get("mean", ())), tuple(settings.get("std", ()))
    return model, InputSpec(tuple(settings["input_size"]), mean, std)


DOWNLOADS = (
    *("weights", "weights_backbone", "pretrained"),
    *("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"),
)
"""Options that download or read weights."""

LIBRARIES: Mapping[str, Callable[[str, Mapping[str, Any]], Built]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
}
"""What stands in front of the colon in ``torchvision:resnet18``."""


def _build(name: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> nn.Module:
    try:
        model: nn.Module = builder(**options)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{name} refuses its options: {error}", where=str(dict(options))) from error
    return model


def _unknown(library: str, name: str, known: list[str]) -> ModelError:
    near = difflib.get_close_matches(name, known, 3, 0.6)
    fix = f"did you mean {' or '.join(f'{library}:{entry}' for entry in near)}?" if near else ""
    return ModelError(f"{library} has no {name!r}", fix=fix or f"{library}'s own list_models() lists them")
