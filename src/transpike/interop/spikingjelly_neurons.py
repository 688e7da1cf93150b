"""SpikingJelly modules that compute what transpike's do; imported only where that is installed, 2.0 or newer."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based import base, neuron
from torch import Tensor, fx, nn

Tensors = tuple[Tensor, ...]
States = tuple[Any, ...]


class ThresholdIFNode(neuron.IFNode):  # type: ignore[misc]
    """`IFNode` with thresholds per layer or channel, an initial potential, and a constant current, all stored.

    ``u = v + x + current``, a spike where ``u >= v_threshold``, then ``u - v_threshold`` (``v_reset=None``) or
    ``v_reset``. ``functional.reset_net`` puts the potential back to ``v_init``. The surrogate is a function of
    ``(u - v_threshold) / v_threshold``.

    Args:
        v_threshold: a scalar, or ``[C, 1, ...]`` to broadcast over ``[N, C, *]``.
        v_init: potential before the first step, broadcastable in the same way.
        current: what is added to the input in every step; None for nothing.
        v_reset: None, or the potential after a spike.
        surrogate_function: derivative of the spike.
    """

    v_threshold: Tensor
    v_init: Tensor
    current: Tensor | None

    def __init__(
        self,
        v_threshold: Tensor,
        v_init: Tensor,
        current: Tensor | None,
        v_reset: float | None,
        surrogate_function: Any,
    ) -> None:
        super().__init__(v_reset=v_reset, surrogate_function=surrogate_function)
        del self.v_threshold  # a number in IFNode
        self.register_buffer("v_threshold", v_threshold.detach().clone())
        self.register_buffer("v_init", v_init.detach().clone())
        self.register_buffer("current", None if current is None else current.detach().clone())
        self.set_reset_value("v", 0.0)  # a number stands for "not begun": the shape of a batch is not known
        self.v = 0.0

    def materialize_states(self, inputs: Tensors, states: States, step_mode: str) -> States:
        """The potential as ``[N, *]``, ``v_init`` at the first step and for another shape."""
        x = inputs[0][0] if step_mode == "m" else inputs[0]
        v = states[0]
        if not isinstance(v, Tensor) or v.shape != x.shape:
            v = self.v_init.expand_as(x)
        return (v.to(x), *states[1:])

    def single_step_functional_forward(self, inputs: Tensors, states: States, **_: Any) -> tuple[Tensors, States]:
        """One step: ``(x [N, *],), (v,) -> (spikes,), (v,)``."""
        x = inputs[0] if self.current is None else inputs[0] + self.current
        u = states[0] + x
        spikes = self.surrogate_function((u - self.v_threshold) / self.v_threshold)
        fired = spikes.detach() if self.detach_reset else spikes
        if self.v_reset is None:
            return (spikes,), (self.apply_soft_reset(u, fired, self.v_threshold),)
        return (spikes,), (self.apply_hard_reset(u, fired, self.v_reset),)

    def multi_step_functional_forward(self, inputs: Tensors, states: States, **kwargs: Any) -> tuple[Tensors, States]:
        """All steps, one after the other: the fused kernels of `IFNode` take one number for a threshold."""
        return base.MemoryModule.multi_step_functional_forward(self, inputs, states, **kwargs)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The thresholds, for printing."""
        thetas = self.v_threshold.numel()
        return f"{thetas} threshold{'s' * (thetas > 1)}, v_reset={self.v_reset}, step_mode={self.step_mode}"


class RunningMaxPool(base.MemoryModule):  # type: ignore[misc]
    """Max-pooling of running sums: sends by how much the maximum of the sums has grown.

    Args:
        pool: max-pooling of ``[N, *]``.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool
        self.register_memory("total", 0.0)

    def materialize_states(self, inputs: Tensors, states: States, step_mode: str) -> States:
        """The running sum, zero at the first step and for another shape."""
        x = inputs[0][0] if step_mode == "m" else inputs[0]
        total = states[0]
        return (total.to(x) if isinstance(total, Tensor) and total.shape == x.shape else torch.zeros_like(x),)

    def single_step_functional_forward(self, inputs: Tensors, states: States, **_: Any) -> tuple[Tensors, States]:
        """One step: ``(x [N, *],), (total,) -> (growth,), (total,)``."""
        total = states[0] + inputs[0]
        return (self.pool(total) - self.pool(states[0]),), (total,)


class SpikingJellyNetwork(nn.Module, base.StepModule):  # type: ignore[misc]
    """A network of SpikingJelly's neurons and the layers of the source model, in its names.

    In step mode ``s`` a call is one time-step: ``[N, *]`` in, the currents of the answer ``[N, *]`` out. In step mode
    ``m`` a call is all steps, ``[T, N, *]`` in and out. The mean over the steps is the answer.

    Args:
        network: its graph; the first argument is the number of steps that are folded into the batch, or None.
    """

    def __init__(self, network: fx.GraphModule) -> None:
        super().__init__()
        self.network = network
        self.step_mode = "s"

    def forward(self, *inputs: Tensor) -> Any:
        """See the class."""
        if self.step_mode == "s":
            return self.network(None, *inputs)
        return self.network(len(inputs[0]), *(each.flatten(0, 1) for each in inputs))


def into_time(value: Tensor, steps: int | None, dim: int) -> Tensor:
    """A folded value as ``[T, N, *]``, or one step as ``[N, *]``, from where ``dim`` holds the batch."""
    value = value.movedim(dim, 0)
    return value if steps is None else value.reshape(steps, -1, *value.shape[1:])


def out_of_time(value: Tensor, steps: int | None, dim: int) -> Tensor:
    """The inverse of `into_time`."""
    value = value if steps is None else value.flatten(0, 1)
    return value.movedim(0, dim)
