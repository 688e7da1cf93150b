"""A site: one activation call that becomes one population of neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transpike.activations import SlipActivation
from transpike.neurons import SiteParameters


class Site(nn.Module):
    """Stands where an activation stood and carries the parameters of its neurons.

    Called as a module it computes the source network's activation, so the graph it stands in is still the ANN.

    Attributes:
        activation: ``nn.ReLU``, ``nn.Hardtanh(0, ceiling)`` or `SlipActivation`.
        theta: firing threshold, a scalar or ``[C, 1, ...]`` to broadcast over ``[N, C, *]``.
        v_init: initial membrane potential, broadcastable in the same way, or per neuron ``[C, *]``, or per sample
            and neuron ``[N, C, *]``.
    """

    theta: nn.Parameter
    v_init: nn.Parameter

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        trained = activation if isinstance(activation, SlipActivation) else None
        theta = torch.ones(()) if trained is None else trained.threshold.detach().clone()
        shift = 0.0 if trained is None else trained.config.shift
        self.register_parameter("theta", nn.Parameter(theta, requires_grad=False))
        self.register_parameter("v_init", nn.Parameter(shift * theta, requires_grad=False))

    @property
    def trained(self) -> bool:
        """Whether the threshold was trained with the network."""
        return isinstance(self.activation, SlipActivation)

    @property
    def ceiling(self) -> float | None:
        """The value that a clipped ReLU never exceeds, else None."""
        return float(self.activation.max_val) if isinstance(self.activation, nn.Hardtanh) else None

    @property
    def parameters_of_neurons(self) -> SiteParameters:
        """Threshold and initial potential, as neurons and schedules read them."""
        return SiteParameters(self.theta, self.v_init)

    def set_threshold(self, theta: Tensor) -> None:
        """Sets the threshold.

        Raises:
            ValueError: a threshold is not a positive finite number.
        """
        if not bool((torch.isfinite(theta) & (theta > 0)).all()):
            raise ValueError(f"thresholds must be positive and finite, got {theta.flatten()[:8].tolist()}")
        self.theta = nn.Parameter(theta.detach().to(self.theta), requires_grad=False)

    def set_initial_potential(self, v_init: Tensor) -> None:
        """Sets the initial membrane potential.

        Raises:
            ValueError: a potential is not finite.
        """
        if not bool(torch.isfinite(v_init).all()):
            raise ValueError("initial potentials must be finite")
        self.v_init = nn.Parameter(v_init.detach().to(self.v_init), requires_grad=False)

    def clipped(self, z: Tensor) -> Tensor:
        """``clip(z, 0, theta)``: what the neurons' mean output tends to as T grows, for a constant drive."""
        return torch.minimum(z.clamp_min(0.0), self.theta)

    def forward(self, z: Tensor) -> Tensor:
        """The source network's activation."""
        return self.activation(z)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The thresholds, for printing."""
        kind = "per layer" if self.theta.dim() == 0 else f"{self.theta.numel()} thresholds"
        return f"theta {kind}, mean {self.theta.mean().item():.4g}"
