"""Pictures of activations against the staircase of the spiking network (SlipReLU paper, figure 1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from transpike.activations import ActivationSettings, SlipReLU
from transpike.errors import needs_extra
from transpike.functional import rate_activation, uniform_error
from transpike.report.offset_plots import write_figure

_POINTS = 6001
_LOW, _HIGH = -0.25, 1.5


def activation_curve(settings: ActivationSettings, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """An activation, and what T steps of constant drive send, in thresholds.

    Args:
        settings: of the activation; where its threshold starts makes no difference.
        x: pre-activations in thresholds.
        steps: T.

    Returns:
        f(x) and Q(x), of the shape of ``x``.
    """
    activation = settings.build().eval().to(x.dtype)
    with torch.no_grad():
        theta = activation.threshold
        return activation(x * theta) / theta, rate_activation(x, 1.0, steps, activation.shift)


def plot_activations(activations: Mapping[str, ActivationSettings], steps: int, path: Path) -> None:
    """Draws every activation against the mean output of its spiking neuron, with the error between them shaded.

    The title of a panel has the mean absolute error for a uniform pre-activation between 0 and the threshold.

    Args:
        activations: by label.
        steps: T.
        path: the picture, ``*.png``, ``*.svg`` or ``*.pdf``.
    """
    with needs_extra("plots", "a picture"):
        from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(activations), 4.2), layout="constrained")
    panels = figure.subplots(1, len(activations), sharey=True, squeeze=False)[0]
    x = torch.linspace(_LOW, _HIGH, _POINTS, dtype=torch.float64)
    for axes, (label, settings) in zip(panels, activations.items(), strict=True):
        ann, spiking = activation_curve(settings, x, steps)
        axes.fill_between(x, ann, spiking, color="#d9a441", alpha=0.45, linewidth=0, label="error")
        axes.plot(x, x.clamp_min(0.0), color="#999999", linestyle=":", linewidth=1.2, label="ReLU")
        axes.plot(x, spiking, color="#2e6da4", linewidth=1.6, label=f"spiking, T = {steps}")
        axes.plot(x, ann, color="#b03a2e", linewidth=1.6, linestyle="--", label="ANN")
        within = "" if mean_error(settings, steps) is None else f"\nmean error {mean_error(settings, steps):.4f} θ"
        axes.set_title(f"{label}{within}", fontsize=9)
        axes.set_xlabel("pre-activation z / θ")
        axes.set_ylim(-0.1, 1.4)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("output / θ")
    panels[0].legend(fontsize=8, loc="upper left")
    write_figure(figure, path)


def mean_error(settings: ActivationSettings, steps: int) -> float | None:
    """The mean absolute error in thresholds for a uniform z in [0, theta]; None for activations of other families."""
    if not isinstance(settings, SlipReLU):
        return None
    given = {"shift": settings.shift, "ramp_shift": settings.ramp_shift}
    return uniform_error(settings.levels, settings.slope, steps, **given)[1]
