"""The torch operator behind which the kernels stand, and the choice between them."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from transpike.kernels import eager, native, reference, triton


class KernelPreference(Enum):
    """Which kernel runs the neurons. A kernel asked for by name is used or raises.

    ``AUTO`` takes the fastest that is there, ``REFERENCE`` the specification (no backward), ``EAGER`` in-place
    torch operators, ``NATIVE`` the compiled kernels (CPU, float32 and float64), ``TRITON`` one kernel for all steps
    (GPU, float16, float32 and float64). All give the same spikes.
    """

    AUTO = "auto"
    REFERENCE = "reference"
    EAGER = "eager"
    NATIVE = "native"
    TRITON = "triton"


class Surrogate(Enum):
    """Derivative that stands in for that of the spike when training through time (`eager` kernel)."""

    TRIANGLE = "triangle"
    RECTANGLE = "rectangle"


_KERNELS = {
    "reference": reference.integrate_fire,
    "eager": eager.integrate_fire,
    "native": native.integrate_fire,
    "triton": triton.integrate_fire,
}


def runs_native(kernel: KernelPreference, drive: Tensor, *others: Tensor) -> bool:
    """Whether these currents go to the compiled kernels, with these potentials and thresholds.

    Raises:
        RuntimeError: they were asked for by name and cannot run, or the Triton kernel was, which only fires neurons.
    """
    if kernel is KernelPreference.TRITON:
        raise RuntimeError("the Triton kernel was asked for by name, but this schedule has none; use AUTO")
    if kernel is KernelPreference.NATIVE:
        native.require(drive, *others)
    return kernel is KernelPreference.NATIVE or (kernel is KernelPreference.AUTO and native.usable(drive, *others))


@torch.library.custom_op("transpike::integrate_fire", mutates_args=())
def _integrate_fire(
    drive: Tensor, v: Tensor, theta: Tensor, soft_reset: bool, surrogate: str, kernel: str
) -> tuple[Tensor, Tensor]:
    wanted = KernelPreference(kernel)
    if wanted is KernelPreference.TRITON:
        triton.require(drive, v, theta)
    elif runs_native(wanted, drive, v, theta):
        kernel = "native"
    elif wanted is KernelPreference.AUTO:
        on_gpu = drive.device.type == "cuda" and triton.unsupported_reason(drive, v, theta) is None
        kernel = "triton" if on_gpu else "eager"
    events, v = _KERNELS[kernel](drive, v, theta, soft_reset)
    return events.contiguous(), v.contiguous()  # as the fake promises, whatever the layout of the inputs


@_integrate_fire.register_fake
def _(drive: Tensor, v: Tensor, theta: Tensor, soft_reset: bool, surrogate: str, kernel: str) -> tuple[Tensor, Tensor]:
    return drive.new_empty(drive.shape), v.new_empty(v.shape)


_integrate_fire.register_autograd(eager.backward, setup_context=eager.save_for_backward)


def integrate_fire(
    drive: Tensor,
    v: Tensor,
    theta: Tensor,
    *,
    soft_reset: bool = True,
    surrogate: Surrogate = Surrogate.TRIANGLE,
    kernel: KernelPreference = KernelPreference.AUTO,
) -> tuple[Tensor, Tensor]:
    """Integrate-and-fire over all steps of ``drive`` (SlipReLU paper, eq. 2 to 4).

    Args:
        drive: input current ``[S, N, *]``, S >= 1.
        v: membrane potential before the first step, ``[N, *]``.
        theta: threshold, broadcastable to ``[N, *]``.
        soft_reset: subtract theta after a spike (True) or set the potential to zero (False).
        surrogate: derivative used in the backward pass.
        kernel: which kernel to run.

    Returns:
        ``events [S, N, *]`` of zeros and ones, and the potential after the last step, ``[N, *]``.

    Raises:
        RuntimeError: a kernel was asked for by name and cannot run.
        ValueError: no time-step, ``v`` does not have the shape of one step of ``drive``, or ``theta`` does not
            broadcast to it.
    """
    if drive.dim() < 1 or drive.shape[0] < 1:
        raise ValueError(f"drive needs at least one time-step, got shape {tuple(drive.shape)}")
    if v.shape != drive.shape[1:]:
        raise ValueError(f"v must have the shape {tuple(drive.shape[1:])} of one step, got {tuple(v.shape)}")
    fits = theta.dim() <= v.dim()
    for axis in range(1, min(theta.dim(), v.dim()) + 1):  # a plain loop over sizes: not every dynamo follows others
        fits = fits and (theta.shape[-axis] == 1 or theta.shape[-axis] == v.shape[-axis])
    if not fits:
        raise ValueError(f"theta of shape {tuple(theta.shape)} does not broadcast to a step of {tuple(v.shape)}")
    events, v = _integrate_fire(drive, v, theta, soft_reset, surrogate.value, kernel.value)
    return events, v
