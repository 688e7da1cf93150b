"""The module that a user means: what wraps it is taken off, and what is no usable model is named with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from transpike.errors import CheckpointError, InputError, ModelError
from transpike.graph.program import Program, program_of

_RETURN = "pass the nn.Module that it was made from"


def unwrapped(model: Any, what: str = "convert", argument: str = "model", *, exported: bool = False) -> nn.Module:
    """The module inside `DataParallel`, `DistributedDataParallel`, `torch.compile` or `AveragedModel`, or itself.

    Args:
        model: what a user gave.
        what: the function that it was given to, for errors.
        argument: the argument's name.
        exported: take what `torch.export` made, too, if it takes any number of samples.

    Raises:
        ModelError: it is no module, or one whose operators cannot be rewritten: scripted, traced by
            ``torch.jit``, exported, with lazy or quantised layers.
    """
    where = f"{what}, argument {argument}"
    while isinstance(model, nn.Module):
        inner = _inside(model)
        if inner is None:
            break
        model = inner
    if exported and isinstance(model, torch.export.ExportedProgram):
        model = model.module()
    if not isinstance(model, nn.Module):
        raise _no_module(model, where)
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("the model was compiled by torch.jit", where=where, fix=f"{_RETURN}, before torch.jit")
    if _exported(model):
        if not exported:
            what = "the model was exported by torch.export"
            raise ModelError(what, where=where, fix=f"{_RETURN}, before torch.export")
        model = _replayable(model, where)
    _check_tensors(model, where)
    found: nn.Module = model
    return found


def _inside(model: nn.Module) -> Any | None:
    """What one layer of wrapping holds; None for a model that wraps nothing."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel | AveragedModel):
        return model.module
    return vars(model).get("_modules", {}).get("_orig_mod") if type(model).__name__ == "OptimizedModule" else None


def _no_module(model: Any, where: str) -> ModelError:
    if isinstance(model, type) and issubclass(model, nn.Module):
        return ModelError(f"{model.__name__} is a class, not a network", where=where, fix=f"pass {model.__name__}()")
    if isinstance(model, torch.export.ExportedProgram):
        return ModelError("the model was exported by torch.export", where=where, fix=f"{_RETURN}, before torch.export")
    if isinstance(model, Mapping) and any(isinstance(value, torch.Tensor) for value in model.values()):
        return ModelError(
            "a state_dict holds weights, not a network",
            where=where,
            fix="make the network, call network.load_state_dict(...), and pass the network",
        )
    return ModelError(f"a torch.nn.Module is expected, not a {type(model).__name__}", where=where, fix="pass a network")


def _exported(model: nn.Module) -> bool:
    """Whether ``ExportedProgram.module()`` made the model."""
    meta = getattr(model, "meta", {})
    marks = ("forward_arg_names", "inline_constraints", "forward_metadata")
    return isinstance(model, torch.fx.GraphModule) and (
        hasattr(model, "_in_spec") or hasattr(model, "validate_inputs") or any(mark in meta for mark in marks)
    )


EXPORTED = "transpike.exported"
"""In ``meta``: the graph is a program of torch.export."""


def _replayable(model: Any, where: str) -> Program:
    """An exported program as a module like others, which can be put into evaluation mode."""
    for node in model.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and not isinstance(value.shape[0], torch.SymInt):
            raise ModelError(
                "the model was exported by torch.export for a fixed number of samples",
                where=f"{where}, input {node.name}",
                fix='export it with dynamic_shapes=({0: torch.export.Dim("samples")},), or ' + _RETURN,
            )
    program = program_of(model)
    for name in ("train", "eval"):  # the module refuses both
        program.__dict__.pop(name, None)
    program.meta[EXPORTED] = True
    return program


def _check_tensors(model: nn.Module, where: str) -> None:
    """Refuses tensors without values, and such that no operator of ours can rewrite."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise ModelError(
                f"{name} has no shape yet: the layer is lazy", where=where, fix="run the model once on real data first"
            )
        kind = unusable(tensor)
        if kind:
            raise ModelError(
                f"{name} is {kind}", where=where, fix="convert the model with dense weights in float32 on a device"
            )


def unusable(tensor: torch.Tensor) -> str:
    """What is wrong with a tensor, whatever its values: no values at all, or not one number after the other."""
    if tensor.is_meta:
        return "a meta tensor, without values"
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if tensor.is_complex():
        return "a complex tensor"
    return "a sparse tensor" if tensor.layout is not torch.strided else ""


def check_weights(model: nn.Module, where: str) -> None:
    """Checks that the weights of a model are numbers.

    Raises:
        InputError: a parameter holds NaN or infinity, or a buffer holds NaN; the message says which.
    """
    found = _not_finite(model)
    if found:
        raise InputError(found, where=where, fix="use weights from before the training diverged")


def check_finite(model: nn.Module, where: str) -> None:
    """As `check_weights`, for what is written to a file or read from one.

    Raises:
        CheckpointError: see `check_weights`.
    """
    found = _not_finite(model)
    if found:
        raise CheckpointError(found, where=where, fix="use weights from before the training diverged")


def _not_finite(model: nn.Module) -> str:
    """The first parameter that is not finite, or buffer that is NaN; masks may hold infinity."""
    kept = model.state_dict()
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            values = "NaN" if bool(weight.isnan().any()) else "infinite values"
            return f"the weight {name} holds {values}"
    for name, tensor in model.named_buffers():
        if name in kept and tensor.is_floating_point() and bool(tensor.isnan().any()):
            return f"the buffer {name} holds NaN"
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._NormBase) or module.running_var is None:
            continue
        mean, variance = module.running_mean, module.running_var
        if mean is None or not bool(
            torch.isfinite(mean).all() & torch.isfinite(variance).all() & (variance >= 0).all()
        ):
            return f"the running statistics of {name or 'the model'} are infinite, or its variance negative"
    return ""
