"""From a word on the command line to a model."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transpike import zoo
from transpike.data import Data, loader, random_subset
from transpike.errors import ModelError
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import SCHEDULES, Schedule
from transpike.selection.lags import LagSearch, search_lags
from transpike.serialization.model_info import model_info
from transpike.storage import checkpoint

_SEARCH_IMAGES = 1024


def resolve_model(name: str, options: Mapping[str, Any] | None = None, *, model: str | None = None) -> nn.Module:
    """A model by zoo name, checkpoint, or ``package.module:factory``.

    Args:
        name: what the user typed.
        options: keyword arguments for the zoo's builder or the factory.
        model: for a checkpoint of a model that is not built in: where its factory is.

    Raises:
        ModelError: nothing of that name, or a factory that fails or returns something else.
        CheckpointError: see `transpike.load`.
    """
    options = dict(options or {})
    if name in zoo.ZOO:
        return zoo.build(name, **options)
    if name.endswith(".safetensors") or Path(name).is_file():
        if options:
            raise ModelError("a checkpoint takes no options", where=name, fix="leave --option out")
        return checkpoint.load_network(name, model=None if model is None else lambda: resolve_model(model))
    if ":" in name:
        return _from_factory(name, options)
    raise ModelError(
        f"{name!r} is neither a built-in network, a file nor package.module:factory",
        fix=f"built in: {', '.join(zoo.ZOO)}; a file ends in .safetensors; a factory is a function without arguments",
    )


def _from_factory(name: str, options: Mapping[str, Any]) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # so that my_models:net works next to my_models.py
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(
            f"cannot import {module_name}: {error}", where=name, fix="run where it can be imported, or install it"
        ) from error
    factory = vars(module).get(attribute)
    if factory is None:
        raise ModelError(f"{module_name} has no {attribute!r}", where=name, fix="check the name after the colon")
    if isinstance(factory, nn.Module):
        return factory
    try:
        made = factory(**options)
    except Exception as error:  # user code runs here, so anything may come
        raise ModelError(f"{name} failed: {error}", fix="make it callable with the given --option values") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module")
    return made


def example_for(model: nn.Module, shape: str | None) -> Tensor:
    """Two random samples of the shape the user gave, or of the shape on the model's info.

    Raises:
        ModelError: neither is there, or the text is no shape.
    """
    if shape is None:
        inputs = model_info(model).inputs
        if inputs is None:
            raise ModelError(
                "the shape of the model's input is not known", fix="pass --input-shape, for example 3,224,224"
            )
        sizes = inputs.shape
    else:
        try:
            sizes = tuple(int(size) for size in shape.replace("x", ",").split(","))
        except ValueError as error:
            raise ModelError(f"{shape!r} is no shape", fix="write it like 3,224,224, without the batch") from error
        if not sizes or min(sizes) < 1:
            raise ModelError(f"{shape!r} is no shape", fix="sizes are positive")
    return torch.randn(2, *sizes, generator=torch.Generator().manual_seed(0))


def resolve_converted(file: str, factory: str | None = None) -> SpikingNetwork:
    """A converted network from its file.

    Raises:
        ModelError: it is not there, or not converted yet.
    """
    snn = resolve_model(file, model=factory)
    if not isinstance(snn, SpikingNetwork):
        raise ModelError(f"{file} is not converted yet", fix=f"transpike convert {file} -o snn.safetensors")
    return snn


def resolve_schedule(name: str, *, probe_steps: int, iterations: int, waiting: int) -> Schedule:
    """A schedule by its name in the table of schedules; settings that it does not have are ignored.

    Raises:
        ModelError: unknown name.
        ValueError: a setting that the schedule refuses.
    """
    settings = {"probe_steps": probe_steps, "iterations": iterations, "waiting": waiting}
    known = _settings_of(name)
    return SCHEDULES[name](**{key: value for key, value in settings.items() if key in known})


def _settings_of(schedule: str) -> set[str]:
    if schedule not in SCHEDULES:
        raise ModelError(f"there is no schedule {schedule!r}", fix=f"known: {', '.join(SCHEDULES)}")
    return set(signature(SCHEDULES[schedule]).parameters)


def schedule_for(
    snn: SpikingNetwork, name: str | None, probe_steps: int | None, iterations: int | None, waiting: int | None
) -> Schedule:
    """The schedule that the user named, else the one that the network was converted for.

    Raises:
        ModelError: unknown name.
        ValueError: settings without a name, or a setting that the schedule refuses.
    """
    given = {"probe_steps": probe_steps, "iterations": iterations, "waiting": waiting}
    settings = {key: value for key, value in given.items() if value is not None}
    if name is not None:
        strange = [f"--{key.replace('_', '-')}" for key in settings if key not in _settings_of(name)]
        if strange:
            raise ValueError(f"the schedule {name!r} has no {' and no '.join(strange)}")
        return resolve_schedule(name, **{"probe_steps": 4, "iterations": 1, "waiting": 1, **settings})
    if settings:
        raise ValueError(
            f"--probe-steps, --iterations and --waiting belong to --schedule; without it {snn.schedule} runs"
        )
    return snn.schedule


def search_schedule(snn: SpikingNetwork, data: Data, budget: int, *, progress: bool = False) -> LagSearch:
    """Lags of the staggered schedule for ``budget`` pipeline steps, searched on at most 1,024 training images.

    Raises:
        ValueError: budget below 1.
        InputError: the network is no classifier.
    """
    count = min(_SEARCH_IMAGES, len(data.calibration))  # type: ignore[arg-type]
    return search_lags(snn, list(loader(random_subset(data.calibration, count))), budget, progress=progress)


def dataset_for(model: nn.Module, name: str | None) -> str:
    """The data set the user named, else the one on the model's info.

    Raises:
        ModelError: neither is there.
    """
    inputs = model_info(model).inputs
    found = name or (inputs.dataset if inputs is not None else "")
    if not found:
        raise ModelError("the model does not say what data it is for", fix="pass --dataset")
    return found


def check_writable(path: Path) -> None:
    """Makes sure that a file can be written before long work begins.

    Raises:
        ModelError: the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ModelError(f"the output cannot be written: {error}", where=str(path), fix="choose another -o") from error


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """``["width=8", "shortcut=conv"]`` to keyword arguments; whole numbers, floats and booleans are recognised.

    Raises:
        ModelError: an entry without ``=``.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ModelError(f"{pair!r} is no option", fix="write --option name=value")
        found[key] = _value(text)
    return found


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
