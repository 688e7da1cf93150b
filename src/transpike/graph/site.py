"""A site: one activation call that becomes one population of neurons."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transpike.activations import TrainedActivation
from transpike.neurons import SiteParameters


class Site(nn.Module):
    """Stands where an activation stood and carries the parameters of its neurons.

    Called as a module it computes the source network's activation, so the graph it stands in is still the ANN.

    Attributes:
        activation: ``nn.ReLU``, ``nn.Hardtanh(0, ceiling)`` or `TrainedActivation`.
        theta: firing threshold, a scalar or ``[C, 1, ...]`` to broadcast over ``[N, C, *]``.
        v_init: initial membrane potential, broadcastable in the same way, or per neuron ``[C, *]``, or per sample
            and neuron ``[N, C, *]``.
        bias: current added to the drive, which the source network does not have: a scalar zero for none, or
            ``[B, C or 1, ...]`` whose row t-1 is added in step t, the last row in all steps after B.
        population: shape of one sample's neurons, for checking what is set; None until it is known.
        layout: which dimension holds the batch, and how many rows of it each sample has.
        unit: what the number 1 is in the source network, where the network is quantised, like theta; else None.
        grid: the power of two of which potentials and biases are multiples, where it is quantised, like theta.
    """

    theta: nn.Parameter
    v_init: nn.Parameter
    bias: nn.Parameter
    unit: Tensor | None
    grid: Tensor | None

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.population: tuple[int, ...] | None = None
        self.layout = (0, 1)
        trained = activation if isinstance(activation, TrainedActivation) else None
        theta = torch.ones(()) if trained is None else trained.threshold.detach().clone()
        shift = 0.0 if trained is None else trained.shift
        self.register_parameter("theta", nn.Parameter(theta, requires_grad=False))
        self.register_parameter("v_init", nn.Parameter(shift * theta, requires_grad=False))
        self.register_parameter("bias", nn.Parameter(torch.zeros_like(theta), requires_grad=False))
        self.register_buffer("unit", None)
        self.register_buffer("grid", None)

    @property
    def trained(self) -> bool:
        """Whether the threshold was trained with the network."""
        return isinstance(self.activation, TrainedActivation)

    @property
    def ceiling(self) -> float | None:
        """The value that a clipped ReLU of the source never exceeds, else None."""
        return float(self.activation.max_val) if isinstance(self.activation, nn.Hardtanh) else None

    @property
    def parameters_of_neurons(self) -> SiteParameters:
        """Threshold and initial potential, as neurons and schedules read them."""
        return SiteParameters(self.theta, self.v_init)

    def set_threshold(self, theta: Tensor) -> None:
        """Sets the threshold: a scalar, or one value per channel as ``[C]`` or ``[C, 1, ...]``.

        Raises:
            ValueError: a threshold is not a positive finite number in the network's precision, or the shape is another;
                or the network is quantised.
        """
        if self.grid is not None:
            raise ValueError("a quantised network's thresholds are powers of two: set others before tp.quantise")
        theta = theta.detach().to(self.theta)
        if not bool((torch.isfinite(theta) & (theta > 0)).all()):
            raise ValueError(
                f"thresholds must be positive and finite in {theta.dtype}, got {theta.flatten()[:8].tolist()}"
            )
        if self.population is not None and theta.dim() > 0:
            channels = self.channel_shape(self.population)
            number = max(channels)
            if theta.numel() != number or tuple(theta.shape) not in ((number,), channels):
                raise ValueError(
                    f"a population of shape {self.population} takes one threshold, or {number} (one per channel) "
                    f"as [{number}] or {list(channels)}; got shape {list(theta.shape)}"
                )
            theta = theta.reshape(channels)
        self.theta = nn.Parameter(theta, requires_grad=False)

    def channel_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one threshold per channel, for a population of this shape."""
        return (shape[0], *[1] * (len(shape) - 1))

    def measured(self, drive: Tensor, value: Tensor) -> Tensor:
        """What thresholds are set from: the drive ``[N, C, *]`` of the ANN, whose activation is ``value``."""
        return self.batch_first(drive)

    def batch_first(self, value: Tensor) -> Tensor:
        """A value with the dimension that holds the batch in front."""
        return value.movedim(self.layout[0], 0)

    def batch_back(self, value: Tensor) -> Tensor:
        """The inverse of `batch_first`."""
        return value.movedim(0, self.layout[0])

    def set_initial_potential(self, v_init: Tensor) -> None:
        """Sets the initial membrane potential: a scalar, per channel ``[C]``, per neuron, or per sample and neuron.

        Raises:
            ValueError: a potential is not finite, or the shape is none of these.
        """
        v_init = v_init.detach().to(self.v_init)
        if not bool(torch.isfinite(v_init).all()):
            raise ValueError("initial potentials must be finite")
        if self.population is not None and v_init.dim() > 0:
            shape = self.population
            if v_init.dim() == 1 and v_init.shape[0] == shape[0]:
                v_init = v_init.reshape(-1, *[1] * (len(shape) - 1))
            inner = tuple(v_init.shape[-len(shape) :])
            fits = v_init.numel() > 0 and v_init.dim() in (len(shape), len(shape) + 1) and inner[0] in (1, shape[0])
            if not fits or any(size not in (1, wanted) for size, wanted in zip(inner[1:], shape[1:], strict=True)):
                raise ValueError(
                    f"a population of shape {shape} takes one initial potential, [{shape[0]}] (one per channel), "
                    f"{list(shape)} (per neuron) or [N, {', '.join(map(str, shape))}]; got shape {list(v_init.shape)}"
                )
        self.v_init = nn.Parameter(self.on_grid(v_init), requires_grad=False)

    def set_bias(self, bias: Tensor) -> None:
        """Sets the current that is added to the drive, in its units.

        Args:
            bias: the same at every step: a scalar, per channel ``[C]`` or ``[C, 1, ...]``, or per neuron ``[C, *]``; or
                with the steps in front, ``[B, C, 1, ...]`` or ``[B, C, *]``.

        Raises:
            ValueError: a value is not finite, or the shape is none of these.
        """
        bias = bias.detach().to(self.bias)
        if not bool(torch.isfinite(bias).all()):
            raise ValueError("biases must be finite")
        shape = self.population
        if shape is None:
            raise ValueError("the population of this site is not known; set biases of a converted network")
        if bias.dim() <= 1:
            bias = bias.reshape(-1, *[1] * (len(shape) - 1))
        if bias.dim() == len(shape):
            bias = bias.unsqueeze(0)
        sizes = zip(bias.shape[1:], shape, strict=False)
        if bias.dim() != len(shape) + 1 or not bias.shape[0] or any(size not in (1, wanted) for size, wanted in sizes):
            raise ValueError(
                f"a population of shape {shape} takes one bias, [{shape[0]}] (one per channel), {list(shape)} (per "
                f"neuron), or those with the steps in front; got shape {list(bias.shape)}"
            )
        self.bias = nn.Parameter(self.on_grid(bias), requires_grad=False)

    def set_grid(self, unit: Tensor, grid: Tensor) -> None:
        """Sets the unit and the grid of a quantised network's site, each like its threshold.

        Raises:
            ValueError: a unit is not positive, a grid no power of two, or the shape is another.
        """
        unit, grid = unit.detach().to(self.theta), grid.detach().to(self.theta)
        if unit.shape != self.theta.shape or grid.shape != self.theta.shape:
            raise ValueError(f"units and grids need the shape {list(self.theta.shape)} of the thresholds")
        powers = torch.frexp(grid).mantissa == 0.5
        if not bool((torch.isfinite(unit) & (unit > 0) & torch.isfinite(grid) & powers).all()):
            raise ValueError("units must be positive, grids powers of two")
        self.unit, self.grid = unit, grid

    def on_grid(self, values: Tensor) -> Tensor:
        """The nearest multiples of the grid of a quantised network; elsewhere the values themselves."""
        return values if self.grid is None else torch.round(values / self.grid) * self.grid

    @property
    def steady(self) -> bool:
        """Whether the bias is the same at every step."""
        return self.bias.dim() == 0 or self.bias.shape[0] == 1

    def biased(self, drive: Tensor, start: Tensor, *, once: bool = False) -> Tensor:
        """The drive ``[S, N, *]`` with the bias of these steps.

        Args:
            drive: what arrives.
            start: the number of steps before them.
            once: add the first step's bias in the first step, and nothing later; ``start`` is 0.
        """
        if self.bias.dim() == 0:
            return drive
        if once:
            return torch.cat([drive[:1] + self.bias[0], drive[1:]])
        if self.steady:
            return drive + self.bias
        steps = start + torch.arange(drive.shape[0], device=drive.device)
        return drive + self.bias[steps.clamp_max(self.bias.shape[0] - 1)].unsqueeze(1)

    def mean_bias(self, steps: int) -> Tensor:
        """The mean of the biases of the first T steps, to add to ``[N, *]``."""
        if self.bias.dim() == 0 or self.steady:
            return self.bias if self.bias.dim() == 0 else self.bias[0]
        rows = torch.arange(steps, device=self.bias.device).clamp_max(self.bias.shape[0] - 1)
        return self.bias[rows].mean(0)

    def clipped(self, z: Tensor, most_events: int = 1) -> Tensor:
        """``clip(z + b, 0, theta)``: what the neurons' mean output tends to as T grows, for a constant drive.

        ``b`` is the bias of the last step.

        Args:
            z: pre-activation ``[N, *]``.
            most_events: the most events that a neuron sends in one step; the limit is that many thresholds.
        """
        last = self.bias if self.bias.dim() == 0 else self.bias[-1]
        clipped = torch.minimum((self.batch_first(z) + last).clamp_min(0.0), most_events * self.theta)
        return self.batch_back(clipped)

    def quantised(self, z: Tensor, steps: int) -> Tensor:
        """The mean output of T steps of neurons that send ``clip(floor((v_init + T u) / theta), 0, T)`` spikes.

        ``u`` is ``z`` with the mean bias of the T steps. Where some but not all of the spikes are sent, the gradient
        takes the floor as the identity, so thresholds learn as in learned step size quantisation (Esser et al. 2020);
        v_init moves in proportion to theta.
        """
        share = (self.v_init / self.theta).detach()
        count = steps * (z + self.mean_bias(steps)) / self.theta + share
        whole = torch.floor(count).detach()
        inside = (whole > 0) & (whole < steps)
        return self.theta / steps * torch.where(inside, count + (whole - count).detach(), whole.clamp(0, steps))

    def forward(self, z: Tensor) -> Tensor:
        """The source network's activation."""
        if self.unit is None:
            return self.activation(z)  # type: ignore[no-any-return]
        return self.activation(z * self.unit) / self.unit  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """The thresholds, for printing."""
        kind = "per layer" if self.theta.dim() == 0 else f"{self.theta.numel()} thresholds"
        return f"theta {kind}, mean {self.theta.mean().item():.4g}"
