"""What a neuron model must provide."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from transpike.kernels import KernelPreference
from transpike.serialization.fields import check_fields
from transpike.serialization.words import in_words


class EventKind(Enum):
    """What one neuron may send in one time-step."""

    BINARY = "binary"
    SIGNED = "signed"
    COUNT = "count"


class SiteParameters(NamedTuple):
    """The numbers of one population of neurons.

    Attributes:
        theta: firing threshold, a scalar or per channel, broadcastable to ``[N, *]``.
        v_init: initial membrane potential: scalar, per channel, per neuron, or per sample and neuron.
    """

    theta: Tensor
    v_init: Tensor


class Neuron(ABC):
    """A neuron model: a frozen record with a pure ``run``.

    The state is the membrane potential ``[N, *]``; a model that remembers more overrides `start` and `charge` and puts
    further dimensions behind.
    """

    events: ClassVar[EventKind]

    def __post_init__(self) -> None:
        check_fields(self)

    def __str__(self) -> str:
        from transpike.neurons import NEURONS  # the table knows this module

        return in_words(self, NEURONS)

    @property
    def most_events(self) -> int:
        """The most events of one step: a neuron's mean output is at most this many thresholds."""
        return 1

    def start(self, parameters: SiteParameters, drive: Tensor) -> Tensor:
        """Returns the state before the first step of ``drive [S, N, *]``.

        Raises:
            ValueError: ``v_init`` cannot be broadcast to the population.
        """
        shape = drive.shape[1:]
        try:
            return parameters.v_init.expand(shape)
        except RuntimeError as error:
            raise ValueError(
                f"v_init of shape {tuple(parameters.v_init.shape)} does not fit a population of shape "
                f"{tuple(shape)} (batch first); give a scalar, or one value per channel, neuron, or sample and neuron"
            ) from error

    def charge(self, state: Tensor, current: Tensor) -> Tensor:
        """Adds ``current [N, *]`` to the potential without firing."""
        return state + current

    @abstractmethod
    def run(
        self, drive: Tensor, v: Tensor, parameters: SiteParameters, kernel: KernelPreference
    ) -> tuple[Tensor, Tensor]:
        """Runs all steps: ``drive [S, N, *]`` and the state before -> ``(events [S, N, *], state after)``."""


def check_scan(neuron: Neuron, drive: Tensor, v: Tensor, kernel: KernelPreference) -> None:
    """Checks a run by `transpike.kernels.scan`: there is no other kernel and no derivative of the events.

    Raises:
        RuntimeError: another kernel is asked for by name, or gradients are recorded.
        ValueError: ``v`` is not of the shape of one step of ``drive``.
    """
    if kernel not in (KernelPreference.AUTO, KernelPreference.REFERENCE):
        raise RuntimeError(f"{neuron} has no {kernel.value} kernel; use KernelPreference.AUTO")
    if torch.is_grad_enabled() and drive.requires_grad:
        raise RuntimeError(f"{neuron} has no surrogate derivative; use IF to train, or run under torch.no_grad()")
    if v.shape != drive.shape[1:]:
        raise ValueError(f"v must have the shape {tuple(drive.shape[1:])} of one step, got {tuple(v.shape)}")
