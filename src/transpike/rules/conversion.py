"""A conversion as one record: the rules that set a network's numbers, its neuron and the schedule they are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from transpike.neurons import IF, EventKind, Neuron
from transpike.rules.contract import (
    BlockCorrection,
    Correction,
    Part,
    PerChannel,
    PerLayer,
    PotentialRule,
    SpikingThresholdRule,
    ThresholdRule,
)
from transpike.rules.quantisation import Quantisation, threshold_on_grid
from transpike.schedules import Plain, Schedule
from transpike.serialization.fields import ADDED


@dataclass(frozen=True)
class Conversion:
    """How a trained network becomes a spiking one, and how that one runs.

    A network keeps the record that it was converted by. Its schedule is what runs without a schedule of their own use,
    and what its corrections were made for.

    Attributes:
        threshold: sets the thresholds of ReLU sites, and the full scales of sites of other functions, from data. None:
            trained thresholds and the ceilings of clipped ReLUs are taken; others get the 99.9 percentile per channel.
        potential: sets v(0). None: what was trained, else theta / 2.
        corrections: run one after the other, under ``schedule``, on calibration data; one that changes weights is last.
        neuron: the model of all neurons.
        schedule: how the sites run in time.
        quantise: how the numbers are put on grids, so that sums are exact; None leaves them as they are. It is done
            before the corrections, but behind those that set thresholds or weights; what later ones set is rounded.

    Raises:
        ValueError: something is no part of its kind; a correction fits neither the neuron nor the schedule; or the
            schedule's events have no place on a grid.
    """

    threshold: ThresholdRule | SpikingThresholdRule | None = None
    potential: PotentialRule | None = None
    corrections: tuple[Correction | BlockCorrection, ...] = ()
    neuron: Neuron = field(default_factory=IF)
    schedule: Schedule = field(default_factory=Plain)
    quantise: Quantisation | None = field(default=None, metadata=ADDED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "corrections", tuple(self.corrections))
        _check("threshold", self.threshold, (ThresholdRule, SpikingThresholdRule, type(None)), "a threshold rule")
        _check("potential", self.potential, (PotentialRule, type(None)), "a rule for initial potentials")
        _check("neuron", self.neuron, (Neuron,), "a neuron such as IF()")
        _check("schedule", self.schedule, (Schedule,), "a schedule such as Plain()")
        granularity = getattr(self.threshold, "granularity", PerLayer())
        _check("the granularity of thresholds", granularity, (PerLayer, PerChannel), "PerLayer() or PerChannel()")
        for part in self.corrections:
            _check("corrections", part, (Correction, BlockCorrection), "corrections")
            reason = part.unsupported_reason(self.schedule)
            if reason is not None:
                raise ValueError(f"{part} cannot be made for {self.schedule}: {reason}")
            if isinstance(part, BlockCorrection) and self.neuron.events is not EventKind.BINARY:
                raise ValueError(f"{part} counts spikes of 0 and 1, which {self.neuron} does not send; use IF()")
        _check("quantise", self.quantise, (Quantisation, type(None)), "Quantisation(...)")
        if self.quantise is not None:
            threshold_on_grid(self.schedule)
        if any(isinstance(part, BlockCorrection) and part.changes_weights for part in self.corrections[:-1]):
            raise ValueError("a part that changes weights must come last: the others compare with the source network")

    @classmethod
    def of(
        cls,
        *parts: Part,
        neuron: Neuron | None = None,
        schedule: Schedule | None = None,
        quantise: Quantisation | None = None,
    ) -> Conversion:
        """A conversion from rules and corrections in any order; corrections keep theirs.

        Raises:
            ValueError: two rules set the same, or something is no part.
        """
        threshold = _only(parts, (ThresholdRule, SpikingThresholdRule), "threshold rule")
        potential = _only(parts, (PotentialRule,), "rule for initial potentials")
        rest = tuple(part for part in parts if part is not threshold and part is not potential)
        return cls(threshold, potential, rest, neuron or IF(), schedule or Plain(), quantise)  # type: ignore[arg-type]

    def __str__(self) -> str:
        corrections = ", ".join(str(part) for part in self.corrections)
        return (
            f"threshold {self.threshold or 'as trained'}; potential {self.potential or 'as trained, else half'}; "
            + (f"corrections {corrections}; " if corrections else "")
            + f"neuron {self.neuron}; schedule {self.schedule}"
            + (f"; quantised to {self.quantise}" if self.quantise is not None else "")
        )

    @property
    def events(self) -> EventKind:
        """What a neuron may send in one step."""
        return self.schedule.events or self.neuron.events

    @property
    def parts(self) -> tuple[Part, ...]:
        """Threshold rule, potential rule and corrections, those that there are."""
        return tuple(part for part in (self.threshold, self.potential, *self.corrections) if part is not None)


class BatchNormMode(Enum):
    """What BatchNorm is while a converted network is trained through time.

    ``FOLDED``: part of the weights, as the conversion left it; where it stayed, its statistics are frozen.
    ``TDBN``: threshold-dependent BatchNorm behind the layers, see `transpike.training.batch_norms`.
    """

    FOLDED = "folded"
    TDBN = "tdbn"


@dataclass(frozen=True)
class ThroughTime:
    """How a converted network was trained through time; it goes into the network's file.

    Attributes:
        steps: T.
        epochs: passes through the training set, of which the best on the validation part was kept.
        loss: name of the loss on the outputs.
        distilled: whether it learnt a teacher's logits.
        spike_penalty: weight of the share of synaptic operations in the loss.
        batch_norm: what BatchNorm was meanwhile.
    """

    steps: int
    epochs: int
    loss: str
    distilled: bool
    spike_penalty: float
    batch_norm: BatchNormMode = field(default=BatchNormMode.FOLDED, metadata=ADDED)

    def __str__(self) -> str:
        return (
            f"trained through time at T = {self.steps} ({self.epochs} epochs, {self.loss}"
            + (", distilled" if self.distilled else "")
            + (f", spike penalty {self.spike_penalty:g}" if self.spike_penalty else "")
            + (", tdBN" if self.batch_norm is BatchNormMode.TDBN else "")
            + ")"
        )


def _check(name: str, value: object, kinds: tuple[type, ...], wanted: str) -> None:
    if not isinstance(value, kinds):
        raise ValueError(f"{name} takes {wanted}, not {value!r}")


def _only(parts: tuple[Part, ...], kinds: tuple[type, ...], name: str) -> Part | None:
    found = [part for part in parts if isinstance(part, kinds)]
    if len(found) > 1:
        raise ValueError(f"give at most one {name}, got {found}")
    return found[0] if found else None
