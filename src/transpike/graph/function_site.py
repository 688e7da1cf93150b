"""A site that stands for any function of what arrives: GELU, a gate, LayerNorm, softmax, a product of two values."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor, fx, nn

from transpike.graph.site import Site


class SiteKind(Enum):
    """What a site's neurons compute.

    ``IF``: a ReLU of one drive, by integrate-and-fire neurons. The others need neurons that are programmed:
    ``POINTWISE``: another function of one drive; ``PRODUCT``: a function of several drives, element by element or
    contracted; ``GROUP``: every output depends on a whole group of drives, as in LayerNorm and softmax.
    """

    IF = "if"
    POINTWISE = "pointwise"
    PRODUCT = "product"
    GROUP = "group"

    @property
    def meaning(self) -> str:
        """What such a site follows, in a sentence about it."""
        return {
            SiteKind.IF: "it is a ReLU",
            SiteKind.POINTWISE: "its values are no ReLU's",
            SiteKind.PRODUCT: "it multiplies spiking values",
            SiteKind.GROUP: "it relates spiking values of a group",
        }[self]


class FunctionSite(Site):
    """Neurons that send events whose sum follows a function of the sums of what has arrived.

    Called as a module it computes the function, so the graph it stands in is still the ANN.

    Attributes:
        kind: what it computes.
        limits: between which values the function lies.
        by_row: whether its channels are the first dimension of a sample; else they are the last.
    """

    def __init__(self, function: nn.Module, kind: SiteKind, limits: tuple[float, float], *, by_row: bool) -> None:
        super().__init__(function)
        self.kind = kind
        self.limits = limits
        self.by_row = by_row

    @property
    def ceiling(self) -> float | None:
        """The largest size of a value, if it has one."""
        most = max(abs(limit) for limit in self.limits)
        return most if most < float("inf") else None

    def forward(self, *arguments: object) -> Tensor:
        """The function."""
        return self.activation(*arguments)  # type: ignore[no-any-return]

    def channel_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one threshold per channel."""
        if self.by_row:
            return super().channel_shape(shape)
        return (*[1] * (len(shape) - 1), shape[-1])

    def set_threshold(self, theta: Tensor) -> None:
        """Sets the full scale: a scalar, or one value per channel as ``[C]``, ``[C, 1, ...]`` or as `channel_shape`."""
        per_channel = theta.dim() > 1 and theta.shape[0] == theta.numel()
        super().set_threshold(theta.reshape(-1) if per_channel else theta)

    def set_initial_potential(self, v_init: Tensor) -> None:
        """Refused but for zero: events follow the function's values, and no potential.

        Raises:
            ValueError: it is not zero.
        """
        if bool(v_init.any()):
            raise ValueError(f"a {self.kind.value} site has no initial potential; only its full scale can be set")

    def set_bias(self, bias: Tensor) -> None:
        """Refused but for zero, as `set_initial_potential` is.

        Raises:
            ValueError: it is not zero.
        """
        if bool(bias.any()):
            raise ValueError(f"a {self.kind.value} site has no bias; only its full scale can be set")

    def measured(self, drive: object, value: Tensor) -> Tensor:
        """The size of the function's values, channels first, ``[N, C, *]``: what a threshold must reach."""
        value = self.batch_first(value)
        return (value if self.by_row or value.dim() < 3 else value.movedim(-1, 1)).abs()

    def clipped(self, z: Tensor, most_events: int = 1) -> Tensor:
        """The function's values, as far as events reach them."""
        low, high = self.limits
        limit = most_events * self.theta
        value = torch.maximum(torch.minimum(self.batch_first(z), limit.clamp_max(high)), (-limit).clamp_min(low))
        return self.batch_back(value)

    def extra_repr(self) -> str:
        """The kind and the full scales, for printing."""
        return f"{self.kind.value}, {super().extra_repr()}"


def kind_of(site: nn.Module) -> SiteKind:
    """The kind of any site."""
    return site.kind if isinstance(site, FunctionSite) else SiteKind.IF


def identity() -> nn.Module:
    """A function that sends on what arrives."""
    graph = fx.Graph()
    graph.output(graph.placeholder("value"))
    return fx.GraphModule(nn.Module(), graph)
