"""The compiled kernels: same spikes as the torch ones, several times faster on a CPU.

Their source is ``native/``. They run on the calling thread and on those of a pool of their own, together as many as
``torch.set_num_threads`` says, and with the widest vector instructions that the CPU has.
"""

from __future__ import annotations

import importlib
import math
import warnings
from functools import cache
from types import ModuleType

import torch
from torch import Tensor


class NativeKernelWarning(RuntimeWarning):
    """The compiled kernels are missing, so that slower ones are used."""


REBUILD = (
    "install a C++17 compiler, then transpike anew: pip install --no-cache-dir --force-reinstall --no-deps transpike "
    "(in a checkout: . instead of transpike)"
)
"""How to get the compiled kernels: an installation without a compiler has none, and pip keeps what it built."""


@cache
def load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason why it cannot be used."""
    try:
        return importlib.import_module("transpike.kernels._native"), ""
    except ImportError as error:
        return None, f"{error}; {REBUILD}"


@cache
def _notice() -> None:
    _, reason = load()
    warnings.warn(f"no native kernels, torch operators run instead: {reason}", NativeKernelWarning, stacklevel=3)


def unsupported_reason(drive: Tensor, *others: Tensor) -> str | None:
    """Why the compiled kernels cannot run these currents with these potentials and thresholds; None if they can."""
    if drive.device.type != "cpu":
        return f"it runs on the CPU, the currents are on {drive.device}"
    if drive.dtype not in (torch.float32, torch.float64):
        return f"it takes float32 and float64, the currents are {drive.dtype}"
    if any(tensor.dtype != drive.dtype for tensor in others):
        return f"it takes one type, {drive.dtype} currents met {[str(tensor.dtype) for tensor in others]}"
    module, reason = load()
    return None if module is not None else f"it is not there: {reason}"


def usable(drive: Tensor, *others: Tensor) -> bool:
    """Whether the compiled kernels can run these currents; says once if they are missing."""
    reason = unsupported_reason(drive, *others)
    if reason is not None and load()[0] is None:
        _notice()
    return reason is None


def require(drive: Tensor, *others: Tensor) -> None:
    """Refuses what the compiled kernels cannot run.

    Raises:
        RuntimeError: with the reason.
    """
    reason = unsupported_reason(drive, *others)
    if reason is not None:
        raise RuntimeError(f"the native kernel was asked for by name, but {reason}; use KernelPreference.AUTO")


def module() -> ModuleType:
    """The compiled module.

    Raises:
        RuntimeError: it is not there, with the reason.
    """
    found, reason = load()
    if found is None:
        raise RuntimeError(reason)
    return found


def _steps(drive: Tensor) -> Tensor:
    """``[S, N, *] -> [S, neurons]``; a constant current stays one step in memory."""
    steps = drive.detach().flatten(1) if drive.dim() > 1 else drive.detach().unsqueeze(1)
    return steps if steps.shape[1] == 1 or steps.stride(1) == 1 else steps.contiguous()


def _thresholds(theta: Tensor, shape: torch.Size) -> tuple[Tensor, int]:
    """The distinct thresholds in their order, and how many neighbouring neurons share one."""
    theta = theta.detach()
    if theta.numel() == 1:
        return theta.reshape(1), max(1, math.prod(shape))
    if theta.dim() == len(shape) - 1 and theta.numel() == theta.shape[0]:
        return theta.reshape(-1).contiguous(), math.prod(shape[2:])
    return theta.expand(shape).reshape(-1).contiguous(), 1


def integrate_fire(drive: Tensor, v: Tensor, theta: Tensor, soft_reset: bool) -> tuple[Tensor, Tensor]:
    """Same contract and same spikes as `transpike.kernels.reference.integrate_fire`."""
    events = torch.empty(drive.shape, dtype=drive.dtype)
    after = v.detach().clone(memory_format=torch.contiguous_format)
    if after.numel():
        thetas, inner = _thresholds(theta, v.shape)
        module().integrate_fire(_steps(drive), thetas, inner, soft_reset, after.view(-1), events.flatten(1))
    return events, after


def offset_potential(drive: Tensor, v: Tensor, theta: Tensor, iterations: int, epsilon: float) -> Tensor:
    """The initial potential that COS finds on ``drive [rho, N, *]`` from ``v [N, *]``."""
    found = v.detach().clone(memory_format=torch.contiguous_format)
    if found.numel():
        thetas, inner = _thresholds(theta, v.shape)
        module().offset_potential(_steps(drive), thetas, inner, iterations, epsilon, found.view(-1))
    return found


def exact_potential(drive: Tensor, v: Tensor, theta: Tensor) -> Tensor:
    """An initial potential with which ``drive [rho, N, *]`` gives the expected count, ``v [N, *]`` where it does."""
    found = v.detach().clone(memory_format=torch.contiguous_format)
    if found.numel():
        thetas, inner = _thresholds(theta, v.shape)
        module().exact_potential(_steps(drive), thetas, inner, found.view(-1))
    return found


def accumulate(drive: Tensor, v: Tensor, theta: Tensor, steps: int) -> Tensor:
    """The count that ``drive [rho, N, *]`` gives from ``v [N, *]``, spread evenly: events ``[steps, N, *]``."""
    events = torch.empty((steps, *v.shape), dtype=drive.dtype)
    if v.numel():
        thetas, inner = _thresholds(theta, v.shape)
        start = v.detach().contiguous().view(-1)
        module().accumulate(_steps(drive), thetas, inner, v[0].numel(), start, events.flatten(1))
    return events
