"""The integrate-and-fire kernel in Triton: all time-steps of a block of neurons in one launch on a GPU.

Potentials stay in registers from step to step, so that a run reads every current once and writes every event once.
Triton's interpreter (``TRITON_INTERPRET=1``) runs the same kernel without a GPU, for tests.
"""

from __future__ import annotations

import importlib.util
import math
import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

_BLOCK = 1024
"""Neurons per program."""


@cache
def _kernel() -> Any:
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def integrate_fire_kernel(  # type: ignore[no-untyped-def]
        drive,
        v,
        theta,
        events,
        after,
        neurons,
        step_stride,
        channels,
        inner,
        steps,
        soft_reset: tl.constexpr,
        block: tl.constexpr,
    ):
        place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = place < neurons
        threshold = tl.load(theta + place // inner % channels, mask=inside, other=1.0)
        potential = tl.load(v + place, mask=inside, other=0.0)
        current, event = place, place
        for _ in range(steps):
            potential += tl.load(drive + current, mask=inside, other=0.0)
            fires = potential >= threshold
            tl.store(events + event, fires.to(potential.dtype), mask=inside)
            if soft_reset:
                potential = tl.where(fires, potential - threshold, potential)
            else:
                potential = tl.where(fires, 0.0, potential)
            current += step_stride
            event += neurons
        tl.store(after + place, potential, mask=inside)

    return integrate_fire_kernel


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernel, which needs no GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def unsupported_reason(drive: Tensor, *others: Tensor) -> str | None:
    """Why the Triton kernel cannot run these currents with these potentials and thresholds; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton, which PyTorch's builds for CUDA bring, is not installed"
    if drive.device.type != "cuda" and not interpreted():
        return f"it runs on a GPU, the currents are on {drive.device}"
    if drive.dtype not in (torch.float16, torch.float32, torch.float64):
        return f"it takes float16, float32 and float64, the currents are {drive.dtype}"
    if any(tensor.dtype != drive.dtype for tensor in others):
        return f"it takes one type, {drive.dtype} currents met {[str(tensor.dtype) for tensor in others]}"
    return None


def require(drive: Tensor, *others: Tensor) -> None:
    """Refuses what the Triton kernel cannot run.

    Raises:
        RuntimeError: with the reason.
    """
    reason = unsupported_reason(drive, *others)
    if reason is not None:
        raise RuntimeError(f"the Triton kernel was asked for by name, but {reason}; use KernelPreference.AUTO")


def integrate_fire(drive: Tensor, v: Tensor, theta: Tensor, soft_reset: bool) -> tuple[Tensor, Tensor]:
    """Same contract and same spikes as `transpike.kernels.reference.integrate_fire`."""
    events = torch.empty(drive.shape, dtype=drive.dtype, device=drive.device)
    after = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    neurons = v.numel()
    if neurons:
        currents = drive if drive[0].is_contiguous() else drive.contiguous()
        thresholds, channels, inner = _thresholds(theta, v.shape)
        _kernel()[(math.ceil(neurons / _BLOCK),)](
            *(currents, v.contiguous(), thresholds, events, after),
            *(neurons, currents.stride(0), channels, inner),
            steps=len(drive),
            soft_reset=soft_reset,
            block=_BLOCK,
        )
    return events, after


def _thresholds(theta: Tensor, shape: torch.Size) -> tuple[Tensor, int, int]:
    """Thresholds in their order, how many there are before they repeat, and how many neighbours share one."""
    if theta.numel() == 1:
        return theta.reshape(1), 1, 1
    if theta.dim() == len(shape) - 1 and theta.numel() == theta.shape[0]:
        return theta.reshape(-1).contiguous(), len(theta), math.prod(shape[2:])
    return theta.expand(shape).reshape(-1).contiguous(), math.prod(shape), 1
