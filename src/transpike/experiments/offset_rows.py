"""Rows about offset spikes (COS, Table 3, Table S2, Fig. 5): what a recipe asks for, and what a record holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transpike.evaluation.offsets import Offsets, SiteOffsets, iterated_schedules, offset_spikes
from transpike.network.spiking import SpikingNetwork
from transpike.schedules import AccumulateThenFire
from transpike.schedules.contract import MOST_STEPS
from transpike.serialization.environment import Environment
from transpike.serialization.fields import check_count, check_fields

_SITES = ("input", "output", "constrained")


@dataclass(frozen=True)
class PublishedOffsets:
    """What a paper prints about offset spikes, in percent where it is a ratio.

    Attributes:
        source: which tables and figures.
        ratio: neurons of the output layer without offset, by schedule: ``plain``, ``cos:1``, ...
        mse: their mean squared offset.
        sites: by layer in order: ``input`` ratio, ``output`` ratio, and ``constrained``, the latter with right inputs.
    """

    source: str = ""
    ratio: Mapping[str, float] = field(default_factory=dict)
    mse: Mapping[str, float] = field(default_factory=dict)
    sites: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ratio", "mse"):
            object.__setattr__(self, name, {str(key): float(value) for key, value in getattr(self, name).items()})
        object.__setattr__(self, "sites", {key: tuple(map(float, values)) for key, values in self.sites.items()})
        shares = [*self.ratio.values(), *(value for values in self.sites.values() for value in values)]
        if not all(0 <= value <= 100 for value in shares) or any(value < 0 for value in self.mse.values()):
            raise ValueError("published ratios must be percentages, and squared errors not negative")
        if not set(self.sites) <= set(_SITES) or len({len(values) for values in self.sites.values()}) > 1:
            raise ValueError(f"published sites take {', '.join(_SITES)}, with a number for every layer")
        if (self.ratio or self.mse or self.sites) and not self.source:
            raise ValueError("published numbers need their source")


@dataclass(frozen=True)
class OffsetRow:
    """Offset spikes of one network after rho steps, without and with COS.

    Attributes:
        label: what the row is called.
        network: a training's name.
        probe_steps: rho, L of the network in the paper.
        iterations: COS with 1 .. so many iterations.
        images: test images, see `transpike.data.test_images`.
        published: what the paper prints.
    """

    label: str
    network: str
    probe_steps: int = 4
    iterations: int = 4
    images: str = "all"
    published: PublishedOffsets = field(default_factory=PublishedOffsets)

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("probe_steps", self.probe_steps, most=MOST_STEPS)
        check_count("iterations", self.iterations, 0)
        unknown = (set(self.published.ratio) | set(self.published.mse)) - set(
            iterated_schedules(self.probe_steps, self.iterations)
        )
        if unknown:
            raise ValueError(
                f"row {self.label!r} has published numbers of {sorted(unknown)}, which it does not measure"
            )


@dataclass(frozen=True)
class OffsetResult:
    """What was measured for an `OffsetRow`.

    Attributes:
        row: what was asked for.
        images: how many.
        free: offsets of the network as it runs, by schedule.
        constrained: the same where the inputs of each site are taken as right.
        environment: where and when.
        digest: of network, conversion, images and settings.
    """

    row: OffsetRow
    images: int
    free: Mapping[str, Offsets]
    constrained: Mapping[str, Offsets]
    environment: Environment
    digest: str


OFFSET_KINDS: Mapping[str, type] = {
    cls.__name__: cls for cls in (OffsetResult, OffsetRow, PublishedOffsets, Offsets, SiteOffsets)
}
"""The records that an `OffsetResult` is made of, by name."""


def count_offsets(
    snn: SpikingNetwork, batches: Iterable[Any], row: OffsetRow, *, progress: bool = False
) -> tuple[dict[str, Offsets], dict[str, Offsets]]:
    """Offsets by schedule, as the network runs and with right inputs, which accumulate-then-fire makes.

    Raises:
        ValueError, InputError, DataError: see `offset_spikes`.
    """
    rho = row.probe_steps
    schedules = iterated_schedules(rho, row.iterations)
    free = offset_spikes(snn, batches, schedules, probe_steps=rho, progress=progress)
    feed = AccumulateThenFire(rho)
    return free, offset_spikes(snn, batches, schedules, probe_steps=rho, feed=feed, progress=progress)


def read_offset_row(entry: Mapping[str, Any]) -> OffsetRow:
    """A table ``[[offsets]]`` of a recipe.

    Raises:
        TypeError, ValueError: a field is unknown, missing or refused.
    """
    published = PublishedOffsets(**entry.get("published", {}))
    return replace(OffsetRow(**{key: value for key, value in entry.items() if key != "published"}), published=published)
