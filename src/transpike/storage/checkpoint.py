"""Saving and loading of tailored and converted networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from transpike import architectures
from transpike.conversion.convert import restore
from transpike.conversion.tailor import apply_activation, tailoring
from transpike.errors import CheckpointError, MissingExtraError, TranspikeError
from transpike.graph.capture import evaluation_mode, trace
from transpike.graph.fingerprint import Fingerprint, difference, fingerprint_of
from transpike.graph.prepare import Capture
from transpike.graph.unwrap import check_finite, unwrapped
from transpike.network.spiking import SpikingNetwork
from transpike.rules import Conversion
from transpike.serialization.container import read_container, write_container
from transpike.serialization.json_records import to_json
from transpike.serialization.model_info import InputSpec, ModelInfo, model_info, set_model_info
from transpike.storage.header import FORMAT, Contents, read_header, record_kinds, write_record
from transpike.storage.limits import check_input_shapes, limited_by
from transpike.storage.packed import pack_tensors, unpack_tensors

__all__ = ["Contents", "describe", "load", "load_ann", "load_network", "record_kinds", "save"]

ModelFactory = nn.Module | Callable[[], nn.Module]


def save(network: SpikingNetwork | nn.Module, path: Path | str, *, inputs: InputSpec | None = None) -> None:
    """Saves a network as one safetensors file that describes itself.

    Args:
        network: a `SpikingNetwork`, a network made by `tailor`, one of the zoo, or any other module; what the zoo
            cannot rebuild needs its model again when it is loaded.
        path: the file, usually ``*.safetensors``.
        inputs: shape, normalisation and class names, if the network's info does not hold them yet.

    Raises:
        ModelError: the network is no module, or one that was compiled or exported.
        CheckpointError: the network has a neuron, part or activation of the user's own, which `load` could not rebuild,
            or weights that are NaN or infinite.
        OutputError: the file cannot be written.
    """
    network = unwrapped(network, "tp.save", "network")
    check_finite(network, str(path))
    graph = network.network if isinstance(network, SpikingNetwork) else network
    info = model_info(graph)
    if inputs is not None:
        info = replace(info, inputs=inputs)
    done = tailoring(graph)
    header: dict[str, Any] = {
        "format": FORMAT,
        "kind": "spiking" if isinstance(network, SpikingNetwork) else "ann",
        "info": to_json(info),
        "tailored": None if done is None else write_record(done.activation),
        "leaf_modules": [] if done is None else list(done.leaf_modules),
        "inputs": 0 if done is None else done.inputs,
        "layer": None if done is None else done.layer.value,
        "input_shapes": [] if done is None else [list(shape) for shape in done.input_shapes],
        "training": None if done is None else done.training,
        "graph": None if (taken := _fingerprint(graph, info)) is None else list(taken.operators),
    }
    if isinstance(network, SpikingNetwork):
        header["conversion"] = write_record(network.conversion)
        header["capture"] = write_record(network.capture)
        header["sites"] = [site.name for site in network.sites]
        header["through_time"] = None if network.trained is None else write_record(network.trained)
    tensors = network.state_dict()
    if isinstance(network, SpikingNetwork) and network.conversion.quantise is not None:
        header["packed"] = str(network.site(network.sites[0].name).theta.dtype).removeprefix("torch.")
        tensors = pack_tensors(tensors)
    write_container(Path(path), tensors, header)


def describe(path: Path | str) -> Contents:
    """Reads a checkpoint's header.

    Raises:
        CheckpointError: see `load`.
    """
    _, header = read_container(Path(path))
    return read_header(header, Path(path))


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
    tensors, header = read_container(path)
    contents = read_header(header, path)
    if contents.packed is not None:
        tensors = unpack_tensors(tensors, getattr(torch, contents.packed), path)
    base = _base_model(contents, tensors, model, path)
    dtype = next((tensor.dtype for tensor in tensors.values() if tensor.dtype.is_floating_point), torch.float32)
    if dtype not in _PRECISIONS:
        raise CheckpointError(f"the weights are {dtype}", where=str(path), fix="save the network in float32")
    network: nn.Module = base.to(dtype)
    try:
        if contents.activation is not None:
            base.train(base.training if contents.training is None else contents.training)
            settings = (contents.leaf_modules, contents.inputs, contents.layer, contents.input_shapes)
            if contents.input_shapes:
                check_input_shapes(base, contents.input_shapes)
            network = apply_activation(base, contents.activation, *settings)
        if contents.conversion is not None and contents.capture is not None:
            network = _restore_spiking(base, network, contents.conversion, contents.capture, dtype)
    except CheckpointError as error:
        raise CheckpointError(error.what, where=f"{path}, {error.where}", fix=error.fix) from error
    except Exception as error:  # a header may ask for anything, and operators answer with errors of their own
        raise CheckpointError(
            f"the model cannot be prepared as the file says: {error}",
            where=str(path),
            fix="pass the model (with the same options) that was saved",
        ) from error
    if isinstance(network, SpikingNetwork):
        _check_sites(network, contents, path)
        network.trained = contents.through_time
    _check_tensors(network, tensors, path)
    _check_graph(network, contents, dtype, path)
    _load_tensors(network, tensors, path)
    if contents.info.source is not None or isinstance(network, SpikingNetwork | fx.GraphModule):
        set_model_info(network.network if isinstance(network, SpikingNetwork) else network, contents.info)
    return network.eval()


_PRECISIONS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _fingerprint(network: nn.Module, info: ModelInfo) -> Fingerprint | None:
    """What a network computes, where that can be told: of graphs, and of models that the zoo does not build."""
    if isinstance(network, fx.GraphModule) or info.source is not None:
        return fingerprint_of(network)
    try:
        with evaluation_mode(network):
            return fingerprint_of(trace(network))
    except (TranspikeError, RuntimeError):  # its state_dict can be saved all the same
        return None


def _check_graph(network: nn.Module, contents: Contents, dtype: torch.dtype, path: Path) -> None:
    """Compares what the model computes with what the saved network did."""
    if contents.graph is None:  # an older version wrote the file
        return
    found = _fingerprint(network.network if isinstance(network, SpikingNetwork) else network, contents.info)
    if found is None:
        return
    other = difference(contents.graph, found, max(1e-6, 4 * torch.finfo(dtype).eps))
    if other is not None:
        what, source = other
        raise CheckpointError(
            f"the model computes something else than the one that was saved: {what}",
            where=f"{path}, and {source}" if source else str(path),
            fix="pass the model (with the same options) that was saved",
        )


def _base_model(contents: Contents, tensors: Mapping[str, Tensor], model: ModelFactory | None, path: Path) -> nn.Module:
    """The untailored model, from the caller or the zoo."""
    if model is not None:
        made = copy.deepcopy(model) if isinstance(model, nn.Module) else model()
        return unwrapped(made, "tp.load", "model", exported=True)
    source = contents.info.source
    if source is None:
        raise CheckpointError(
            "the network is not a built-in one",
            where=str(path),
            fix="pass the model it was made from: tp.load(path, model=MyModel) or model=MyModel()",
            shell_fix="pass the model it was made from: --model package.module:factory or --model file.py:factory",
        )
    try:
        with limited_by(tensors, source.options):
            return architectures.build_untrained(source.name, source.options)
    except MissingExtraError:
        raise
    except CheckpointError as error:
        raise CheckpointError(error.what, where=str(path), fix=error.fix) from error
    except Exception as error:  # a header may ask for anything, and builders answer with errors of their own
        raise CheckpointError(f"the network cannot be rebuilt: {error}", where=str(path)) from error


def _restore_spiking(
    base: nn.Module, network: nn.Module, conversion: Conversion, capture: Capture, dtype: torch.dtype
) -> SpikingNetwork:
    check_input_shapes(base, capture.input_shapes)
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(torch.rand(2, *shape, generator=generator, dtype=dtype) for shape in capture.input_shapes)
    return restore(network, inputs, conversion, capture)


def _check_sites(network: SpikingNetwork, contents: Contents, path: Path) -> None:
    names = tuple(site.name for site in network.sites)
    if names != contents.sites:
        strange = sorted(set(names) ^ set(contents.sites))
        raise CheckpointError(
            f"the model has other sites than the file: {', '.join(strange)[:300] or 'another order'}",
            where=str(path),
            fix="pass the model that was converted",
        )


def _of_sites(network: nn.Module) -> list[str]:
    """Names of thresholds, potentials and biases, and of units and grids; a fresh network has scalars there."""
    if not isinstance(network, SpikingNetwork):
        return []
    parts = ("theta", "v_init", "bias") + (() if network.conversion.quantise is None else ("unit", "grid"))
    return [f"network.{site.name}.{part}" for site in network.sites for part in parts]


def _check_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Compares names, types and shapes of a file's tensors with the model's."""
    wanted = network.state_dict()
    problems = [f"missing {name}" for name in sorted(set(wanted) - set(tensors))]
    problems += [f"unexpected {name}" for name in sorted(set(tensors) - set(wanted))]
    common = sorted(set(tensors) & set(wanted))
    problems += [
        f"{name} is {tensors[name].dtype}, the model's {wanted[name].dtype}"
        for name in common
        if tensors[name].dtype != wanted[name].dtype
    ]
    free = set(_of_sites(network))
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, the model {tuple(wanted[name].shape)}"
        for name in common
        if name not in free and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(
            f"the file does not fit the model: {'; '.join(problems[:5])}{more}",
            where=str(path),
            fix="pass the model (with the same options) that was saved",
        )


def _load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    if isinstance(network, SpikingNetwork):
        _set_sites(network, tensors, path)
    apart = _of_sites(network)
    network.load_state_dict({name: tensor for name, tensor in tensors.items() if name not in apart}, strict=False)
    check_finite(network, str(path))


def _set_sites(network: SpikingNetwork, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Thresholds, potentials and biases, by the same checks as a user's."""
    for planned in network.sites:
        site = network.site(planned.name)
        theta, v_init, bias = (tensors[f"network.{planned.name}.{part}"] for part in ("theta", "v_init", "bias"))
        try:
            site.unit, site.grid = None, None
            site.set_threshold(theta)
            site.set_initial_potential(v_init)
            if bias.dim() or bias.item():  # a scalar zero stands for none
                site.set_bias(bias)
            if network.conversion.quantise is not None:
                site.set_grid(*(tensors[f"network.{planned.name}.{part}"] for part in ("unit", "grid")))
        except (ValueError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"the file gives a site numbers that it cannot have: {error}",
                where=f"{path}, site {planned.name}",
                fix="make the file again",
            ) from error
