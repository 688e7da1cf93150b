"""From a word on the command line to a network."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import linecache
import math
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from transpike import zoo
from transpike.architectures.libraries import LIBRARIES
from transpike.cli.words import parse_options
from transpike.errors import ModelError, TraceError, known_words
from transpike.graph.capture import evaluation_mode
from transpike.graph.onnx_import import load_onnx
from transpike.network.spiking import SpikingNetwork
from transpike.serialization.model_info import InputSpec, model_info
from transpike.storage import checkpoint

_STATES = (".pt", ".pth", ".th", ".bin", ".ckpt")
_MOST_VALUES = 2**28  # of one sample
_FOREIGN = (*sysconfig.get_paths().values(), str(Path(checkpoint.__file__).parents[1]), "<")
"""Where code lies that is not the user's."""


@dataclass(frozen=True)
class ResolvedModel:
    """A network by its name.

    Attributes:
        name: as the user wrote it.
        network: the network.
        inputs: what it takes, if anybody knows.
        fresh: whether its weights are random.
    """

    name: str
    network: nn.Module
    inputs: InputSpec | None
    fresh: bool

    def example(self) -> Tensor:
        """Two random samples.

        Raises:
            ModelError: the shape is not known, or the network fails on it.
        """
        if self.inputs is None:
            raise ModelError(
                "the shape of the model's input is not known",
                where=self.name,
                fix="pass --input-shape, for example 3,224,224",
            )
        if math.prod(self.inputs.shape) > _MOST_VALUES:
            shape = ",".join(map(str, self.inputs.shape))
            raise ModelError(f"an input of shape {shape} is too large", where=self.name, fix="pass --input-shape")
        return self.try_on(torch.randn(2, *self.inputs.shape, generator=torch.Generator().manual_seed(0)))

    def try_on(self, example: Tensor) -> Tensor:
        """Runs the network once, so that its own mistakes are shown as such; returns the example.

        Raises:
            ModelError: it fails.
        """
        try:
            with torch.no_grad(), evaluation_mode(self.network):
                self.network(example)
        except TraceError:  # of an ONNX file: it names the node
            raise
        except (Exception, SystemExit) as error:  # user code runs here, so anything may come
            shape = ",".join(map(str, example.shape[1:]))
            raise _user_error(error, f"{self.name} fails on an input of shape {shape}") from error
        return example


def find_model(
    name: str,
    *,
    option: list[str] | None = None,
    factory: str | None = None,
    weights: Path | None = None,
    input_shape: str | None = None,
) -> ResolvedModel:
    """A network from what the options of a command say.

    Args:
        name: a built-in network, a trained one, a checkpoint, an ONNX file, ``torchvision:NAME``, ``timm:NAME`` or
            ``module:factory``.
        option: ``name=value`` for its builder.
        factory: for a checkpoint of a network that is not built in: where it comes from.
        weights: a state_dict to load.
        input_shape: of one sample, as text.

    Raises:
        ModelError: nothing of that name, no shape, a converted network, or a factory that fails or returns something
            else.
        CheckpointError: see `transpike.load` and `transpike.zoo.load_weights`.
    """
    options = parse_options(option)
    found = _find(name, options, factory)
    if isinstance(found.network, SpikingNetwork):
        raise ModelError(
            f"{name} is converted already",
            fix=f"run it with transpike evaluate {name} --steps 4, or name the network that it was converted from",
        )
    if weights is not None:
        zoo.load_weights(found.network, weights)
    trained = weights is not None or options.get("weights") is not None or options.get("pretrained")
    inputs = found.inputs
    if input_shape is not None:
        sizes = _sizes(input_shape)
        inputs = InputSpec(sizes) if inputs is None else replace(inputs, shape=sizes)
    return replace(found, inputs=inputs, fresh=found.fresh and not trained)


def find_converted(file: str, factory: str | None = None) -> SpikingNetwork:
    """A converted network from its file.

    Raises:
        ModelError: it is not there, or not converted yet.
    """
    network = _find(file, {}, factory).network
    if not isinstance(network, SpikingNetwork):
        raise ModelError(f"{file} is not converted yet", fix=f"transpike convert {file} -o snn.safetensors")
    return network


def _find(name: str, options: Mapping[str, Any], factory: str | None) -> ResolvedModel:
    if name in zoo.ZOO:
        built = zoo.build(name, **options)
        return ResolvedModel(name, built, model_info(built).inputs, True)
    if name in zoo.cards():
        if options:
            raise ModelError("a trained network takes no options", where=name, fix="leave --option out")
        return _stored(name, zoo.load(name))
    if name.endswith(_STATES):
        raise ModelError(
            f"a {Path(name).suffix} file does not say what network it is of",
            where=name,
            fix=f"if it holds a state_dict, name the network and pass --weights {name}; if it holds a whole pickled "
            "model, save model.state_dict() first",
        )
    if name.endswith(".py"):
        public = ", ".join(_public(_import(name, "factory"))[:10])
        raise ModelError("a Python file holds several names", where=name, fix=f"write {name}:NAME; it has {public}")
    if name.endswith(".onnx"):
        if options:
            raise ModelError("an ONNX file takes no options", where=name, fix="leave --option out")
        imported = load_onnx(name)
        return ResolvedModel(name, imported, model_info(imported).inputs, False)
    if name.endswith(".safetensors") or Path(name).is_file():
        if options:
            raise ModelError("a checkpoint takes no options", where=name, fix="leave --option out")
        base = None if factory is None else lambda: _find(factory, {}, None).network
        return _stored(name, checkpoint.load_network(name, model=base))
    if ":" not in name:
        raise _unknown(name)
    home, _, attribute = name.rpartition(":")
    library = home.split(".")[0]
    if library in LIBRARIES and (home == library or (".models" in home and attribute.islower())):
        network = zoo.build(f"{library}:{attribute}", **options)
        return ResolvedModel(name, network, model_info(network).inputs, True)
    return _from_factory(name, _import(home, attribute), attribute, options)


def _stored(name: str, network: nn.Module) -> ResolvedModel:
    graph = network.network if isinstance(network, SpikingNetwork) else network
    return ResolvedModel(name, network, model_info(graph).inputs, False)


def _unknown(name: str) -> ModelError:
    """What may have been meant by a name without a colon."""
    own = [*zoo.ZOO, *zoo.cards()]
    known = list(own)
    with contextlib.suppress(ImportError):  # an extra
        from torchvision.models import list_models

        known += list_models()
    near = [name] if name in known else difflib.get_close_matches(name, known, 2, 0.75)
    meant = " or ".join(entry if entry in own else f"torchvision:{entry}" for entry in near)
    return ModelError(
        f"{name!r} is neither a built-in network, a file nor package.module:factory",
        fix=f"did you mean {meant}?"
        if near
        else "transpike models lists the built-in ones and says how others are named",
    )


def _import(home: str, attribute: str) -> ModuleType:
    """A module by name, or from its file."""
    if home.startswith(".") and "/" not in home and not home.endswith(".py"):
        name = home.lstrip(".")
        raise ModelError(
            f"{home!r} is no name of a module",
            where=f"{home}:{attribute}",
            fix=f"write {name}:{attribute}, or ./{name}.py:{attribute}",
        )
    try:
        if "/" in home or home.endswith(".py"):
            return _import_file(Path(home))
        here = str(Path.cwd())
        if here not in sys.path:  # so that my_models:net works next to my_models.py
            sys.path.insert(0, here)
        return importlib.import_module(home)
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not home.startswith(error.name):
            raise _user_error(error, f"{home} cannot be imported") from error
        near = difflib.get_close_matches(home, LIBRARIES, 1, 0.7)
        meant = f"did you mean {near[0]}:{attribute}?" if near else "install it, or write file.py:factory"
        raise ModelError(f"cannot import {home}: {error}", fix=meant) from error
    except (Exception, SystemExit) as error:  # user code runs here, so anything may come
        raise _user_error(error, f"{home} cannot be imported") from error


def _import_file(path: Path) -> ModuleType:
    path = path if path.suffix == ".py" else path.with_name(path.name + ".py")
    if not path.is_file():
        raise ModelError("there is no such file", where=str(path), fix="write file.py:factory")
    sys.path.insert(0, str(path.parent.resolve()))
    name = path.stem if path.stem not in sys.modules else f"_transpike_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _from_factory(name: str, module: ModuleType, attribute: str, options: Mapping[str, Any]) -> ResolvedModel:
    factory = vars(module).get(attribute)
    if factory is None:
        fix = known_words(attribute, _public(module)[:20])
        raise ModelError(f"{module.__name__} has no {attribute!r}", where=name, fix=fix)
    if isinstance(factory, nn.Module):
        return ResolvedModel(name, factory, model_info(factory).inputs, False)
    try:
        made = factory(**options)
    except (Exception, SystemExit) as error:  # user code runs here, so anything may come
        raise _user_error(error, f"{name} fails") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{name} returned a {type(made).__name__}, not a torch.nn.Module", fix="return the network")
    return ResolvedModel(name, made, model_info(made).inputs, True)


def _public(module: ModuleType) -> list[str]:
    """Names in a module that may make, or be, a network."""
    return [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (isinstance(value, nn.Module) or (callable(value) and str(value.__module__).startswith(module.__name__)))
    ]


def _user_error(error: BaseException, what: str) -> ModelError:
    """One short message that points at the user's own line."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 0))
    own = [(file, line) for file, line in frames if not file.startswith(_FOREIGN) and "site-packages" not in file]
    where = ""
    if own:
        file, line = own[-1]
        where = f"{file.removeprefix(str(Path.cwd()) + '/')}:{line}: {linecache.getline(file, line).strip()}"
    first = (str(error).strip().splitlines() or [""])[0]
    return ModelError(
        f"{what}: {type(error).__name__}: {first}",
        where=where,
        fix="correct that line, or give it what it needs by --option and --input-shape; --debug shows the whole trace",
    )


def _sizes(shape: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in shape.replace("x", ",").split(","))
    except ValueError as error:
        raise ModelError(f"{shape!r} is no shape", fix="write it like 3,224,224, without the batch") from error
    if min(sizes) < 1:
        raise ModelError(f"{shape!r} is no shape", fix="sizes are positive")
    return sizes
