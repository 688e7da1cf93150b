"""Saving and loading of tailored and converted networks."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike import zoo
from transpike.activations import ActivationSettings, RateNorm, SlipReLU, ThetaPercentile
from transpike.conversion.convert import restore
from transpike.conversion.tailor import apply_activation, tailoring
from transpike.errors import CheckpointError, TranspikeError
from transpike.graph.prepare import Capture
from transpike.network.spiking import SpikingNetwork
from transpike.neurons import NEURONS
from transpike.rules import (
    CORRECTIONS,
    POTENTIAL_RULES,
    THRESHOLD_RULES,
    Conversion,
    PerChannel,
    PerLayer,
    PerNeuron,
)
from transpike.schedules import SCHEDULES
from transpike.serialization.container import read_container, write_container
from transpike.serialization.json_records import from_json, to_json
from transpike.serialization.model_info import InputSpec, ModelInfo, ModelSource, model_info, set_model_info

FORMAT = 2
ModelFactory = nn.Module | Callable[[], nn.Module]


def record_kinds() -> dict[str, type]:
    """Records that files may hold, by name: what the tables hold now."""
    tables = (NEURONS, THRESHOLD_RULES, POTENTIAL_RULES, CORRECTIONS, SCHEDULES)
    facts = (ModelInfo, InputSpec, ModelSource, Capture, Conversion, PerLayer, PerChannel, PerNeuron)
    activations = (SlipReLU, RateNorm, ThetaPercentile)
    classes = (*facts, *activations, *(cls for table in tables for cls in table.values()))
    return {cls.__name__: cls for cls in classes}


def save(network: SpikingNetwork | nn.Module, path: Path | str, *, inputs: InputSpec | None = None) -> None:
    """Saves a network as one safetensors file that describes itself.

    Args:
        network: a `SpikingNetwork`, a network made by `tailor`, one of the zoo, or any other module; what the zoo
            cannot rebuild needs its model again when it is loaded.
        path: the file, usually ``*.safetensors``.
        inputs: shape, normalisation and class names, if the network's info does not hold them yet.

    Raises:
        CheckpointError: the network has a neuron, part or activation of the user's own, which `load` could not rebuild.
    """
    graph = network.network if isinstance(network, SpikingNetwork) else network
    info = model_info(graph)
    if inputs is not None:
        info = replace(info, inputs=inputs)
    done = tailoring(graph)
    header: dict[str, Any] = {
        "format": FORMAT,
        "kind": "spiking" if isinstance(network, SpikingNetwork) else "ann",
        "info": to_json(info),
        "tailored": None if done is None else _to_json(done.activation),
        "leaf_modules": [] if done is None else list(done.leaf_modules),
        "inputs": 0 if done is None else done.inputs,
        "training": None if done is None else done.training,
    }
    if isinstance(network, SpikingNetwork):
        header["conversion"] = _to_json(network.conversion)
        header["capture"] = _to_json(network.capture)
        header["sites"] = [site.name for site in network.sites]
    write_container(Path(path), network.state_dict(), header)


def _to_json(record: Any) -> Any:
    """JSON from which `load` can rebuild the record; classes of the user's own are unknown to it."""
    try:
        written = to_json(record)
        if from_json(json.loads(json.dumps(written)), record_kinds()) == record:
            return written
        reason = "it is rebuilt as another one"
    except (TypeError, ValueError) as error:
        reason = str(error)
    raise CheckpointError(
        f"{record} cannot be saved: {reason}",
        where=f"class {type(record).__module__}.{type(record).__qualname__}",
        fix="use the classes of transpike, or save the state_dict and convert again with your class",
    )


@dataclass(frozen=True)
class Contents:
    """What a checkpoint says about itself.

    Attributes:
        kind: ``"spiking"`` or ``"ann"``.
        info: how to rebuild the network and what its inputs are.
        activation: settings of the trained activations, None for plain ReLU.
        sites: names of the populations of a spiking network.
    """

    kind: str
    info: ModelInfo
    activation: ActivationSettings | None
    sites: tuple[str, ...]


def describe(path: Path | str) -> Contents:
    """Reads a checkpoint's header.

    Raises:
        CheckpointError: see `load`.
    """
    _, header = _read(Path(path))
    return _contents(header, Path(path))


def load(path: Path | str, *, model: ModelFactory | None = None) -> SpikingNetwork:
    """Loads a converted network that `save` wrote; built-in networks need nothing else.

    Args:
        path: the file.
        model: for networks that are not built in: the model (before tailoring), or a function that makes it. Its
            own weights do not matter and it is not changed.

    Raises:
        CheckpointError: the file is missing, foreign, damaged, of a newer format, does not fit the model, or holds a
            network that is not converted.
    """
    network = load_network(path, model=model)
    if not isinstance(network, SpikingNetwork):
        raise CheckpointError(
            "the file holds a network that is not converted", where=str(path), fix="load it with tp.load_ann"
        )
    return network


def load_ann(path: Path | str, *, model: ModelFactory | None = None) -> nn.Module:
    """Loads a network that is not converted, tailored or not; arguments and errors as for `load`."""
    network = load_network(path, model=model)
    if isinstance(network, SpikingNetwork):
        raise CheckpointError("the file holds a spiking network", where=str(path), fix="load it with tp.load")
    return network


def load_network(path: Path | str, *, model: ModelFactory | None = None) -> SpikingNetwork | nn.Module:
    """Loads whatever network `save` wrote.

    Args:
        path: the file.
        model: for networks that are not built in: the model (before tailoring), or a function that makes it. Its
            own weights do not matter and it is not changed.

    Raises:
        CheckpointError: the file is missing, foreign, damaged, of a newer format, or does not fit the model.
    """
    path = Path(path)
    tensors, header = _read(path)
    contents = _contents(header, path)
    base = _base_model(contents, model, path)
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating_point), torch.float32)
    base = base.to(dtype)
    network: nn.Module = base
    try:
        if contents.activation is not None:
            base.train(base.training if header.get("training") is None else header["training"])
            network = apply_activation(base, contents.activation, header["leaf_modules"], header.get("inputs", 0))
        if contents.kind == "spiking":
            network = _restore_spiking(network, header, dtype)
    except KeyError as error:
        raise CheckpointError(f"the header lacks {error}", where=str(path), fix="save the network again") from error
    except (TranspikeError, ValueError) as error:
        raise CheckpointError(f"the model cannot be prepared as the file says: {error}", where=str(path)) from error
    if isinstance(network, SpikingNetwork):
        _check_sites(network, contents, path)
        _match_shapes(network, tensors)
    _load_tensors(network, tensors, path)
    if contents.info.source is not None or isinstance(network, SpikingNetwork | fx.GraphModule):
        set_model_info(network.network if isinstance(network, SpikingNetwork) else network, contents.info)
    return network.eval()


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, header = read_container(path)
    if header.get("kind") not in ("spiking", "ann"):
        raise CheckpointError(
            f"the file holds {header.get('kind')!r}, not a network", where=str(path), fix="pass a file made by tp.save"
        )
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"the file has format {header.get('format')}, this library reads {FORMAT}",
            where=str(path),
            fix="use the version of transpike that wrote it, or a newer one",
        )
    return tensors, header


def _contents(header: dict[str, Any], path: Path) -> Contents:
    try:
        info = from_json(header["info"], record_kinds())
        activation = None if header["tailored"] is None else from_json(header["tailored"], record_kinds())
        return Contents(header["kind"], info, activation, tuple(header.get("sites", ())))
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the header is malformed: {error}", where=str(path)) from error


def _base_model(contents: Contents, model: ModelFactory | None, path: Path) -> nn.Module:
    """The untailored model, from the caller or the zoo."""
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    if model is not None:
        return model()
    source = contents.info.source
    if source is None:
        raise CheckpointError(
            "the network is not a built-in one",
            where=str(path),
            fix="pass the model it was made from: tp.load(path, model=MyModel) or model=MyModel()",
            shell_fix="pass the model it was made from: --model package.module:factory or --model file.py:factory",
        )
    try:
        return zoo.build(source.name, **source.options)
    except TranspikeError as error:
        raise CheckpointError(f"the network cannot be rebuilt: {error}", where=str(path)) from error


def _restore_spiking(base: nn.Module, header: dict[str, Any], dtype: torch.dtype) -> SpikingNetwork:
    capture = from_json(header["capture"], record_kinds())
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(2, *shape, generator=generator, dtype=dtype) for shape in capture.input_shapes)
    return restore(base, inputs, from_json(header["conversion"], record_kinds()), capture)


def _check_sites(network: SpikingNetwork, contents: Contents, path: Path) -> None:
    names = tuple(site.name for site in network.sites)
    if names != contents.sites:
        strange = sorted(set(names) ^ set(contents.sites))
        raise CheckpointError(
            f"the model has other sites than the file: {', '.join(strange) or 'another order'}",
            where=str(path),
            fix="pass the model that was converted",
        )


def _match_shapes(network: SpikingNetwork, tensors: dict[str, Tensor]) -> None:
    """Gives thresholds, potentials and biases the shapes they have in the file; a fresh network has scalars."""
    for site in network.sites:
        module = network.site(site.name)
        for name in ("theta", "v_init", "bias"):
            stored = tensors.get(f"network.{site.name}.{name}")
            if stored is not None:
                setattr(module, name, nn.Parameter(torch.empty_like(stored), requires_grad=False))


def _load_tensors(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    wanted = network.state_dict()
    problems = [f"missing {name}" for name in sorted(set(wanted) - set(tensors))]
    problems += [f"unexpected {name}" for name in sorted(set(tensors) - set(wanted))]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, the model {tuple(wanted[name].shape)}"
        for name in sorted(set(tensors) & set(wanted))
        if tensors[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"the file does not fit the model: {'; '.join(problems[:5])}{more}",
            where=str(path),
            fix="pass the model (with the same options) that was saved",
        )
    network.load_state_dict(tensors)
